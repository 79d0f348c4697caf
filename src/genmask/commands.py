"""What the shell commands do: each is its options with their help, and `run`, which does the work.

Nothing heavy is imported before `run`.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What segmenting and generating share."""

    model: str = "tiny"
    """A model folder, a bundled model ("tiny") or a hub id (organisation/name): only that needs a network."""
    output: Path = Path("output")
    """Folder for the files; made if need be."""
    seed: int = 0
    """Of the noise; the same seed gives the same result."""
    batch_size: int = 8
    """Items in a forward pass; lower it if memory runs out."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks; auto is bfloat16 on CUDA, else float32."""
    json: Flag = False
    """Print one JSON document on stdout, and nothing else there."""


@dataclass(frozen=True, kw_only=True)
class Segment(Inference):
    """Find what sentences ask for in pictures: a mask for each picture and text.

    genmask segment photo.jpg --text "the red mug" --text "the table" --output masks

    Writes, for each, STEM.mask.png (lossless, 0 and 255), STEM.overlay.png and STEM.json.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Pictures; each gets every text."""
    text: Annotated[list[str], tyro.conf.UseAppendAction]
    """What to find, in any language."""
    threshold: float = 0.5
    """A pixel is in the mask if its soft mask is greater; in [0, 1)."""
    num_inference_steps: int = 1
    """Euler steps from noise to mask."""
    num_noises: int = 1
    """Average over this many noises: better and slower."""
    decoder: Literal["vae", "linear"] = "vae"
    """From latents to mask; linear needs a model with a mask head."""
    reason: Flag = False
    """Let the model first describe what the text means, and find that."""

    def run(self) -> None:
        if not self.images or not self.text:
            raise ValueError(
                f"Got {len(self.images)} pictures and {len(self.text)} texts, expected at least one of each, "
                'as in genmask segment photo.jpg --text "the red mug"'
            )
        prepare_output(self.output)
        from genmask.images import open_image

        for path in self.images:
            open_image(path)  # a bad picture is refused before the work begins, not in its midst
        records: list[dict[str, Any]] = []
        stems: set[str] = set()
        with only_json(self.json), progress("segment", len(self.images)) as advance:
            pipeline = load(self)
            for paths in self.groups():
                results: Any = pipeline.segment(
                    [path for path in paths for _ in self.text] if len(paths) > 1 else paths[0],
                    self.text * len(paths),
                    threshold=self.threshold,
                    num_inference_steps=self.num_inference_steps,
                    num_noises=self.num_noises,
                    decoder=self.decoder,
                    batch_size=self.batch_size,
                    seed=self.seed,
                    reason=self.reason,
                )
                for (path, text), result in zip(itertools.product(paths, self.text), results, strict=True):
                    files = result.save(self.output, stem=unique_stem(stems, path.stem, text))
                    named = {name: str(file) for name, file in files._asdict().items()}
                    records.append({"image": str(path), **result.to_dict(), "files": named})
                advance(len(paths))
        if self.json:
            print(json.dumps({"model": self.model, "results": records}, indent=2, ensure_ascii=False))
            return
        for record in records:
            said = f" (understood as {record['target']!r})" if self.reason else ""
            found = "nothing found" if record["is_empty"] else f"{record['area_fraction']:.1%} of the picture"
            sure = f"confidence {record['confidence']:.2f}"
            print(f"{record['image']}: {record['text']!r}{said}: {found}, {sure}, {record['files']['mask']}")

    def groups(self) -> list[tuple[Path, ...]]:
        """One text: pictures share a forward pass. Several texts: they share the encoding of a picture."""
        size = max(1, self.batch_size) if len(self.text) == 1 else 1
        return [self.images[start : start + size] for start in range(0, len(self.images), size)]


