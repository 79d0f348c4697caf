"""Ways from latents to a mask: a linear map is fitted to a model, and held against the VAE's decoder."""

from __future__ import annotations

import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmask.analysis.linear_decoder import fit_linear_head
from genmask.analysis.predictions import predict_latents
from genmask.analysis.soft_scores import THRESHOLDS, SoftScores
from genmask.data.example import Example
from genmask.data.transforms import resize_to_area
from genmask.latents import mask_to_pixels, pixels_to_soft_mask, resize_soft_masks
from genmask.loading import read_json
from genmask.mask_head import LinearMaskHead
from genmask.model_folder import MODEL_INDEX
from genmask.objectives import latent_weight
from genmask.pipeline import GenMaskPipeline
from genmask.segmentation import save_json
from genmask.stages import timed
from genmask.thresholds import expected_area

Target = Literal["masks", "predictions"]
Decoder = Callable[[Tensor], Tensor]
"""x0_hat (B, C, h, w) -> soft masks (B, 8h, 8w) in [0, 1]."""
AT_ONCE = 128
"""Examples that are held in memory together."""
LOST = 0.04
"""Share of the targets that are there which `least_area` may take for absent."""


class FittedDecoder(NamedTuple):
    """A linear map, and what a model needs to decide by its soft masks."""

    head: LinearMaskHead
    least_area: float | None
    """Of `GenMaskPipeline`: the expected area that 1 - LOST of the targets of drawn scenes exceed, of which alone it is
    certain what they do not show; None where there is none."""


def fit_decoder(
    pipeline: GenMaskPipeline,
    examples: Iterable[Example],
    target: Target,
    *,
    kernel: int,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None],
) -> FittedDecoder:
    """A linear map for this model.

    Args:
        pipeline: the model.
        examples: with masks; those that it was trained on, so that others are left to measure on.
        target: what it is fitted on: "masks", the latents of the right masks; or "predictions", what the model itself
            makes of picture and sentence. Ignored pixels do not count.
        kernel: see `LinearMaskHead`.
        batch_size: of the networks.
        seed: of the predictions' noise.
        advance: told how many examples are done.
    """
    batches: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
    targets_of_scenes: list[Tensor] = []
    for chunk in _chunks(examples, AT_ONCE):
        small = [_at_processing_size(pipeline, example) for example in chunk]
        if target == "masks":
            latents = [_encode_mask(pipeline, example) for example in small]
        else:
            latents = predict_latents(pipeline, chunk, batch_size=batch_size, seed=seed)
        for x0, example in zip(latents, small, strict=True):
            mask = torch.from_numpy(target_of(example))
            ignore = torch.zeros_like(mask) if example.ignore is None else torch.from_numpy(example.ignore)
            batches[x0.shape].append((x0, mask, ignore))
            if example.source == "scenes" and mask.any():
                targets_of_scenes.append(x0)
        advance(len(chunk))
    columns = [[torch.stack(column) for column in zip(*rows, strict=True)] for rows in batches.values()]
    head = fit_linear_head(
        [latents for latents, _, _ in columns],
        [masks for _, masks, _ in columns],
        kernel=kernel,
        weights=[latent_weight(ignore) for _, _, ignore in columns],
    )
    areas = [expected_area(soft_mask) for soft_mask in _soft_masks(head, targets_of_scenes)]
    return FittedDecoder(head, float(np.quantile(areas, LOST)) if areas else None)


@torch.no_grad()
def _soft_masks(head: LinearMaskHead, latents: Iterable[Tensor]) -> Iterator[np.ndarray]:
    for x0 in latents:
        yield head(x0.unsqueeze(0))[0].sigmoid().numpy()


def decoders_of(pipeline: GenMaskPipeline, head: LinearMaskHead | None) -> dict[str, Decoder]:
    """The VAE's decoder and, where there is one, a linear one: "vae" and "linear"."""
    decoders: dict[str, Decoder] = {"vae": lambda x0_hat: pixels_to_soft_mask(pipeline.codec.decode(x0_hat))}
    if head is not None:
        placed = head.to(pipeline.device)
        decoders["linear"] = lambda x0_hat: placed(x0_hat).float().sigmoid()
    return decoders


