"""genmask convert"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genmask.commands.output import prepare_output


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Assemble the paper-size model from published folders, ready to be trained.

    genmask convert --wan Wan2.1-T2V-1.3B-Diffusers --qwen Qwen2.5-VL-7B-Instruct --output genmask-1.3b
    """

    wan: Path
    """Diffusers folder of Wan-2.1 text-to-video."""
    qwen: Path
    """Transformers folder of Qwen2.5-VL."""
    output: Path
    """New folder for the model."""
    resolution: int = 512
    """Pictures are processed at resolution x resolution pixels, in their own aspect ratio."""
    seed: int = 0
    """Of the one layer that is new."""

    def run(self) -> None:
        prepare_output(self.output)
        from genmask.convert import convert

        folder = convert(self.wan, self.qwen, self.output, resolution=self.resolution, seed=self.seed)
        print(f"{folder}: a model of Wan's and Qwen's weights; it finds nothing before it is trained.")
