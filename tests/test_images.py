"""Every picture is opened rightly or refused in one line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genmask.images import MAX_ASPECT, MAX_PIXELS, ImageError, open_image, processing_size, resize_to_area
from tests.pictures import png_of_size

COLUMNS, ROWS = np.meshgrid(np.arange(0, 240, 8), np.arange(0, 160, 8))
PIXELS = np.stack([COLUMNS, ROWS, np.full((20, 30), 90)], axis=-1).astype(np.uint8)
"""(20, 30, 3): lossy formats keep it within a few levels."""


def pixels_of(source: object) -> np.ndarray:
    image = open_image(source)  # type: ignore[arg-type]
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(source: object) -> str:
    """The message with which a source is refused; it is one line."""
    with pytest.raises(ImageError) as error:
        open_image(source)  # type: ignore[arg-type]
    message = str(error.value)
    assert message.startswith("Got ")
    assert "expected" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tiff", "a.ppm"])
def test_lossless_formats_paths_images_and_arrays_agree(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(PIXELS).save(path, **({"lossless": True} if name.endswith("webp") else {}))
    for source in (path, str(path), Image.open(path), PIXELS, PIXELS[:, ::-1][:, ::-1]):
        assert np.array_equal(pixels_of(source), PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    turns = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.swapaxes(0, 1),
        6: np.rot90(PIXELS, 1), 7: PIXELS[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(PIXELS, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turns[orientation])).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels_of(tmp_path / "a.png"), PIXELS)


def test_damaged_exif_does_not_spoil_the_pixels(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00*nonsense")
    assert np.array_equal(pixels_of(tmp_path / "a.png"), PIXELS)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32768, 65278, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    expected = [0, 1, 128, 254, 255]
    for source in (tmp_path / "a.png", Image.fromarray(levels.astype(np.int32))):
        assert pixels_of(source)[0, :, 1].tolist() == expected
    assert "32-bit" in refusal(Image.fromarray(levels.astype(np.int32) * 1000))


def test_cmyk_palette_and_grey_become_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    image.quantize(255).save(tmp_path / "palette.png")
    image.convert("L").save(tmp_path / "grey.png")
    for name in ("cmyk.jpg", "palette.png"):
        assert np.abs(pixels_of(tmp_path / name).astype(int) - PIXELS).mean() < 8, name
    grey = pixels_of(tmp_path / "grey.png")
    assert np.array_equal(grey, np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_composited_on_white(tmp_path: Path, mode: str) -> None:
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0] = (0, 0, 0, 255)  # opaque black above, transparent black below
    image = Image.fromarray(rgba)
    if mode == "P":
        image = Image.fromarray(np.array([[0, 0], [1, 1]], dtype=np.uint8), "P")
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.info["transparency"] = 1
    elif mode != "RGBA":
        image = image.convert(mode)
    assert pixels_of(image)[:, 0, 0].tolist() == [0, 255]


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels_of(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_missing_folder_empty_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture\n")
    assert "does not exist" in refusal(tmp_path / "none.png")
    assert "download" in refusal("https://example.com/a.png")
    assert "folder" in refusal(tmp_path)
    assert "empty file" in refusal(tmp_path / "empty.png")
    assert "PNG, JPEG" in refusal(tmp_path / "text.png")
    assert "cannot be opened" in refusal("x" * 5000)
    assert "exist" in refusal("a\nb")
    assert "NoneType" in refusal(None)


def test_formats_that_need_an_outside_program_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
    assert "cannot be read as a picture" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tiff", "a.bmp", "a.ppm"])
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    refusal(tmp_path / name)


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (13_000, 13_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "a.png").write_bytes(png_of_size(width, height))
    assert width * height > MAX_PIXELS
    assert "at most 100 megapixels" in refusal(tmp_path / "a.png")


def test_just_below_the_limit_it_is_the_missing_pixels_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of_size(10_000, 10_000))
    assert "damaged or cut short" in refusal(tmp_path / "a.png")


def test_a_phone_picture_with_a_second_one_inside_opens_as_its_first(tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS), Image.new("RGB", (30, 20), "red")
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(pixels_of(tmp_path / "a.jpg").astype(int) - PIXELS).mean() < 8


def test_zero_sized_and_very_thin_pictures_are_refused() -> None:
    assert "0 x 5" in refusal(Image.new("RGB", (0, 5)))
    assert "crop" in refusal(Image.new("RGB", (5000, 1)))
    assert "crop" in refusal(np.zeros((5000, 1, 3), dtype=np.uint8))
    assert open_image(Image.new("RGB", (MAX_ASPECT, 1))).size == (MAX_ASPECT, 1)


def test_wrong_arrays_and_float_images_are_refused() -> None:
    assert "255" in refusal(np.zeros((4, 4, 3), dtype=np.float32))
    assert "transpose" in refusal(np.zeros((3, 4, 4), dtype=np.uint8))
    assert "(4, 4)" in refusal(np.zeros((4, 4), dtype=np.uint8))
    assert "0 x 0" in refusal(np.zeros((0, 0, 3), dtype=np.uint8))
    assert "float" in refusal(Image.new("F", (4, 4)))


@settings(deadline=None)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    cells=st.integers(16, 1024),
    multiple=st.sampled_from([8, 16, 32]),
)
def test_processing_size_keeps_area_and_aspect(height: int, width: int, cells: int, multiple: int) -> None:
    area = cells * multiple**2
    new_height, new_width = processing_size(height, width, area, multiple)
    assert new_height % multiple == new_width % multiple == 0
    assert min(new_height, new_width) >= multiple
    assert processing_size(width, height, area, multiple) == (new_width, new_height)
    assert 0.5 < new_height * new_width / area < 1.6
    if max(height, width) <= 2 * min(height, width):
        stretch = math.log(new_width / new_height) - math.log(width / height)
        assert abs(stretch) < math.log(1.45)


def test_processing_sizes_that_are_known() -> None:
    assert processing_size(480, 480, 128**2) == (128, 128)
    assert processing_size(240, 320, 128**2) == (112, 144)
    assert processing_size(1, 5000, 128**2) == (16, 1024)
    with pytest.raises(ValueError, match="at least 1"):
        processing_size(0, 4, 128**2)


def test_resize_to_area_has_the_processing_size() -> None:
    assert resize_to_area(Image.fromarray(PIXELS), 64**2).size == processing_size(20, 30, 64**2)[::-1]
