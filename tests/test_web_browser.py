"""The page as a visitor uses it, in a real browser without a window."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")

import httpx
from playwright import sync_api

from genmask.web.server import serve
from tests.conftest import random_picture, toy_pipeline

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 120_000
"""Milliseconds: a busy machine is no failure."""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(toy_pipeline(), model="toy", port=0) as address:
        yield address


@pytest.fixture
def page(address: str) -> Iterator[sync_api.Page]:
    """Open, and checked at the end: no request to another machine, no error in the console."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(WAIT)
        foreign, errors = [], []
        page.on(
            "request",
            lambda request: (
                request.url.startswith((address, "data:", "blob:")) or foreign.append(request.url)
            ),
        )
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.goto(address)
        page.locator("#segment").wait_for()
        yield page
        assert (foreign, errors) == ([], [])
        browser.close()


def shown(page: sync_api.Page, address: str, last: str = "") -> tuple[str, np.ndarray]:
    """Address and pixels of the overlay, once it is another than the last."""
    picture = page.locator("#overlay img")
    picture.wait_for()
    page.wait_for_function("last => document.querySelector('#overlay img').src !== last", arg=last)
    source = picture.get_attribute("src")
    with Image.open(io.BytesIO(httpx.get(source).content)) as image:
        return source, np.asarray(image.convert("RGB")).astype(int)


def test_upload_type_see_move_download(page: sync_api.Page, address: str, tmp_path: Path) -> None:
    photo = random_picture(width=160, height=120)
    photo.save(tmp_path / "photo.png")
    with page.expect_response(lambda answer: "/upload" in answer.url and answer.ok):
        page.locator("input[type=file]").first.set_input_files(tmp_path / "photo.png")
    texts = page.locator("#texts textarea")
    texts.fill("the red mug\n<img src=x onerror=alert(1)>")
    page.locator("#segment").click()
    page.locator("#cards .card").nth(1).wait_for()
    assert page.locator("#cards .card b").all_inner_texts() == ["the red mug", "<img src=x onerror=alert(1)>"]
    first, before = shown(page, address)
    assert before.shape == (120, 160, 3)
    assert np.abs(before - np.asarray(photo)).mean() > 5  # something is drawn over the picture

    slider = page.locator("#threshold input[type=number]")
    slider.fill("0.99")
    slider.blur()
    page.locator("#cards .empty").first.wait_for()
    assert "nothing found" in page.locator("#cards .empty").first.inner_text()
    _, after = shown(page, address, first)
    assert np.abs(before - after).mean() > 5

    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "genmask.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        records = [json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")]
        assert [record["text"] for record in records] == ["the red mug", "<img src=x onerror=alert(1)>"]
        assert {record["threshold"] for record in records} == {0.99}
        mask = Image.open(io.BytesIO(archive.read("01-the-red-mug.mask.png")))
        assert mask.size == (160, 120)

    texts.fill("a green star\nthe red mug")
    page.locator("#segment").click()
    page.locator("#cards b", has_text="a green star").wait_for()


def test_what_is_wrong_is_said_on_the_page(page: sync_api.Page, tmp_path: Path) -> None:
    page.locator("#texts textarea").fill("the red mug")
    page.locator("#segment").click()
    page.get_by_text("Got no picture").wait_for()
    (tmp_path / "notes.png").write_text("these are words")
    with page.expect_response(lambda answer: "/upload" in answer.url and answer.ok):
        page.locator("input[type=file]").first.set_input_files(tmp_path / "notes.png")
    page.locator("#segment").click()
    page.get_by_text("cannot be read as a picture").wait_for()
    assert "Traceback" not in page.content()


def test_an_example_is_answered_at_a_click(page: sync_api.Page) -> None:
    page.locator("#examples button.thumbnail-item").first.click()
    page.locator("#cards .card").first.wait_for()
    asked = page.locator("#texts textarea").input_value().splitlines()
    assert page.locator("#cards .card b").all_inner_texts() == asked


def test_draw(page: sync_api.Page) -> None:
    page.get_by_role("tab", name="Draw").click()
    page.locator("#prompt textarea").fill("a red mug")
    page.locator("#draw").click()
    page.locator("#drawn img").wait_for()
    source = page.locator("#drawn img").get_attribute("src")
    with Image.open(io.BytesIO(httpx.get(source).content)) as picture:
        assert picture.size == (64, 64)


def test_a_drawing_is_stopped_and_the_next_one_is_drawn(page: sync_api.Page) -> None:
    page.get_by_role("tab", name="Draw").click()
    page.locator("#prompt textarea").fill("a red mug")
    page.get_by_label("number input for Steps").fill("100")
    page.locator("#draw").click()
    page.locator("#drawn .progress-text").wait_for()
    page.locator("#stop").click()
    page.locator("#drawn .progress-text").wait_for(state="detached")
    assert not page.locator("#drawn img").count()
    page.get_by_label("number input for Steps").fill("1")
    page.locator("#draw").click()
    page.locator("#drawn img").wait_for()
