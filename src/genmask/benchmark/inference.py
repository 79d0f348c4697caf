"""The calls of `segment` and `generate` that are timed: drawn scenes and their sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from genmask.benchmark.latency import Case, Listener
from genmask.data.scenes import Scenes
from genmask.pipeline import GenMaskPipeline
from genmask.stages import listening

QUALITY = 95
"""Of the JPEG files: photographs, too, come as such and must be decoded."""


def at_resolution(pipeline: GenMaskPipeline, resolution: int) -> GenMaskPipeline:
    """The same networks, processing pictures at another size, in pixels.

    Raises:
        ValueError: less than one patch.
    """
    own = ("shortcut", "prediction", "noise", "picture_first", "decoder", "threshold")
    options = {name: pipeline.config[name] for name in own}
    other = GenMaskPipeline(**pipeline.components, resolution=resolution, **options)
    other.set_progress_bar_config(disable=True)
    return other


def segment_cases(
    pipeline: GenMaskPipeline,
    folder: Path,
    *,
    picture_size: int,
    prompts: Sequence[int],
    pictures: Sequence[int],
    decoders: Sequence[str],
) -> list[Case]:
    """Every combination of so many pictures, prompts for each of them, and decoders.

    Several pictures with one prompt each share a forward pass, and so do several prompts on one picture, which is
    encoded once. Several of both are a call for each picture, as in folders.

    Args:
        pipeline: what is called.
        folder: where the pictures are written to.
        picture_size: their sides, in pixels; at least 32.
    """
    files = _draw(folder, picture_size, max(pictures))
    texts = _sentences(max(prompts))
    return [
        Case(
            settings={
                "resolution": pipeline.config.resolution,
                "pictures": num_pictures,
                "prompts": num_prompts,
                "decoder": decoder,
            },
            counts={"pictures": num_pictures, "prompts": num_pictures * num_prompts},
            run=_heard(
                partial(
                    _segment,
                    pipeline,
                    files[:num_pictures],
                    texts[:num_prompts],
                    decoder=decoder,
                    batch_size=max(num_pictures, num_prompts),
                )
            ),
        )
        for num_pictures in pictures
        for num_prompts in prompts
        for decoder in decoders
    ]


def generate_cases(pipeline: GenMaskPipeline, *, pictures: Sequence[int], num_steps: int) -> list[Case]:
    """So many pictures in a forward pass, with guidance.

    Raises:
        ValueError: a resolution that pictures cannot be drawn at.
    """
    side, cell = pipeline.config.resolution, pipeline.cell
    if side % cell:
        raise ValueError(f"Got resolution {side} to draw pictures at, expected a multiple of {cell} pixels.")
    scenes = Scenes("val")
    captions = [scenes.caption(number * Scenes.EXPRESSIONS_PER_SCENE).text for number in range(max(pictures))]
    return [
        Case(
            settings={
                "resolution": side,
                "pictures": count,
                "num_inference_steps": num_steps,
            },
            counts={"pictures": count, "steps": num_steps},
            run=_heard(
                partial(pipeline.generate, captions[:count], num_inference_steps=num_steps, batch_size=count)
            ),
        )
        for count in pictures
    ]


def _heard(call: Callable[[], Any]) -> Callable[[Listener | None], None]:
    """With the pipeline's stages as its parts."""

    def run(listener: Listener | None) -> None:
        if listener is None:
            call()
            return
        with listening(listener):
            call()

    return run


def _segment(pipeline: GenMaskPipeline, files: list[Path], texts: list[str], **options: Any) -> None:
    if len(texts) == 1:
        pipeline.segment(files, texts[0], **options)
        return
    for file in files:
        pipeline.segment(file, texts, **options)


def _draw(folder: Path, size: int, count: int) -> list[Path]:
    scenes = Scenes("val", size=size)
    files = [folder / f"{number}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        example = scenes[number * Scenes.EXPRESSIONS_PER_SCENE]
        Image.fromarray(example.image).save(file, quality=QUALITY)
    return files


def _sentences(count: int) -> list[str]:
    """Different ones, as scenes have them."""
    scenes = Scenes("val")
    texts: dict[str, None] = {}
    for number in range(10 * count):
        texts[scenes[number].text] = None
    return list(islice(texts, count))
