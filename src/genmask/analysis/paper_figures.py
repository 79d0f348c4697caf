"""Figures 2, 3, 4, 5 and 7 of the paper, measured and drawn for a model, or for a VAE alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genmask.analysis.components import find_components
from genmask.analysis.densities import tabulate_densities
from genmask.analysis.figures import (
    draw_components,
    draw_densities,
    draw_linear_accuracy,
    draw_samples,
    draw_survival,
    drawing,
    save_figure,
)
from genmask.analysis.material import by_shape
from genmask.analysis.noise import (
    BATCH_SIZE,
    as_pixels,
    decode_noised,
    measure_linear_accuracy,
    measure_survival,
)
from genmask.atomic import save_json
from genmask.data.example import Example
from genmask.evaluation.metrics import IoUTotals
from genmask.latents import LatentCodec
from genmask.pipeline import GenMaskPipeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
"""Noise levels at which Figure 2 shows a mask and a picture."""
SHOWN_MASKS = 8
"""In Figure 3."""

Drawn = tuple["Figure", dict[str, Any]]
"""A figure, and its numbers, ready for JSON."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the figures are made from."""

    codec: LatentCodec
    masks: Sequence[np.ndarray]
    """(h, w) bool, not empty, sides a multiple of 16."""
    pictures: Sequence[np.ndarray]
    """(h, w, 3) uint8, sides a multiple of 16."""
    pipeline: GenMaskPipeline | None
    """None where there is but a VAE: then Figure 7 cannot be drawn."""
    samples: Sequence[Example]
    """Of Figure 7."""
    seed: int
    """Of all noise."""

    def encode(self, arrays: Sequence[np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
        """Batches of latents (B, C, h, w), and of the arrays themselves, (B, 8h, 8w, ...); on the CPU."""
        latents, stacked = [], []
        for rows in by_shape(arrays, BATCH_SIZE):
            batch = [arrays[row] for row in rows]
            with torch.no_grad():
                latents.append(self.codec.encode(as_pixels(batch).to(self.codec.vae.device)).cpu())
            stacked.append(torch.from_numpy(np.stack(batch)))
        return latents, stacked


def survival(material: Material) -> Drawn:
    """Figure 2: masks survive noise that pictures do not."""
    numbers = measure_survival(material.codec, material.masks, material.pictures, material.seed)
    shown = [
        [
            decoded[0].permute(1, 2, 0).numpy()
            for decoded in decode_noised(material.codec, as_pixels([array]), SHOWN_LEVELS, material.seed)
        ]
        for array in (_typical(material.masks), material.pictures[0])
    ]
    return draw_survival(numbers, SHOWN_LEVELS, *shown), asdict(numbers)


def components(material: Material) -> Drawn:
    """Figure 3: one principal component of a mask's latents draws the mask."""
    latents, masks = material.encode(material.masks)
    found = find_components(latents, masks, material.encode(material.pictures)[0])
    same = max(zip(latents, masks, strict=True), key=lambda batch: len(batch[0]))  # one shape for the row
    shown = [mask.numpy() for mask in same[1][:SHOWN_MASKS]]
    first = [plane.numpy() for plane in found.project(same[0][:SHOWN_MASKS])]
    numbers = {
        "mask_variance": found.mask_variance,
        "picture_variance": found.picture_variance,
        "correlation": found.correlation,
    }
    return draw_components(found, shown, first), numbers


def linear_accuracy(material: Material) -> Drawn:
    """Figure 4: a least-squares map of noised latents tells pixels right up to nearly pure noise."""
    numbers = measure_linear_accuracy(*material.encode(material.masks), material.seed)
    return draw_linear_accuracy(numbers), asdict(numbers)


def densities(material: Material) -> Drawn:
    """Figure 5: the densities of the noise level."""
    numbers = tabulate_densities(material.seed)
    return draw_densities(numbers), {name: asdict(density) for name, density in numbers.items()}


def samples(material: Material) -> Drawn:
    """Figure 7: picture, sentence, answer and truth."""
    pipeline = material.pipeline
    assert pipeline is not None
    answers: Any = pipeline.segment(
        [Image.fromarray(example.image) for example in material.samples],
        [example.text for example in material.samples],
        seed=material.seed,
    )
    totals, truths = IoUTotals(), []
    for answer, example in zip(answers, material.samples, strict=True):
        assert example.mask is not None
        totals.add(answer.mask, example.mask, example.ignore)
        truths.append(example.mask)
    rows = [
        {"text": example.text, "source": example.source, "id": example.id, "iou": iou}
        for example, iou in zip(material.samples, totals.ious(), strict=True)
    ]
    return draw_samples(answers, truths), {"samples": rows}


Number = Literal[2, 3, 4, 5, 7]
FIGURES: dict[Number, Callable[[Material], Drawn]] = {
    2: survival,
    3: components,
    4: linear_accuracy,
    5: densities,
    7: samples,
}
"""By its number in the paper."""


def write_figure(number: Number, material: Material, folder: Path) -> list[Path]:
    """Draw a figure of `FIGURES`: `figure-2.png`, `figure-2.svg`, and its numbers as `figure-2.json`.

    Raises:
        ValueError: matplotlib is not installed.
    """
    with drawing():
        figure, numbers = FIGURES[number](material)
        files = save_figure(figure, folder, f"figure-{number}")
    files.append(folder / f"figure-{number}.json")
    save_json(numbers, files[-1])
    return files


def _typical(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The one nearest to a fifth of its picture."""
    return min(masks, key=lambda mask: abs(float(mask.mean()) - 0.2))
