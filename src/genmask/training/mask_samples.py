"""Which masks and pictures a step consists of: by their numbers alone, whatever process asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from genmask.data.example import Example
from genmask.data.mixture import Interleaving
from genmask.processor import segmentation_prompt
from genmask.training.mask_config import MaskConfig
from genmask.training.parallel import Share
from genmask.training.sources import GenerationSource, SegmentationSource


class Drawn(NamedTuple):
    """A sample as VAE and VLM read it."""

    id: str
    """Source and id."""
    prompt: str
    image: np.ndarray
    """(H, W, 3) uint8."""
    mask: np.ndarray | None
    """(H, W) bool, background where unknown; None for a picture that is to be drawn."""


class MaskSamples:
    """The sources of both tasks, taking turns by their shares.

    Args:
        config: shares, sizes and numbers of samples.
        segmentation, generation: sources by name, each with a share in the config.

    Raises:
        ValueError: a source without a share; no source for a task.
    """

    def __init__(
        self,
        config: MaskConfig,
        segmentation: Mapping[str, SegmentationSource],
        generation: Mapping[str, GenerationSource],
    ) -> None:
        self.config, self.segmentation, self.generation = config, segmentation, generation
        self._mask_turns = _interleaving("segmentation", config, segmentation)
        self._picture_turns = None
        if config.generation_batch:
            self._picture_turns = _interleaving("generation", config, generation)

    def size(self, step: int) -> tuple[int, int]:
        """Height and width of all samples of a step."""
        return self.config.sizes[step % len(self.config.sizes)]

    def masks(self, indices: Iterable[int], height: int, width: int) -> list[tuple[str, Example]]:
        """Names of sources, and their examples."""
        located = [self._mask_turns.locate(index) for index in indices]
        return [
            (name, self.segmentation[name].segmentation(position, height, width))
            for name, position in located
        ]

    def pictures(self, indices: Iterable[int], height: int, width: int) -> list[Drawn]:
        """Pictures to be drawn, some of them from no words at all."""
        drawn = []
        for index in indices:
            example = self._picture(index, height, width)
            random = np.random.default_rng((self.config.seed, index, 1)).random()
            text = "" if random < self.config.condition_dropout else example.text
            drawn.append(Drawn(_id(example), text, example.image, None))
        return drawn

    def captions(self, count: int) -> list[str]:
        """Of the first pictures of the training, none dropped."""
        return [self._picture(index, *self.size(0)).text for index in range(count)]

    def drawn(self, step: int) -> list[Drawn]:
        """All samples of a step, in all processes together."""
        masks = Share().samples(step, self.config.segmentation_batch, 0)
        pictures = Share().samples(step, self.config.generation_batch, 0)
        asked = [asked_for(example) for _, example in self.masks(masks, *self.size(step))]
        return asked + self.pictures(pictures, *self.size(step))

    def _picture(self, index: int, height: int, width: int) -> Example:
        assert self._picture_turns is not None
        name, position = self._picture_turns.locate(index)
        return self.generation[name].generation(position, height, width)


def asked_for(example: Example) -> Drawn:
    """A mask to be drawn; the picture goes with it."""
    assert example.mask is not None
    mask = example.mask if example.ignore is None else example.mask & ~example.ignore
    return Drawn(_id(example), segmentation_prompt(example.text), example.image, mask)


def _id(example: Example) -> str:
    return f"{example.source}/{example.id}"


def _interleaving(
    task: str, config: MaskConfig, sources: Mapping[str, SegmentationSource | GenerationSource]
) -> Interleaving:
    shares = dict(config.segmentation_sources if task == "segmentation" else config.generation_sources)
    if unknown := sources.keys() - shares.keys():
        raise ValueError(
            f"Got {task} source {min(unknown)!r} without a share in {task}_sources: give it one."
        )
    if not sources:
        raise ValueError(
            f"Got no {task} source, expected one of {', '.join(shares) or 'those with a share'}."
        )
    return Interleaving({name: weight for name, weight in shares.items() if name in sources}, config.seed)
