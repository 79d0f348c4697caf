"""genmask train"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from genmask.commands.output import prepare_output
from genmask.commands.terminal import did_you_mean


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
    start: str | None = None
    """In place of both, a finished model to go on from: a folder, a bundled model or a hub id."""
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
            self.recipe,
            output,
            photos=self.data,
            vae=self.vae,
            vlm=self.vlm,
            start=self.start,
            max_minutes=self.max_minutes,
        )
        print(
            f"{output / 'model'}: done"
            if finished
            else f"{output}: stopped; the same command goes on from here"
        )
