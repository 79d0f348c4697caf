"""The pipeline's stages: which come, how often, and that nothing changes when somebody listens."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from genmask.mask_head import LinearMaskHead
from genmask.pipeline import GenMaskPipeline
from genmask.stages import listening, stage
from tests.conftest import random_picture, toy_pipeline

PICTURES = [random_picture(seed) for seed in range(3)]
TEXTS = ["the red mug", "a green star", "grass"]


class Heard:
    """Counts stages, and refuses one within another."""

    def __init__(self) -> None:
        self.turns: Counter[str] = Counter()
        self._now: str | None = None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        assert self._now is None, f"{name} within {self._now}"
        self._now = name
        self.turns[name] += 1
        yield
        self._now = None


@pytest.fixture(scope="module")
def headed() -> GenMaskPipeline:
    return toy_pipeline(mask_head=LinearMaskHead())


@pytest.mark.parametrize(
    ("image", "text", "options", "expected"),
    [
        (PICTURES[0], "the red mug", {}, (2, 1, 1, 1, 1, 1)),
        (PICTURES[0], "the red mug", {"decoder": "linear"}, (2, 1, 1, 1, 1, 1)),
        # Several texts read the picture once; two passes of two and one.
        (PICTURES[0], TEXTS, {"batch_size": 2}, (2, 1, 1, 2, 2, 2)),
        # Several pictures of one size: two passes.
        (PICTURES, TEXTS, {"batch_size": 2}, (2, 2, 2, 2, 2, 2)),
        (PICTURES[0], "the red mug", {"num_inference_steps": 3, "num_noises": 2}, (2, 1, 1, 6, 1, 1)),
    ],
)
def test_every_stage_of_segment_comes_as_often_as_it_must(
    headed: GenMaskPipeline, image: Any, text: Any, options: dict[str, Any], expected: tuple[int, ...]
) -> None:
    names = ("decode and resize", "VLM", "VAE encode", "DiT", "decode", "resize back")
    heard = Heard()
    with listening(heard):
        answer = headed.segment(image, text, **options)
    assert heard.turns == dict(zip(names, expected, strict=True))
    assert list(heard.turns) == list(names)

    alone = headed.segment(image, text, **options)
    for one, other in zip(*((a if isinstance(a, list) else [a]) for a in (answer, alone)), strict=True):
        assert np.array_equal(one.soft_mask, other.soft_mask)


def test_every_stage_of_generate_comes_as_often_as_it_must(headed: GenMaskPipeline) -> None:
    heard = Heard()
    with listening(heard):
        (answer,) = headed.generate("a star", num_inference_steps=3)
    assert heard.turns == {"VLM": 2, "DiT": 6, "decode": 1}  # with and without the caption
    (alone,) = headed.generate("a star", num_inference_steps=3)
    assert answer.tobytes() == alone.tobytes()


def test_a_listener_hears_its_own_thread_and_only_while_it_listens() -> None:
    heard = Heard()

    def elsewhere() -> None:
        with stage("DiT"):
            pass

    with listening(heard):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with listening(Heard()), stage("VLM"):
            pass
        with stage("decode"):
            pass
    with stage("resize back"):
        pass
    with pytest.raises(KeyError), listening(heard):
        raise KeyError
    with stage("VAE encode"):
        pass
    assert heard.turns == {"decode": 1}
