"""genmask segment"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from genmask.commands.inference import Flag, Inference, load
from genmask.commands.output import prepare_output, unique_stem
from genmask.commands.terminal import only_json, progress


@dataclass(frozen=True, kw_only=True)
class Segment(Inference):
    """Find what sentences ask for in pictures: a mask for each picture and text.

    genmask segment photo.jpg --text "the red mug" --text "the table" --output masks

    Writes, for each, STEM.mask.png (lossless, 0 and 255), STEM.overlay.png and STEM.json.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Pictures; each gets every text."""
    text: Annotated[list[str], tyro.conf.UseAppendAction]
    """What to find, in any language."""
    threshold: float = 0.5
    """A pixel is in the mask if its soft mask is greater; in [0, 1)."""
    num_inference_steps: int = 1
    """Euler steps from noise to mask."""
    num_noises: int = 1
    """Average over this many noises: better and slower."""
    decoder: Literal["vae", "linear"] = "vae"
    """From latents to mask; linear needs a model with a mask head."""
    reason: Flag = False
    """Let the model first describe what the text means, and find that."""

    def run(self) -> None:
        if not self.images or not self.text:
            raise ValueError(
                f"Got {len(self.images)} pictures and {len(self.text)} texts, expected at least one of each, "
                'as in genmask segment photo.jpg --text "the red mug"'
            )
        prepare_output(self.output)
        from genmask.images import open_image

        for path in self.images:
            open_image(path)  # a bad picture is refused before the work begins, not in its midst
        records: list[dict[str, Any]] = []
        stems: set[str] = set()
        with only_json(self.json), progress("segment", len(self.images)) as advance:
            pipeline = load(self)
            for paths in self.groups():
                results: Any = pipeline.segment(
                    [path for path in paths for _ in self.text] if len(paths) > 1 else paths[0],
                    self.text * len(paths),
                    threshold=self.threshold,
                    num_inference_steps=self.num_inference_steps,
                    num_noises=self.num_noises,
                    decoder=self.decoder,
                    batch_size=self.batch_size,
                    seed=self.seed,
                    reason=self.reason,
                )
                for (path, text), result in zip(itertools.product(paths, self.text), results, strict=True):
                    files = result.save(self.output, stem=unique_stem(stems, path.stem, text))
                    named = {name: str(file) for name, file in files._asdict().items()}
                    records.append({"image": str(path), **result.to_dict(), "files": named})
                advance(len(paths))
        if self.json:
            print(json.dumps({"model": self.model, "results": records}, indent=2, ensure_ascii=False))
            return
        for record in records:
            said = f" (understood as {record['target']!r})" if self.reason else ""
            found = "nothing found" if record["is_empty"] else f"{record['area_fraction']:.1%} of the picture"
            sure = f"confidence {record['confidence']:.2f}"
            print(f"{record['image']}: {record['text']!r}{said}: {found}, {sure}, {record['files']['mask']}")

    def groups(self) -> list[tuple[Path, ...]]:
        """One text: pictures share a forward pass. Several texts: they share the encoding of a picture."""
        size = max(1, self.batch_size) if len(self.text) == 1 else 1
        return [self.images[start : start + size] for start in range(0, len(self.images), size)]
