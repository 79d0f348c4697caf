"""Ways from latents to a mask: a linear map is fitted to a model, and held against the VAE's decoder."""

from __future__ import annotations

import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genmask.analysis.linear_decoder import fit_linear_head
from genmask.analysis.predictions import predict
from genmask.analysis.presence import fit_presence_head, score_presence
from genmask.analysis.soft_scores import THRESHOLDS, SoftScores
from genmask.atomic import save_json
from genmask.data.example import Example
from genmask.data.transforms import resize_to_area
from genmask.latents import mask_to_pixels, pixels_to_soft_mask, resize_soft_masks
from genmask.loading import read_json
from genmask.mask_head import LinearMaskHead
from genmask.model_folder import MODEL_INDEX
from genmask.objectives import latent_weight
from genmask.pipeline import GenMaskPipeline
from genmask.presence_head import PresenceHead
from genmask.stages import timed

Target = Literal["masks", "predictions"]
Decoder = Callable[[Tensor], Tensor]
"""x0_hat (B, C, h, w) -> soft masks (B, 8h, 8w) in [0, 1]."""
SCENES_WEIGHT = 0.35
"""Of a drawn scene in a map fitted on predictions. There nearly every pixel is sure, and a map fitted on as many of
them as of photographs takes doubt for absence: it costs the rare classes there, and gains the scenes nothing."""
AT_ONCE = 128
"""Examples that are held in memory together."""


class Decoded(NamedTuple):
    """An example, and what a model makes of it."""

    example: Example
    features: Tensor
    """(D,), of a `PresenceHead`."""
    soft_masks: dict[str, tuple[np.ndarray, float]]
    """Of every decoder, (H, W) in [0, 1] at the example's own size, and the seconds it took."""


class FittedDecoder(NamedTuple):
    """A linear map, and what tells whether there is anything to be mapped."""

    head: LinearMaskHead
    presence: PresenceHead | None
    """None for a map fitted on latents of masks, without absent targets among the examples, or where the model has a
    head: one that was trained with it knows more than one fitted afterwards.
    """


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
            makes of picture and sentence where the target is there: whether it is, the presence head tells. Ignored
            pixels do not count.
        kernel: see `LinearMaskHead`.
        batch_size: of the networks.
        seed: of the predictions' noise.
        advance: told how many examples are done.
    """
    batches: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)  # x0, mask, weight
    features: list[Tensor] = []
    present: list[bool] = []
    for chunk in _chunks(examples, AT_ONCE):
        small = [_at_processing_size(pipeline, example) for example in chunk]
        if target == "masks":
            latents = [_encode_mask(pipeline, example) for example in small]
        else:
            predicted = predict(pipeline, chunk, batch_size=batch_size, seed=seed)
            latents = [prediction.sample for prediction in predicted]
            features += [prediction.features for prediction in predicted]
            present += [bool(target_of(example).any()) for example in chunk]
        for x0, example in zip(latents, small, strict=True):
            mask = torch.from_numpy(target_of(example))
            ignore = torch.zeros_like(mask) if example.ignore is None else torch.from_numpy(example.ignore)
            weight = latent_weight(ignore.unsqueeze(0))[0]
            if target == "predictions":
                if not mask.any():
                    continue
                weight = weight * (SCENES_WEIGHT if example.source == "scenes" else 1.0)
            batches[x0.shape].append((x0, mask, weight))
        advance(len(chunk))
    columns = [[torch.stack(column) for column in zip(*rows, strict=True)] for rows in batches.values()]
    head = fit_linear_head(
        [latents for latents, _, _ in columns],
        [masks for _, masks, _ in columns],
        kernel=kernel,
        weights=[weight for _, _, weight in columns],
    )
    can_tell = any(present) and not all(present) and pipeline.presence_head is None
    presence = fit_presence_head(torch.stack(features), torch.tensor(present)) if can_tell else None
    return FittedDecoder(head, presence)


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
) -> Iterator[Decoded]:
    """Each example with what every decoder makes of it.

    The network is asked once for all decoders, which take turns. Few examples are in memory at a time.
    """
    for chunk in _chunks(examples, AT_ONCE):
        predicted = predict(pipeline, chunk, batch_size=batch_size, seed=seed)
        for prediction, example in zip(predicted, chunk, strict=True):
            batch, found = prediction.sample.unsqueeze(0).to(pipeline.device), {}
            for name, decode in decoders.items():
                soft, seconds = timed(partial(decode, batch), pipeline.device)
                soft_mask = resize_soft_masks(soft.cpu(), *example.image.shape[:2])[0].numpy()
                found[name] = soft_mask, seconds
            yield Decoded(example, prediction.features, found)
        advance(len(chunk))


def compare_decoders(
    pipeline: GenMaskPipeline,
    fitted: FittedDecoder,
    examples: Iterable[Example],
    *,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """How good the model's soft masks are with either decoder, and how well it is told what is absent, ready for JSON.

    Each example is counted at its own size, and the network is asked once for both decoders.

    Returns:
        Of "vae" and "linear" the scores (see `SoftScores.report`) with "times_as_fast", the ratio of the medians of
        their times for one mask, in which they take turns; and of the presence head (see `score_presence`), None
        without one.
    """
    decoders = decoders_of(pipeline, fitted.head)
    scores = {name: SoftScores() for name in decoders}
    times: dict[str, list[float]] = {name: [] for name in decoders}
    features, present = [], []
    decoded = decode_examples(pipeline, decoders, examples, batch_size=batch_size, seed=seed, advance=advance)
    for example, feature, soft_masks in decoded:
        features.append(feature)
        present.append(bool(target_of(example).any()))
        for name, (soft_mask, seconds) in soft_masks.items():
            times[name].append(seconds)
            scores[name].add(soft_mask, example)
    medians = {name: median(taken) for name, taken in times.items()}
    by_decoder = {
        name: {**each.report(), "times_as_fast": medians["vae"] / medians[name]}
        for name, each in scores.items()
    }
    presence = fitted.presence or pipeline.presence_head
    if presence is None:
        return by_decoder, None
    on_cpu = deepcopy(presence).cpu()
    return by_decoder, score_presence(on_cpu, torch.stack(features), torch.tensor(present))


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
    """Copy a model's folder and put the decoder into it, for `segment(decoder="linear")`, and the presence head.

    What was not fitted anew stays as it is, to the bit. The new folder appears whole or not at all.

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
        fresh = ["mask_head"] if fitted.presence is None else ["mask_head", "presence_head"]
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*fresh))
        fitted.head.save_pretrained(partial / "mask_head")
        index = read_json(partial / MODEL_INDEX)
        index["mask_head"] = ["genmask.mask_head", LinearMaskHead.__name__]
        if as_own:
            index |= {"decoder": "linear", "threshold": "auto"}
        if fitted.presence is not None:
            fitted.presence.save_pretrained(partial / "presence_head")
            index["presence_head"] = ["genmask.presence_head", PresenceHead.__name__]
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
