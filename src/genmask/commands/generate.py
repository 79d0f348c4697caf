"""genmask generate"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from genmask.commands.inference import Inference, load
from genmask.commands.output import prepare_output, unique_stem
from genmask.commands.terminal import only_json


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
    """Steps of the scheduler."""
    scheduler: str | None = None
    """A flow-matching scheduler of diffusers by its class, such as UniPCMultistepScheduler; by default the model's."""
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
        from genmask.atomic import save_png
        from genmask.sampling import make_scheduler

        records = []
        stems: set[str] = set()
        with only_json(self.json):
            pipeline = load(self)
            if self.scheduler is not None:
                config = pipeline.scheduler.config
                shift = config.get("shift", config.get("flow_shift", 1.0))
                pipeline.scheduler = make_scheduler(self.scheduler, shift)
            pictures = pipeline.generate(
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
