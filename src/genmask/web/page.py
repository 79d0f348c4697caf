"""What is on the page, and what happens when it is used."""

from __future__ import annotations

import contextlib
import html
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from genmask.atomic import save_png
from genmask.images import FORMATS, ImageError, open_image
from genmask.segmentation import Segmentation
from genmask.web.answers import Answers, cut, describe, draw_overlay, write_zip
from genmask.web.drawn_examples import captions, draw_examples
from genmask.web.folder import PageFolder

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline

MAX_TEXTS = 10
"""Sentences in a request."""
MAX_STEPS = 100
"""Euler steps of a drawing."""
MAX_SCALE = 2
"""Longest side of a drawing, over the model's resolution."""
MODEL = "model"
"""The queue of everything that runs the model: one request after the other."""
HINT = '<p class="hint">The answers come here: what was found for each sentence, and how sure that is.</p>'


class Page:
    """A model as functions of what the page sends; each error that a visitor can mend is a `gr.Error` of one line.

    Args:
        pipeline: the model.
        folder: for files that are served.
        max_pixels: of an uploaded picture.
        max_bytes: of the answers that are remembered.
    """

    def __init__(
        self, pipeline: GenMaskPipeline, folder: PageFolder, max_pixels: int, max_bytes: int
    ) -> None:
        self.pipeline, self.folder, self.max_pixels = pipeline, folder, max_pixels
        self.answers = Answers(max_bytes)
        # Scheduler, rotary cache and the language model's positions are state of the pipeline. The queue alone does
        # not keep requests apart: where a visitor leaves, it goes on to the next while the thread still runs.
        self._lock = threading.Lock()
        self._drawing_for: str | None = None
        """The visitor for whom a picture is being drawn."""

    def segment(
        self,
        image: str | None,
        texts: str,
        threshold: float | None = None,
        reason: bool = False,
        seed: int = 0,
    ) -> tuple[list[dict[str, Any]], str]:
        """Find what each line of `texts` asks for in a picture; without a threshold, the model takes its own.

        Returns a record for each (text, target, width, height, threshold, confidence, is_empty, area_fraction, box,
        rle), and a picture with all masks drawn over it.
        """
        with plain_errors():
            results = cut(self._segment(image, texts, reason, seed), threshold)
            return [result.to_dict() for result in results], str(draw_overlay(results, self.folder.new()))

    def generate(
        self,
        prompt: str,
        negative_prompt: str = "",
        num_inference_steps: int = 30,
        guidance_scale: float = 5.0,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        request: gr.Request | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio fills in both)
    ) -> str | dict[str, Any]:
        """Draw a picture from a caption; height and width are multiples of 16. Of a stopped one nothing is shown."""
        with plain_errors():

            def on_step_end(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                progress((step + 1, num_inference_steps), unit="steps")
                return tensors

            with self._lock, self._drawing(request):
                (picture,) = self.pipeline.generate(
                    prompt,
                    negative_prompt=negative_prompt,
                    num_inference_steps=num_inference_steps,
                    guidance_scale=guidance_scale,
                    seed=seed,
                    height=height,
                    width=width,
                    callback_on_step_end=on_step_end,
                )
                if self.pipeline.interrupt:  # half noise, and nobody wants it
                    return gr.skip()
            path = self.folder.new() / "picture.png"
            save_png(picture, path)
            return str(path)

    def stop(self, request: gr.Request) -> None:
        """End the drawing that is being made for the visitor, if there is one, after the step it is at."""
        if self._drawing_for is not None and self._drawing_for == request.session_hash:
            self.pipeline._interrupt = True

    @contextlib.contextmanager
    def _drawing(self, request: gr.Request | None) -> Iterator[None]:
        """For whom it is drawn meanwhile."""
        self._drawing_for = None if request is None else request.session_hash
        try:
            yield
        finally:
            self._drawing_for = None

    def show(
        self,
        image: str | None,
        texts: str,
        automatic: bool,
        threshold: float,
        reason: bool,
        seed: int,
        request: gr.Request,
    ) -> tuple[str, str, Any]:
        """For the page: overlay, cards, and a download that is ready."""
        with plain_errors():
            results = self._segment(image, texts, reason, seed)
            self.answers.put(str(request.session_hash), results)
            results = cut(results, None if automatic else threshold)
            return (
                str(draw_overlay(results, self.folder.new())),
                describe(results),
                gr.update(interactive=True),
            )

    def cut(self, automatic: bool, threshold: float, cards: str, request: gr.Request) -> tuple[Any, Any]:
        """The last answer at another threshold; the model does not run."""
        with plain_errors():
            results = self._remembered(automatic, threshold, cards, request)
            return (
                (str(draw_overlay(results, self.folder.new())), describe(results))
                if results
                else (gr.skip(), gr.skip())
            )

    def cut_by_hand(self, threshold: float, cards: str, request: gr.Request) -> tuple[Any, Any, bool]:
        """The same; whoever moves the threshold wants no automatic one."""
        return (*self.cut(False, threshold, cards, request), False)

    def download(self, automatic: bool, threshold: float, cards: str, request: gr.Request) -> Any:
        """The last answer as a zip."""
        with plain_errors():
            results = self._remembered(automatic, threshold, cards, request)
            return str(write_zip(results, self.folder.new())) if results else gr.skip()

    def _remembered(
        self, automatic: bool, threshold: float, cards: str, request: gr.Request
    ) -> list[Segmentation] | None:
        results = self.answers.at(str(request.session_hash), None if automatic else threshold)
        if results is None and cards != HINT:
            raise ValueError("This answer is not remembered any more: press Segment again.")
        return results

    def _segment(self, image: str | None, texts: str, reason: bool, seed: int) -> list[Segmentation]:
        if image is None:
            raise ValueError("Got no picture: drop one on the page, or click an example.")
        lines = [line.strip() for line in (texts or "").splitlines() if line.strip()]
        if not 1 <= len(lines) <= MAX_TEXTS:
            raise ValueError(
                f"Got {len(lines)} sentences, expected 1 to {MAX_TEXTS}: write each on a line of its own."
            )
        picture = self._open(Path(image))
        with self._lock:
            results = self.pipeline.segment(picture, lines, reason=bool(reason), seed=seed)
        assert isinstance(results, list)
        return results

    def _open(self, path: Path) -> Image.Image:
        try:
            if (pixels := _pixels(path)) > self.max_pixels:
                raise ImageError(
                    f"Got {str(path)!r} of {pixels / 1e6:.1f} megapixels, expected at most "
                    f"{self.max_pixels / 1e6:g}: make it smaller first."
                )
            return open_image(path)
        except ImageError as error:
            # The visitor knows the picture by its name, and need not know our folders.
            raise ImageError(str(error).replace(str(path), path.name)) from error


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """What a visitor can mend, as a line on the page; anything else stays on the server's stderr."""
    try:
        yield
    except ValueError as error:
        # A message is HTML to the page, and may quote what the visitor typed.
        raise gr.Error(
            html.escape(" ".join(str(error).split()), quote=False), print_exception=False
        ) from None


def picture_input() -> gr.Image:
    """Gradio's, but what is uploaded comes as it is, for `open_image`, which knows bombs; addresses are refused.

    Its methods are replaced in the object: for a subclass Gradio would write a file beside this one.
    """
    picture: Any = gr.Image(
        label="Picture", sources=["upload", "clipboard"], type="filepath", height=340, buttons=[]
    )
    move_to_cache = picture.async_move_resource_to_block_cache

    async def move(path: Any) -> str | None:
        if "://" in str(path):
            raise gr.Error("Got an address, expected a picture: upload the file.", print_exception=False)
        return await move_to_cache(path)

    picture.async_move_resource_to_block_cache = move
    picture.preprocess = lambda payload: None if payload is None else payload.path
    return picture


def build(page: Page, model: str) -> gr.Blocks:
    """The page; its named API is `segment` and `generate`."""
    resolution = page.pipeline.config.resolution
    examples = draw_examples(page.folder.new())
    device = page.pipeline.device.type
    with gr.Blocks(title="genmask", analytics_enabled=False) as blocks:
        gr.HTML(
            '<header class="masthead"><h1><span>genmask</span></h1>'
            "<p>A sentence and a picture become a mask, in one step.</p>"
            f"<code>{html.escape(model)} on {html.escape(device)}</code></header>"
        )
        with gr.Tab("Segment"):
            with gr.Row(equal_height=False):
                with gr.Column(min_width=300):
                    image = picture_input()
                    texts = gr.Textbox(
                        label="What to find, one sentence per line",
                        placeholder="the red mug\nthe table",
                        lines=2,
                        max_lines=MAX_TEXTS,
                        elem_id="texts",
                    )
                    with gr.Row():
                        reason = gr.Checkbox(
                            label="Reason first",
                            info="For questions: the model first writes what is meant.",
                            min_width=160,
                        )
                        segment_seed = gr.Number(label="Seed", value=0, precision=0, min_width=100)
                    go = gr.Button("Segment", variant="primary", size="lg", elem_id="segment")
                with gr.Column(min_width=300):
                    overlay = gr.Image(
                        label="Masks", interactive=False, height=340, buttons=["download", "fullscreen"],
                        elem_id="overlay",
                    )  # fmt: skip
                    with gr.Row():
                        automatic = gr.Checkbox(
                            True, label="Automatic threshold", info="The model's own, for each mask.",
                            min_width=160, elem_id="automatic",
                        )  # fmt: skip
                        threshold = gr.Slider(
                            0, 0.99, value=0.5, step=0.01, label="Threshold", elem_id="threshold", min_width=200,
                            info="A pixel is in the mask if its soft mask is greater.",
                        )  # fmt: skip
                    cards = gr.HTML(HINT, elem_id="cards")
                    download = gr.Button("Download masks", interactive=False, elem_id="download")
                    # Made when asked for, then clicked by the page: masks need not be written at each threshold.
                    archive = gr.DownloadButton(visible="hidden", elem_id="archive")
            gallery = gr.Gallery(
                [(str(path), text.replace("\n", " · ")) for path, text in examples],
                label="Examples: click one", columns=6, height="auto", allow_preview=False, interactive=False,
                buttons=[], elem_id="examples",
            )  # fmt: skip
        with gr.Tab("Draw"), gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                prompt = gr.Textbox(
                    label="Caption", placeholder="a red star on grass", lines=2, elem_id="prompt"
                )
                gr.Examples([[caption] for caption in captions(4)], prompt, label="Captions to try")
                with gr.Row():
                    steps = gr.Slider(1, MAX_STEPS, value=30, step=1, label="Steps", min_width=140)
                    guidance = gr.Slider(
                        1, 15, value=5.0, step=0.5, label="Guidance", info="1 is none", min_width=140
                    )
                with gr.Row():
                    sides = [
                        gr.Slider(
                            16, MAX_SCALE * resolution, value=resolution, step=16, label=label, min_width=140
                        )
                        for label in ("Height", "Width")
                    ]
                negative = gr.Textbox("", label="Lead away from", placeholder="blurred")
                generate_seed = gr.Number(label="Seed", value=0, precision=0)
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", size="lg", elem_id="draw", min_width=140)
                    stop = gr.Button("Stop", size="lg", elem_id="stop", min_width=140)
            with gr.Column(min_width=300):
                drawn = gr.Image(
                    label="Picture", interactive=False, height=420, buttons=["download", "fullscreen"],
                    elem_id="drawn",
                )  # fmt: skip

        asked = [image, texts, automatic, threshold, reason, segment_seed]
        shown = [overlay, cards, download]
        runs_model: dict[str, Any] = {"concurrency_id": MODEL, "concurrency_limit": 1}
        private: dict[str, Any] = {"api_visibility": "private"}
        go.click(page.show, asked, shown, **runs_model, **private)

        def pick(event: gr.SelectData) -> tuple[str, str]:
            path, text = examples[int(event.index)]
            return str(path), text

        gallery.select(pick, None, [image, texts], **private).then(
            page.show, asked, shown, **runs_model, **private
        )
        moved: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden", **private}
        threshold.input(page.cut_by_hand, [threshold, cards], [overlay, cards, automatic], **moved)
        automatic.input(page.cut, [automatic, threshold, cards], [overlay, cards], **moved)
        download.click(page.download, [automatic, threshold, cards], archive, **private).then(
            None, js="() => document.querySelector('#archive')?.click()", **private
        )
        wished = [prompt, negative, steps, guidance, generate_seed, *sides]
        drawing = draw.click(page.generate, wished, drawn, api_name="generate", **runs_model)
        # Gradio forgets a call that waits, and what one that runs will answer, but leaves its thread to itself.
        stop.click(page.stop, None, None, cancels=[drawing], **private)
        # The API's own outputs: plain JSON and a file.
        records, picture = gr.JSON(visible=False), gr.Image(visible=False)
        own = gr.Number(None, visible=False, label="threshold")
        api = gr.Button(visible=False)
        wanted = [image, texts, own, reason, segment_seed]
        api.click(page.segment, wanted, [records, picture], api_name="segment", **runs_model)
    return blocks


def _pixels(path: Path) -> int:
    """By the header; 0 where that cannot be read, for `open_image` to say why."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as header:
            return header.width * header.height
    return 0
