"""Transforms move image, mask, ignored pixels and sentence together, and change nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmask.data.example import Example
from genmask.data.transforms import (
    AspectBuckets,
    color_jitter,
    crop,
    horizontal_flip,
    random_horizontal_flip,
    random_resized_crop,
    resize,
    resize_mask,
    resize_to_area,
    swap_left_right,
)


def square_example(text: str = "the square on the left") -> Example:
    """A white square on noise whose mask is the white, and an ignored line at the right edge."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 120, (48, 64, 3), dtype=np.uint8)
    mask, ignore = np.zeros((48, 64), dtype=bool), np.zeros((48, 64), dtype=bool)
    mask[8:24, 4:20], ignore[:, -1] = True, True
    image[mask] = 255
    return Example(image=image, text=text, mask=mask, ignore=ignore, id="7", kind="position", source="test")


def equal(a: Example, b: Example) -> bool:
    same_planes = np.array_equal(a.mask, b.mask) and np.array_equal(a.ignore, b.ignore)
    return np.array_equal(a.image, b.image) and same_planes and a.text == b.text


def white(example: Example) -> np.ndarray:
    """Where the picture itself shows the target."""
    return example.image.min(axis=-1) > 187


@pytest.mark.parametrize("size", [(24, 32), (48, 64), (96, 128), (32, 32)])
def test_resize_keeps_mask_on_the_target(size: tuple[int, int]) -> None:
    example = resize(square_example(), *size)
    assert example.mask is not None
    assert example.ignore is not None
    assert example.mask.shape == example.ignore.shape == example.image.shape[:2] == size
    assert (example.mask & white(example)).sum() / (example.mask | white(example)).sum() > 0.9
    assert example.mask.mean() == pytest.approx(square_example().mask.mean(), rel=0.1)  # type: ignore[union-attr]
    assert example.ignore[:, -1].all()
    assert (example.id, example.kind, example.source) == ("7", "position", "test")


def test_resized_masks_agree_with_coverage_and_are_exact_where_they_can_be() -> None:
    mask = square_example().mask
    assert mask is not None
    doubled = resize_mask(mask, 96, 128)
    assert np.array_equal(resize_mask(doubled, 48, 64), mask)
    assert not resize_mask(np.zeros((9, 9), dtype=bool), 4, 5).any()
    assert resize_mask(np.ones((9, 9), dtype=bool), 20, 5).all()


def test_one_ignored_pixel_is_never_lost() -> None:
    for row in range(48):
        ignore = np.zeros((48, 64), dtype=bool)
        ignore[row, row] = True
        image = np.zeros((48, 64, 3), dtype=np.uint8)
        small = resize(Example(image=image, text="", mask=~ignore, ignore=ignore), 7, 9)
        assert small.ignore is not None
        assert small.ignore[row * 7 // 48, row * 9 // 64]


def test_resize_to_area_gives_multiples_of_sixteen() -> None:
    assert resize_to_area(square_example(), 128**2).image.shape == (112, 144, 3)


def test_crop_is_a_window() -> None:
    example, window = square_example(), crop(square_example(), 8, 4, 16, 16)
    assert np.array_equal(window.image, example.image[8:24, 4:20])
    assert window.mask is not None
    assert window.mask.all()
    with pytest.raises(ValueError, match="expected it in 48 x 64"):
        crop(example, 40, 0, 16, 16)


def test_random_crops_keep_the_target_and_its_picture_aligned() -> None:
    for seed in range(30):
        example = random_resized_crop(square_example(), np.random.default_rng(seed), 64, 64, scale=(0.3, 0.9))
        assert example.image.shape == (64, 64, 3)
        assert example.mask is not None
        assert (example.mask & white(example)).sum() / (example.mask | white(example)).sum() > 0.85


def test_a_crop_that_cannot_keep_the_target_is_the_whole_picture() -> None:
    far = np.zeros((48, 64), dtype=bool)
    far[[0, -1]] = True
    example = Example(image=np.zeros((48, 64, 3), dtype=np.uint8), text="the edges", mask=far)
    cropped = random_resized_crop(
        example, np.random.default_rng(0), 48, 64, scale=(0.2, 0.3), min_visible=0.9
    )
    assert equal(cropped, example)


def test_flip_is_its_own_inverse_and_mirrors_everything() -> None:
    example, flipped = square_example(), horizontal_flip(square_example())
    assert flipped.text == "the square on the right"
    assert flipped.mask is not None
    assert flipped.ignore is not None
    assert flipped.mask[8:24, 44:60].all()
    assert flipped.ignore[:, 0].all()
    assert np.array_equal(white(flipped), flipped.mask)
    assert equal(horizontal_flip(flipped), example)


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("the mug left of the plate", "the mug right of the plate"),
        ("Leftmost star, RIGHT side", "Rightmost star, LEFT side"),
        ("the left-hand door", "the right-hand door"),
        ("from left to right", "from right to left"),
        ("the bright upright cleft", "the bright upright cleft"),
        ("the leftover copyright", "the leftover copyright"),
    ],
)
def test_left_and_right_are_swapped_as_whole_words(text: str, swapped: str) -> None:
    assert swap_left_right(text) == swapped