@dataclass(frozen=True, kw_only=True)
class Generate(Inference):
    """Draw pictures from captions.

    genmask generate "a red star on grass" --output pictures
    """

    texts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT...")]
    """Captions."""
    negative_prompt: str = ""
    """What to lead away from."""
    num_inference_steps: int = 30
    """Euler steps."""
    guidance_scale: float = 5.0
    """How much the caption counts; 1 is no guidance."""
    height: int | None = None
    """In pixels; by default the model's resolution."""
    width: int | None = None
    """In pixels; by default the model's resolution."""
    num_images_per_prompt: int = 1
    """Pictures of each caption, with the seeds seed, seed + 1, ..."""

    def run(self) -> None:
        if not self.texts:
            raise ValueError('Got no caption, expected one, as in genmask generate "a red star on grass"')
        prepare_output(self.output)
        from genmask.segmentation import save_png

        records = []
        stems: set[str] = set()
        with only_json(self.json):
            pictures = load(self).generate(
                list(self.texts),
                negative_prompt=self.negative_prompt,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                seed=self.seed,
                height=self.height,
                width=self.width,
                num_images_per_prompt=self.num_images_per_prompt,
                batch_size=self.batch_size,
            )
            for i, picture in enumerate(pictures):
                text = self.texts[i // self.num_images_per_prompt]
                file = self.output / f"{unique_stem(stems, text)}.png"
                save_png(picture, file)
                records.append({"text": text, "seed": self.seed + i, "file": str(file)})
        if self.json:
            print(json.dumps({"model": self.model, "results": records}, indent=2, ensure_ascii=False))
            return
        for record in records:
            print(f"{record['text']!r}, seed {record['seed']}: {record['file']}")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Run a training recipe, or go on where it stopped; without a recipe, list them.

    genmask train tiny --vae runs/tiny-vae/model --vlm runs/tiny-vlm/model --data photos
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = ""
    """Name of the recipe."""
    output: Path | None = None
    """Folder for checkpoints, log and the finished model; by default runs/RECIPE."""
    data: Path | None = None
    """Folder of photographs with masks, for the recipes that use one."""
    vae: Path | None = None
    """model/ folder of a finished VAE, for the recipes that build on one."""
    vlm: Path | None = None
    """model/ folder of a finished vision-language model, for the recipes that build on one."""
    max_minutes: float | None = None
    """Stop after this long, with a checkpoint to resume from."""

    def run(self) -> None:
        from genmask.recipes import RECIPES, run

        if not self.recipe:
            for name, recipe in RECIPES.items():
                print(f"{name}: {recipe().summary}")
            return
        if self.recipe not in RECIPES:
            names = ", ".join(RECIPES)
            raise ValueError(
                f"Got recipe {self.recipe!r}, expected one of {names}{did_you_mean(self.recipe, RECIPES)}"
            )
        output = self.output or Path("runs") / self.recipe
        prepare_output(output)
        finished = run(
            self.recipe, output, photos=self.data, vae=self.vae, vlm=self.vlm, max_minutes=self.max_minutes
        )
        print(
            f"{output / 'model'}: done"
            if finished
            else f"{output}: stopped; the same command goes on from here"
        )


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Assemble the paper-size model from published folders, ready to be trained.

    genmask convert --wan Wan2.1-T2V-1.3B-Diffusers --qwen Qwen2.5-VL-7B-Instruct --output genmask-1.3b
    """

    wan: Path
    """Diffusers folder of Wan-2.1 text-to-video."""
    qwen: Path
    """Transformers folder of Qwen2.5-VL."""
    output: Path
    """New folder for the model."""
    resolution: int = 512
    """Pictures are processed at resolution x resolution pixels, in their own aspect ratio."""
    seed: int = 0
    """Of the one layer that is new."""

    def run(self) -> None:
        prepare_output(self.output)
        from genmask.convert import convert

        folder = convert(self.wan, self.qwen, self.output, resolution=self.resolution, seed=self.seed)
        print(f"{folder}: a model of Wan's and Qwen's weights; it finds nothing before it is trained.")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message: the nearest of the valid names, if any is near."""
    nearest = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f": did you mean {nearest[0]}?" if nearest else ""


def prepare_output(folder: Path) -> None:
    """Make the folder and try it: what cannot be written is refused before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"Got output {str(folder)!r}, which cannot be written to ({error.strerror}), expected a folder that "
            "can be: name another with --output."
        ) from error


def unique_stem(taken: set[str], *parts: str) -> str:
    """A file name without ending, made of sentences and unlike those taken; it joins them."""
    from genmask.segmentation import file_stem

    # 200 bytes: with an ending it fits the 255 that file systems allow, in any script.
    base = "-".join(file_stem(part) for part in parts).encode()[:200].decode(errors="ignore")
    stem = next(stem for n in itertools.count(1) if (stem := base if n == 1 else f"{base}-{n}") not in taken)
    taken.add(stem)
    return stem


def load(command: Inference) -> GenMaskPipeline:
    """The model, where and in the precision that the command asks for."""
    import diffusers
    import torch
    import transformers

    from genmask.pipeline import GenMaskPipeline

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = ["cpu", *([accelerator.type] if accelerator else [])]
    device = here[-1] if command.device == "auto" else command.device
    if device.partition(":")[0] not in here:
        raise ValueError(
            f"Got device {device!r}, expected auto or one that PyTorch sees here: {', '.join(here)}."
        )
    dtype = command.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return GenMaskPipeline.from_pretrained(command.model, torch_dtype=getattr(torch, dtype), device=device)


@contextlib.contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """While the work is done, whatever a library prints goes to stderr if stdout is to hold JSON alone."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
