"""Fast paths from a picture and a sentence to a mask."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, attention_backend
from fast_paths_rounds import Rounds, Row, largest
from PIL import Image
from torch import Tensor

from genmask.data.scenes import Scenes
from genmask.images import open_image
from genmask.jobs.answers import Options, Segmenter, write_files
from genmask.jobs.pictures import Picture, name_files
from genmask.latents import LatentCodec
from genmask.mask_head import LinearMaskHead
from genmask.pipeline import GenMaskPipeline
from genmask.processor import segmentation_prompt

BATCH, PROMPTS = 8, 10
PAPER_VAE_SIDE = {"cpu": 64, "cuda": 512}
"""In pixels; the ratio hardly depends on it."""


@cache
def scene_pictures(count: int = BATCH) -> tuple[list[np.ndarray], list[str]]:
    """Scenes of 256 x 256 pixels, with a sentence each."""
    scenes = Scenes("val", size=256)
    examples = [scenes[number * Scenes.EXPRESSIONS_PER_SCENE] for number in range(count)]
    return [example.image for example in examples], [example.text for example in examples]


@cache
def bundled(device: torch.device, dtype: torch.dtype | None = None) -> GenMaskPipeline:
    """In the precision that commands choose by themselves, unless told; not to be changed."""
    usual = torch.bfloat16 if device.type == "cuda" else torch.float32
    return GenMaskPipeline.from_pretrained("tiny", torch_dtype=dtype or usual, device=device)


def vae(rounds: Rounds) -> Iterator[Row]:
    """The VAE as a 2-D view of itself, against diffusers' 3-D one."""
    torch.manual_seed(0)
    paper = AutoencoderKLWan().eval().requires_grad_(False).to(rounds.device)
    sizes = [("bundled size", bundled(rounds.device, torch.float32).vae, BATCH, 128)]
    sizes.append(("paper's size", paper, 1, PAPER_VAE_SIDE[rounds.device.type]))
    for size, model, count, side in sizes:
        codec = LatentCodec(model, torch.float32)
        pixels = torch.rand(count, 3, side, side, device=rounds.device) * 2 - 1
        z = torch.randn(count, model.config.z_dim, side // 8, side // 8, device=rounds.device)
        with torch.no_grad():
            yield rounds.compare(
                f"2-D VAE, encoding, {size}", "3-D (diffusers)",
                lambda codec=codec, pixels=pixels: codec.encode_moments(pixels)[0],
                lambda model=model, pixels=pixels: model.encode(pixels.unsqueeze(2)).latent_dist.mean[:, :, 0],
                largest,
            )  # fmt: skip
            yield rounds.compare(
                f"2-D VAE, decoding, {size}", "3-D (diffusers)",
                lambda codec=codec, z=z: codec.decode_raw(z).clamp(-1, 1),
                lambda model=model, z=z: model.decode(z.unsqueeze(2)).sample[:, :, 0],
                largest,
            )  # fmt: skip


def prompts(rounds: Rounds) -> Iterator[Row]:
    """A picture that is read once for all its prompts, which share passes of the transformer."""
    picture, texts = scene_pictures()[0][0], scene_pictures(PROMPTS)[1]
    for dtype in (torch.float32, torch.bfloat16):
        pipe = bundled(rounds.device, dtype)
        together = partial(pipe.segment, picture, texts, batch_size=PROMPTS)
        single = partial(pipe.segment, picture)
        name = f"{PROMPTS} prompts in one call, {_short(dtype)}"
        yield rounds.compare(
            name,
            f"{PROMPTS} calls",
            together,
            lambda single=single: list(map(single, texts)),
            soft_masks if dtype == torch.float32 else pixels_apart,
        )
        yield rounds.compare(name, "one prompt", together, partial(single, texts[0]))


@torch.no_grad()
def head(rounds: Rounds) -> Iterator[Row]:
    """Hidden states without logits, against the model's usual forward."""
    pipe = bundled(rounds.device)
    images, texts = scene_pictures()
    inputs = pipe.processor.prepare([segmentation_prompt(text) for text in texts], images).to(rounds.device)

    def plain() -> Tensor:
        output = pipe.vlm(
            input_ids=inputs.input_ids,
            position_ids=inputs.position_ids,
            pixel_values=inputs.pixel_values,
            image_grid_thw=inputs.image_grid_thw,
            use_cache=False,
            output_hidden_states=True,
        )
        return output.hidden_states[-1]

    fast = partial(pipe.encoder.hidden_states, inputs)
    yield rounds.compare("VLM without its head", "all logits", fast, plain, largest)


@torch.no_grad()
def linear(rounds: Rounds) -> Iterator[Row]:
    """A linear map from latents to the mask."""
    pipe = bundled(rounds.device)
    mask_head = pipe.mask_head or LinearMaskHead().to(rounds.device)
    latents = torch.randn(BATCH, 16, 16, 16, device=rounds.device)
    yield rounds.compare(
        "linear map to the mask",
        "VAE decoder",
        lambda: mask_head(latents),
        lambda: pipe.codec.decode(latents),
    )


def compiled(rounds: Rounds) -> Iterator[Row]:
    """Compiled blocks, after their warm-up, which is shown."""
    plain = bundled(rounds.device)
    images, texts = scene_pictures()
    fast = GenMaskPipeline.from_pretrained("tiny", torch_dtype=plain.transformer.dtype, device=rounds.device)
    difference = soft_masks if plain.transformer.dtype == torch.float32 else pixels_apart
    warm_up = f"warm-up {fast.compile_blocks(BATCH):.0f} s"
    for name, image, text in (("one picture", images[0], texts[0]), (f"{BATCH} pictures", images, texts)):
        yield rounds.compare(
            f"compiled blocks, {name} ({warm_up})", "as they are",
            partial(fast.segment, image, text), partial(plain.segment, image, text), difference,
        )  # fmt: skip


@torch.no_grad()
def sdpa(rounds: Rounds) -> Iterator[Row]:
    """The attention that is chosen by itself, against the others that the device has."""
    for dtype in (torch.float32, torch.bfloat16):
        transformer = bundled(rounds.device, dtype).transformer
        generator = torch.Generator().manual_seed(0)
        frames = torch.randn(BATCH, 16, 2, 16, 16, generator=generator).to(rounds.device)
        text = torch.randn(BATCH, 96, transformer.config.text_dim, generator=generator).to(rounds.device)
        mask = torch.arange(96, device=rounds.device) < torch.tensor([[80], [96]] * 4, device=rounds.device)
        times = torch.tensor([[0.0, 1000.0]], device=rounds.device).expand(BATCH, 2)

        def forward(
            backend: str | None = None, args: Any = (transformer, frames, times, text, mask)
        ) -> Tensor:
            model, *inputs = args
            with attention_backend(backend or "native"):
                if backend is None:
                    return model(*inputs).sample
                with _backend_of_processors(model, backend):
                    return model(*inputs).sample

        others = ["_native_math"]
        # Where the transformer's own products are chosen.
        others += ["native"] if rounds.device.type == "cpu" and dtype == torch.bfloat16 else []
        others += ["_native_efficient", "_native_cudnn"] if rounds.device.type == "cuda" else []
        for backend in others:
            yield rounds.compare(
                f"attention as chosen, {_short(dtype)}", backend, forward, partial(forward, backend), largest
            )


def bf16(rounds: Rounds) -> Iterator[Row]:
    """The networks in bfloat16."""
    low, full = (bundled(rounds.device, dtype) for dtype in (torch.bfloat16, torch.float32))
    images, texts = scene_pictures()
    for name, image, text in (("one picture", images[0], texts[0]), (f"{BATCH} pictures", images, texts)):
        yield rounds.compare(
            f"bfloat16, {name}", "float32",
            partial(low.segment, image, text), partial(full.segment, image, text), pixels_apart,
        )  # fmt: skip


@torch.no_grad()
def int8(rounds: Rounds) -> Iterator[Row]:
    """The VLM's linear layers in eight bits, which is about memory: it is seldom faster."""
    pipe = bundled(rounds.device, torch.bfloat16)
    rounded = GenMaskPipeline.from_pretrained(
        "tiny", torch_dtype=torch.bfloat16, device=rounds.device, vlm_precision="int8"
    )
    images, texts = scene_pictures()

    def states(model: GenMaskPipeline) -> Tensor:
        return model.encoder.encode_segmentation(images, texts).hidden_states

    yield rounds.compare(
        "VLM with int8 weights", "bfloat16 weights", partial(states, rounded), partial(states, pipe), largest
    )


def reading(rounds: Rounds) -> Iterator[Row]:
    """A folder whose pictures are read and written by threads while the model works."""
    pipe = bundled(rounds.device)
    options = Options(batch_size=4, formats=("rle",))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for number, picture in enumerate(scene_pictures(16)[0]):
            files.append(folder / f"{number}.jpg")
            Image.fromarray(picture).resize((1600, 1600)).save(files[-1], quality=95)
        pictures = name_files(files, ["the red star"])
        yield rounds.compare(
            "reading ahead, 16 JPEG of 1600 x 1600", "one after the other",
            lambda: [a.records for a in Segmenter(pipe, options, folder / "a").answer(pictures)],
            lambda: _one_after_the_other(pipe, pictures, options, folder / "b"),
            lambda ours, theirs: "none" if json.dumps(ours) == json.dumps(theirs) else "not equal",
        )  # fmt: skip


def threads(rounds: Rounds) -> Iterator[Row]:
    """As many threads as PyTorch takes, against one."""
    count = torch.get_num_threads()
    if rounds.device.type != "cpu" or count == 1:
        raise ValueError(f"Got {count} threads on {rounds.device.type}, expected several on a CPU.")
    pipe = bundled(rounds.device)
    images, texts = scene_pictures()

    def segment(num_threads: int, image: Any, text: Any) -> Any:
        torch.set_num_threads(num_threads)
        try:
            return pipe.segment(image, text)
        finally:
            torch.set_num_threads(count)

    for name, image, text in (("one picture", images[0], texts[0]), (f"{BATCH} pictures", images, texts)):
        yield rounds.compare(
            f"{count} threads, {name}", "one thread",
            partial(segment, count, image, text), partial(segment, 1, image, text), soft_masks,
        )  # fmt: skip


def soft_masks(ours: Any, theirs: Any) -> str:
    """Of soft masks, in [0, 1]."""
    pairs = zip(_as_list(ours), _as_list(theirs), strict=True)
    return f"{max(float(np.abs(a.soft_mask - b.soft_mask).max()) for a, b in pairs):.0e} of 1"


def pixels_apart(ours: Any, theirs: Any) -> str:
    """Share of pixels that are in one mask and not in the other."""
    pairs = zip(_as_list(ours), _as_list(theirs), strict=True)
    return f"{np.mean([(a.mask != b.mask).mean() for a, b in pairs]):.2%} of pixels"


def _one_after_the_other(
    pipe: GenMaskPipeline, pictures: Sequence[Picture], options: Options, output: Path
) -> list[Any]:
    records = []
    for start in range(0, len(pictures), options.batch_size):
        batch = pictures[start : start + options.batch_size]
        images = [open_image(picture.path) for picture in batch]
        found: Any = pipe.segment(
            images, [picture.texts[0] for picture in batch], batch_size=options.batch_size
        )
        records += [
            write_files(picture, [result], output, options)
            for picture, result in zip(batch, found, strict=True)
        ]
    return records


@contextmanager
def _backend_of_processors(transformer: Any, name: str) -> Iterator[None]:
    """In force by name, where a processor would otherwise choose."""
    transformer.set_attention_backend(name)
    try:
        yield
    finally:
        transformer.reset_attention_backend()


def _as_list(results: Any) -> list[Any]:
    return results if isinstance(results, list) else [results]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


INFERENCE: dict[str, Callable[[Rounds], Iterator[Row]]] = {
    row.__name__: row
    for row in (vae, prompts, head, linear, compiled, sdpa, bf16, int8, reading, threads)
}  # fmt: skip
