"""genmask analyse"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genmask.commands.inference import Flag, Inference, load, place
from genmask.commands.output import prepare_output
from genmask.commands.terminal import only_json, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmask.analysis.material import Split
    from genmask.analysis.paper_figures import Material
    from genmask.data.example import Example
    from genmask.latents import LatentCodec
    from genmask.pipeline import GenMaskPipeline

FIGURE_SAMPLES = 12
"""In Figure 7."""
VAE_RESOLUTION = 256
"""Without a model, masks and pictures have the area of a square of so many pixels."""


@dataclass(frozen=True, kw_only=True)
class Analyse(Inference):
    """Draw the paper's Figures 2, 3, 4, 5 and 7 for any model; fit a linear decoder to it; or say how far its soft
    masks and its confidence can be believed.

    genmask analyse --model tiny --output figures
    genmask analyse --vae Wan2.1-T2V-1.3B-Diffusers/vae --masks masks --photos photos --figures 2 3 4
    genmask analyse --fit-decoder predictions --data photos --save-model tiny-linear
    genmask analyse --calibration --data photos --held-out 2000

    Writes figure-N.png, figure-N.svg and the numbers as figure-N.json; of a fitted decoder, its scores beside those of
    the VAE's as decoders.json; calibration.png, .svg, .json and .md.
    """

    figures: tuple[Literal[2, 3, 4, 5, 7], ...] = ()
    """Numbers of the paper's figures. If none is given: all that can be drawn, but none with --fit-decoder or
    --calibration."""
    vae: Path | None = None
    """Analyse this VAE alone (a folder with config.json and weights), and no model."""
    masks: Path | None = None
    """Folder of black-and-white masks for Figures 2, 3 and 4; by default those of --data, else of drawn scenes."""
    photos: Path | None = None
    """Folder of pictures for Figures 2 and 3; by default those of --data, else drawn scenes."""
    data: Path | None = None
    """Photographs with class masks, or a folder of your own with masks: used beside drawn scenes."""
    samples: int = 96
    """Masks, and pictures, in Figures 2, 3 and 4."""
    fit_decoder: Literal["masks", "predictions"] | None = None
    """Fit a linear map from latents to masks: on the latents of right masks, or on what the model predicts."""
    kernel: Literal[1, 3, 5] = 3
    """Of that map: pixels are made of their own latent cell, or of 3 x 3 or 5 x 5 cells around it."""
    fit_samples: int = 3000
    """Training samples it is fitted on; half of them drawn scenes, where there are --data."""
    calibration: Flag = False
    """Fit one temperature to the soft masks of each decoder on half of the held-out pictures, and measure on the other
    half how far soft masks and confidence can be believed, before and after."""
    held_out: int = 400
    """Samples that a fitted decoder is scored on, or the calibration measured, which no training has seen."""
    save_model: Path | None = None
    """Write the model with the fitted decoder to this new folder: for segment --decoder linear and, where it is fitted
    on predictions, as the one that segment takes unasked, with --threshold auto."""
    output: Path = Path("analysis")
    """Folder for figures and numbers."""

    def run(self) -> None:
        for name, least in (("samples", 2), ("fit_samples", 1), ("held_out", 1), ("batch_size", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"Got --{name.replace('_', '-')} {value}, expected at least {least}.")
        needs = {
            "--figures 7": 7 in self.figures,
            "--fit-decoder": self.fit_decoder is not None,
            "--calibration": self.calibration,
        }
        for what, is_asked in needs.items():
            if self.vae is not None and is_asked:
                raise ValueError(f"Got --vae with {what}, which needs a whole model: give --model.")
        if self.save_model is not None and self.fit_decoder is None:
            raise ValueError(
                "Got --save-model without a decoder to save, expected --fit-decoder predictions, or masks."
            )
        if self.save_model is not None and self.save_model.exists():
            raise ValueError(f"Got --save-model {str(self.save_model)!r}, which exists: name a new folder.")
        prepare_output(self.output)
        from genmask.analysis.figures import drawing
        from genmask.analysis.paper_figures import FIGURES, write_figure

        numbers = tuple(dict.fromkeys(self.figures))
        if not numbers and self.fit_decoder is None and not self.calibration:
            numbers = tuple(number for number in FIGURES if number != 7 or self.vae is None)
        files: list[Path] = []
        with only_json(self.json):
            if numbers or self.calibration:
                with drawing():  # no matplotlib: said before the work, not after
                    pass
            pipeline = load(self) if self.vae is None else None
            if numbers:
                material = self.material(pipeline)
                with progress("figures", len(numbers)) as advance:
                    for number in numbers:
                        files += write_figure(number, material, self.output)
                        advance(1)
            if self.fit_decoder is not None:
                assert pipeline is not None
                files += self.fit(pipeline)
            if self.calibration:
                assert pipeline is not None
                files += self.calibrate(pipeline)
        if self.json:
            analysed = {"model": self.model} if self.vae is None else {"vae": str(self.vae)}
            documents = [file for file in files if file.suffix == ".json"]
            results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in documents}
            print(json.dumps({**analysed, **results, "files": [str(file) for file in files]}, indent=2))
            return
        for file in files:
            print(file)

    def material(self, pipeline: GenMaskPipeline | None) -> Material:
        """Of the figures."""
        from genmask.analysis.material import (
            drawn_examples,
            masks_of,
            pictures_of,
            read_examples,
            read_masks,
            read_pictures,
        )
        from genmask.analysis.paper_figures import Material

        side = VAE_RESOLUTION if pipeline is None else pipeline.config.resolution
        area = side**2
        if self.data is not None:
            examples = list(read_examples(self.data, "val", self.samples, area=area, seed=self.seed))
        else:
            examples = list(islice(drawn_examples("val", side, self.seed), self.samples))
        return Material(
            codec=self.load_vae() if pipeline is None else pipeline.codec,
            masks=masks_of(examples, area)
            if self.masks is None
            else read_masks(self.masks, self.samples, area),
            pictures=(
                pictures_of(examples, area)
                if self.photos is None
                else read_pictures(self.photos, self.samples, area)
            ),
            pipeline=pipeline,
            samples=[
                example for part in self.examples("val", FIGURE_SAMPLES, side).values() for example in part
            ],
            seed=self.seed,
        )

    def load_vae(self) -> LatentCodec:
        """That of --vae, in float32."""
        import torch
        from diffusers import AutoencoderKLWan

        from genmask.latents import LatentCodec
        from genmask.loading import load_model

        assert self.vae is not None
        device, dtype = place(self.device, "float32")
        vae = load_model(AutoencoderKLWan, self.vae, dtype=getattr(torch, dtype))
        return LatentCodec(vae.to(device))

    def examples(self, split: Split, count: int, side: int) -> dict[str, Iterator[Example]]:
        """`count` of them by where they are from: drawn scenes and, as many, --data."""
        from genmask.analysis.material import drawn_examples, read_examples

        drawn = drawn_examples(split, side, self.seed)
        if self.data is None:
            return {"drawn scenes": islice(drawn, count)}
        read = read_examples(self.data, split, count // 2, area=side**2, seed=self.seed)
        return {"drawn scenes": islice(drawn, count - count // 2), self.data.name: read}

    def fit(self, pipeline: GenMaskPipeline) -> list[Path]:
        """Fit a decoder, score it, save it; the files."""
        from rich.console import Console

        from genmask.analysis.decoders import compare_decoders, decoder_table, fit_decoder, save_with_decoder
        from genmask.analysis.presence import presence_table
        from genmask.atomic import save_json
        from genmask.evaluation.report import table
        from genmask.model_folder import resolve_model

        assert self.fit_decoder is not None
        side, options = pipeline.config.resolution, {"batch_size": self.batch_size, "seed": self.seed}
        training = chain.from_iterable(self.examples("train", self.fit_samples, side).values())
        with progress("fit", self.fit_samples) as advance:
            fitted = fit_decoder(
                pipeline, training, self.fit_decoder, kernel=self.kernel, advance=advance, **options
            )
        scores, presence = {}, {}
        with progress("score", self.held_out) as advance:
            for source, examples in self.examples("val", self.held_out, side).items():
                scores[source], told = compare_decoders(
                    pipeline, fitted, examples, advance=advance, **options
                )
                if told is not None:
                    presence[source] = told
        file = self.output / "decoders.json"
        report = {
            "fitted_on": self.fit_decoder,
            "kernel": self.kernel,
            "scores": scores,
            "presence": presence,
        }
        save_json(report, file)
        if not self.json:
            console = Console(width=max(120, Console().width))  # a narrow terminal breaks lines, not numbers
            for source, by_decoder in scores.items():
                console.print(table(decoder_table(source, by_decoder)))
            if presence:
                console.print(table(presence_table(presence)))
        if self.save_model is not None:
            as_own = self.fit_decoder == "predictions"
            save_with_decoder(resolve_model(self.model), fitted, self.save_model, as_own=as_own)
            return [file, self.save_model]
        return [file]

    def calibrate(self, pipeline: GenMaskPipeline) -> list[Path]:
        """Measure how far soft masks and confidence can be believed, and draw it; the files."""
        from rich.console import Console

        from genmask.analysis.calibration import calibration_tables, measure_calibration, write_calibration
        from genmask.evaluation.report import table

        with progress("calibration", self.held_out) as advance:
            reports = measure_calibration(
                pipeline,
                lambda: self.examples("val", self.held_out, pipeline.config.resolution),
                batch_size=self.batch_size,
                seed=self.seed,
                advance=advance,
            )
        if not self.json:
            console = Console(width=max(170, Console().width))  # a narrow terminal breaks lines, not numbers
            for part in calibration_tables(reports):
                console.print(table(part))
        return write_calibration(reports, self.output)
