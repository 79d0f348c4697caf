"""The samples of all runs: scenes drawn once, in an order of each seed's own; what VAE and VLM make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from genmask.ablation.scale import Scale
from genmask.atomic import save_json
from genmask.data.example import Example
from genmask.data.mixture import Repeat
from genmask.data.scenes import Scenes
from genmask.training.cache import CacheWriter
from genmask.training.masks import MaskTask
from genmask.training.sources import SceneSource

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Of what, and out of how many, to a context in which the number done is told."""


class Sentences:
    """Sentences about drawn scenes with their masks; two of each scene."""

    def __init__(self, folder: Path) -> None:
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.masks = np.load(folder / "masks.npy", mmap_mode="r")
        self.texts: list[str] = json.loads((folder / "texts.json").read_text(encoding="utf-8"))["sentences"]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Example:
        image, mask = np.array(self.images[index // 2]), np.array(self.masks[index])
        return Example(image=image, text=self.texts[index], mask=mask, source="scenes", id=str(index))


class Pictures:
    """Drawn scenes with captions."""

    def __init__(self, folder: Path) -> None:
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.texts: list[str] = json.loads((folder / "texts.json").read_text(encoding="utf-8"))["captions"]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Example:
        return Example(
            image=np.array(self.images[index]),
            text=self.texts[index],
            task="generation",
            source="scenes",
            id=f"{index}/caption",
        )


class ShuffledScenes:
    """Both without end, in a new order every epoch: a source of `MaskTask`.

    Args:
        folder: as `draw_samples` wrote it.
        seed: of the order.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.sentences = Repeat(Sentences(folder), seed)
        self.pictures = Repeat(Pictures(folder), seed)

    def segmentation(self, index: int, height: int, width: int) -> Example:
        return self.sentences[index]

    def generation(self, index: int, height: int, width: int) -> Example:
        return self.pictures[index]


def draw_samples(scale: Scale, folder: Path, progress: Progress) -> None:
    """Draw the scenes of all runs into `folder`, held-out ones too, unless they are there.

    Raises:
        ValueError: the folder holds those of other settings.
    """
    wanted = {
        "size": scale.size,
        "sentences": scale.num_sentences,
        "pictures": scale.num_pictures,
        "held_out": scale.held_out,
        "layout": asdict(scale.layout),
        "shares": dict(scale.shares),
    }
    wanted = json.loads(json.dumps(wanted))
    done = folder / "samples.json"
    if done.exists():
        if (found := json.loads(done.read_text())) != wanted:
            raise ValueError(
                f"Got samples in {folder} made with {found}, expected {wanted}: name another --output."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    size = (scale.size, scale.size)
    source = SceneSource((size,), shares=scale.shares, layout=scale.layout)
    scenes = max(-(-scale.num_sentences // 2), scale.num_pictures)
    images = np.empty((scenes, *size, 3), dtype=np.uint8)
    masks = np.empty((scale.num_sentences, *size), dtype=bool)
    sentences, captions = [], []
    with progress("drawing scenes", scenes) as advance:
        for scene in range(scenes):
            for index in range(2 * scene, min(2 * scene + 2, scale.num_sentences)):
                example = source.segmentation(index, *size)
                assert example.mask is not None
                masks[index] = example.mask
                sentences.append(example.text)
            example = source.generation(scene, *size)
            images[scene] = example.image
            if scene < scale.num_pictures:
                captions.append(example.text)
            advance(1)
    np.save(folder / "images.npy", images)
    np.save(folder / "masks.npy", masks)
    validation = Scenes("val", size=size, length=scale.held_out, shares=scale.shares, layout=scale.layout)
    held_out = [validation[index] for index in range(scale.held_out)]
    with (folder / "held-out.npz").open("wb") as file:
        np.savez(
            file,
            images=np.stack([example.image for example in held_out]),
            masks=np.stack([example.mask for example in held_out if example.mask is not None]),
        )
    texts = {
        "sentences": sentences,
        "captions": captions,
        "held_out": [(example.text, example.kind) for example in held_out],
    }
    save_json(texts, folder / "texts.json", indent=None)
    save_json(wanted, done)  # last: what is there without it is half-written, and drawn again


def encode_samples(scale: Scale, task: MaskTask, folder: Path, progress: Progress) -> None:
    """Fill the cache in `folder` with all samples; those that are there are left.

    Args:
        task: of the base, with its VAE and VLM, that trains nothing.
    """
    steps = max(
        -(-scale.num_sentences // scale.segmentation_batch), -(-scale.num_pictures // scale.generation_batch)
    )
    total = steps * (scale.segmentation_batch + scale.generation_batch)
    with (
        CacheWriter(folder, task.encoder.identity, {"model": scale.model}) as writer,
        progress("encoding", total) as advance,
    ):
        task.fill(writer, range(steps), scale.mixed_precision, advance)


def read_held_out(folder: Path) -> list[Example]:
    """What every row is scored on."""
    with np.load(folder / "held-out.npz") as arrays:
        images, masks = arrays["images"], arrays["masks"]
    words = json.loads((folder / "texts.json").read_text(encoding="utf-8"))["held_out"]
    return [
        Example(image=image, mask=mask, text=text, kind=kind, source="scenes", id=str(index))
        for index, (image, mask, (text, kind)) in enumerate(zip(images, masks, words, strict=True))
    ]