@torch.no_grad()
def decode_examples(
    pipeline: GenMaskPipeline,
    decoders: Mapping[str, Decoder],
    examples: Iterable[Example],
    *,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None],
) -> Iterator[tuple[Example, dict[str, tuple[np.ndarray, float]]]]:
    """Each example with what every decoder makes of it: a soft mask at the example's own size, and the seconds taken.

    The network is asked once for all decoders, which take turns. Few examples are in memory at a time.
    """
    for chunk in _chunks(examples, AT_ONCE):
        predicted = predict_latents(pipeline, chunk, batch_size=batch_size, seed=seed)
        for x0_hat, example in zip(predicted, chunk, strict=True):
            batch, found = x0_hat.unsqueeze(0).to(pipeline.device), {}
            for name, decode in decoders.items():
                soft, seconds = timed(partial(decode, batch), pipeline.device)
                soft_mask = resize_soft_masks(soft.cpu(), *example.image.shape[:2])[0].numpy()
                found[name] = soft_mask, seconds
            yield example, found
        advance(len(chunk))


def compare_decoders(
    pipeline: GenMaskPipeline,
    head: LinearMaskHead,
    examples: Iterable[Example],
    *,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """The scores of the model's soft masks, "vae" and "linear" (see `SoftScores.report`), ready for JSON.

    Each example is counted at its own size, and the network is asked once for both decoders. "times_as_fast" is the
    ratio of the medians of their times for one mask, in which they take turns.
    """
    decoders = decoders_of(pipeline, head)
    scores = {name: SoftScores() for name in decoders}
    times: dict[str, list[float]] = {name: [] for name in decoders}
    decoded = decode_examples(pipeline, decoders, examples, batch_size=batch_size, seed=seed, advance=advance)
    for example, soft_masks in decoded:
        for name, (soft_mask, seconds) in soft_masks.items():
            times[name].append(seconds)
            scores[name].add(soft_mask, example)
    medians = {name: median(taken) for name, taken in times.items()}
    return {
        name: {**each.report(), "times_as_fast": medians["vae"] / medians[name]}
        for name, each in scores.items()
    }


def decoder_table(source: str, scores: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """What `compare_decoders` found, as rows of cells; the first is the header."""
    shares = ("oIoU", "mIoU", "macro", "absent_empty", "present_empty")
    names = ("oIoU", "mIoU", "mean over kinds", "absent: empty", "present: empty")
    rows = [[source, "threshold", *names, "Brier", "calibration error", "times as fast"]]
    for decoder, found in scores.items():
        for threshold, at in found["thresholds"].items():
            cells = ["-" if at[share] is None else f"{100 * at[share]:.1f}" for share in shares]
            last = [
                f"{found['brier']:.4f}",
                f"{found['calibration_error']:.4f}",
                f"{found['times_as_fast']:.1f}",
            ]
            is_first = threshold == str(THRESHOLDS[0])
            rows.append([decoder if is_first else "", threshold, *cells, *(last if is_first else [""] * 3)])
    return rows


def save_with_decoder(source: Path, fitted: FittedDecoder, target: Path, *, as_own: bool) -> None:
    """Copy a model's folder and put the decoder into it, for `segment(decoder="linear")`; in place of one there.

    All other files stay as they are, to the bit. The new folder appears whole or not at all.

    Args:
        as_own: `segment` takes it unasked, and for each mask the threshold that promises the best IoU: for decoders
            whose soft masks are probabilities, as those fitted on predictions are.

    Raises:
        ValueError: `target` exists.
    """
    if target.exists():
        raise ValueError(f"Got {str(target)!r} to save a model to, which exists: name a new folder.")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("mask_head"))
        fitted.head.save_pretrained(partial / "mask_head")
        index = read_json(partial / MODEL_INDEX)
        index["mask_head"] = ["genmask.mask_head", LinearMaskHead.__name__]
        if as_own:
            index |= {"decoder": "linear", "threshold": "auto", "least_area": fitted.least_area}
        save_json(index, partial / MODEL_INDEX)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def target_of(example: Example) -> np.ndarray:
    """The mask of a segmentation example."""
    assert example.mask is not None
    return example.mask


def _at_processing_size(pipeline: GenMaskPipeline, example: Example) -> Example:
    return resize_to_area(example, pipeline.config.resolution**2, pipeline.cell)


@torch.no_grad()
def _encode_mask(pipeline: GenMaskPipeline, example: Example) -> Tensor:
    pixels = mask_to_pixels(torch.from_numpy(target_of(example)))
    return pipeline.codec.encode(pixels.unsqueeze(0).to(pipeline.device))[0].cpu()


def _chunks(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    iterator = iter(examples)
    while chunk := list(islice(iterator, size)):
        yield chunk
