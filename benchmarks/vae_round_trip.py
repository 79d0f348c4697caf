"""What a model's VAE keeps of masks and of pictures: encoded and decoded at the size the model works at.

    python benchmarks/vae_round_trip.py --model tiny --photos FOLDER [--samples 200]

Masks: overall and mean IoU at a threshold of 0.5, between samples at the working size. Pictures: the mean over pictures
of the peak signal-to-noise ratio, in dB, 8 bits; and beside it that of each picture's own mean colour, which a VAE that
keeps nothing but that would reach.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from genmask.data.example import Example
from genmask.data.photographs import Photographs
from genmask.data.scenes import Scenes
from genmask.data.transforms import resize_to_area
from genmask.evaluation.metrics import IoUTotals
from genmask.latents import images_to_pixels, mask_to_pixels, pixels_to_soft_mask
from genmask.pipeline import GenMaskPipeline


@torch.no_grad()
def measure(pipe: GenMaskPipeline, examples: Sequence[Example], name: str) -> list[str]:
    """The cells of a row."""
    masks, ratios, flat = IoUTotals(), [], []
    for example in track(examples, name, console=Console(stderr=True)):
        sample = resize_to_area(example, pipe.config.resolution**2, pipe.cell)
        assert sample.mask is not None
        picture = images_to_pixels(torch.from_numpy(sample.image.copy())[None])
        pixels = torch.cat([picture, mask_to_pixels(torch.from_numpy(sample.mask))[None]])
        decoded = pipe.codec.decode(pipe.codec.encode(pixels.to(pipe.device))).cpu()
        masks.add((pixels_to_soft_mask(decoded[1]) > 0.5).numpy(), sample.mask)
        ratios.append(psnr(decoded[0], picture[0]))
        flat.append(psnr(picture[0].mean(dim=(1, 2), keepdim=True), picture[0]))
    cells = [masks.overall_iou(), masks.mean_iou(), np.mean(ratios), np.mean(flat)]
    return [
        name,
        str(len(examples)),
        *(f"{cell:.3f}" for cell in cells[:2]),
        *(f"{cell:.1f}" for cell in cells[2:]),
    ]


def psnr(found: torch.Tensor, truth: torch.Tensor) -> float:
    """In dB, of pixels in [-1, 1]."""
    return float(10 * torch.log10(4 / (found.float() - truth.float()).square().mean()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--photos", type=Path, help="folder of photographs; without it they are left out")
    parser.add_argument("--samples", type=int, default=200, help="of each sort, evenly spread")
    arguments = parser.parse_args()
    pipe = GenMaskPipeline.from_pretrained(arguments.model)
    scenes = Scenes("val", size=pipe.config.resolution)
    rows = [measure(pipe, [scenes[5 * i] for i in range(arguments.samples)], "drawn scenes")]
    if arguments.photos is not None:
        val = Photographs(arguments.photos, "val")
        chosen = np.linspace(0, len(val) - 1, min(arguments.samples, len(val))).astype(int)
        rows.append(measure(pipe, [val[pair] for pair in chosen], "photographs"))
    table = Table("", "samples", "masks: oIoU", "mIoU", "pictures: PSNR, dB", "of their mean colour")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