@settings(deadline=None)
@given(st.text(alphabet="leftrigh mos-LR,", max_size=30))
def test_swapping_twice_changes_nothing(text: str) -> None:
    words = text + " left Right LEFTMOST rightward"
    canonical = swap_left_right(swap_left_right(words))
    assert swap_left_right(swap_left_right(canonical)) == canonical
    assert canonical.lower() == words.lower()


def test_colour_jitter_changes_the_image_alone_and_keeps_grey_grey() -> None:
    example = square_example()
    jittered = color_jitter(example, np.random.default_rng(1))
    assert not np.array_equal(jittered.image, example.image)
    assert jittered.mask is example.mask
    assert equal(
        color_jitter(example, np.random.default_rng(0), brightness=0, contrast=0, saturation=0), example
    )
    grey = Example(image=np.repeat(example.image[..., :1], 3, axis=-1), text="grey", task="generation")
    image = color_jitter(grey, np.random.default_rng(2)).image.astype(int)
    assert np.ptp(image, axis=-1).max() <= 1


@pytest.mark.parametrize(
    "transform",
    [
        lambda example, rng: random_resized_crop(example, rng, 32, 48),
        color_jitter,
        random_horizontal_flip,
    ],
)
def test_random_transforms_depend_on_their_generator_alone(
    transform: Callable[[Example, np.random.Generator], Example],
) -> None:
    before = square_example()
    results = [transform(before, np.random.default_rng(seed)) for seed in (0, 0, *range(1, 9))]
    assert equal(results[0], results[1])
    assert not all(equal(results[0], other) for other in results[2:])
    assert equal(before, square_example())


@pytest.mark.parametrize(("area", "multiple"), [(128**2, 16), (512**2, 16), (64**2, 32)])
def test_buckets_have_about_the_area_and_every_shape_its_nearest(area: int, multiple: int) -> None:
    buckets = AspectBuckets(area=area, multiple=multiple)
    assert len(set(buckets.sizes)) == len(buckets.sizes) >= 3
    for height, width in buckets.sizes:
        assert height % multiple == width % multiple == 0
        assert 0.75 < height * width / area < 1.25
        assert (width, height) in buckets.sizes
        assert max(height, width) <= 4 * min(height, width)
        assert buckets.assign(height, width) == buckets.assign(3 * height, 3 * width) == (height, width)
    assert buckets.assign(1, 1000) == buckets.sizes[-1]
    assert buckets.assign(1000, 1) == buckets.sizes[0]


def test_buckets_too_small_for_their_multiple_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple squared"):
        AspectBuckets(area=100, multiple=16)
