"""genmask train"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from genmask.commands.output import prepare_output
from genmask.commands.terminal import did_you_mean

if TYPE_CHECKING:
    from genmask.recipe_tasks import Parts
    from genmask.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Train:
    """Run a training recipe, or go on where it stopped.

    genmask train finetune --data my-pictures --output runs/mine

    genmask train paper --start converted --data sets --override loop.accumulation=4

    Started by accelerate launch or torchrun, it runs on as many processes as they start. SIGTERM ends it with a
    checkpoint.
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = ""
    """Name of the recipe."""
    list: bool = False
    """Say which recipes there are, what each is expected to score and to cost."""
    output: Path | None = None
    """Folder for checkpoints, log and the finished model; by default runs/RECIPE."""
    data: Path | None = None
    """Folder that holds the recipe's data sets, or, for finetune, your own."""
    start: str | None = None
    """A finished model to go on from: a folder, a bundled model or a hub id."""
    vae: Path | None = None
    """model/ folder of a finished VAE, for a transformer from scratch."""
    vlm: Path | None = None
    """model/ folder of a finished vision-language model, for a transformer from scratch."""
    transformer: Path | None = None
    """model/ folder of a transformer to go on from, in place of the starting model's or of a new one."""
    cache: Path | None = None
    """What genmask cache made of the recipe's samples."""
    override: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=VALUE")] = ()
    """Change a field of the recipe, such as loop.steps=100 or model.segmentation_density=PowerLaw(0.1); may be given
    several times. --dry-run shows all fields."""
    dry_run: bool = False
    """Say what the run is made of and what it needs, and stop."""
    processes: int = 1
    """With --dry-run: how many GPUs to reckon with."""
    max_minutes: float | None = None
    """Stop after this long, with a checkpoint to resume from."""

    def run(self) -> None:
        from genmask.recipe_runs import run
        from genmask.recipe_tasks import Parts
        from genmask.recipes import RECIPES

        if self.list or not self.recipe:
            _print_recipes(RECIPES.items())
            return
        recipe = find(self.recipe, self.override)
        parts = Parts(
            data=self.data,
            vae=self.vae,
            vlm=self.vlm,
            start=self.start,
            transformer=self.transformer,
            cache=self.cache,
        )
        if self.dry_run:
            _print_cost(recipe, parts, self.processes)
            return
        output = self.output or Path("runs") / self.recipe
        prepare_output(output)
        finished = run(self.recipe, output, parts, max_minutes=self.max_minutes, recipe=recipe)
        if _is_main_process():
            print(
                f"{output / 'model'}: done"
                if finished
                else f"{output}: stopped; the same command goes on from here"
            )


def find(name: str, overrides: Iterable[str]) -> Recipe:
    """A recipe by its name, with some of its fields changed."""
    from genmask.overrides import override
    from genmask.recipes import RECIPES

    if name not in RECIPES:
        raise ValueError(
            f"Got recipe {name!r}, expected one of {', '.join(RECIPES)}{did_you_mean(name, RECIPES)}"
        )
    recipe = RECIPES[name]()
    for assignment in overrides:
        recipe = override(recipe, assignment)
        changed = assignment.partition("=")[0].strip().removeprefix("model.")
        recipe = replace(recipe, inherits=tuple(field for field in recipe.inherits if field != changed))
    return recipe


def _print_recipes(recipes: Iterable[tuple[str, Callable[[], Recipe]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "what comes out, and what it needs", "to expect"):
        table.add_column(heading, overflow="fold")
    for name, recipe in recipes:
        found = recipe()
        table.add_row(name, found.summary, found.expected)
    Console().print(table)


def _print_cost(recipe: Recipe, parts: Parts, processes: int) -> None:
    from pprint import pformat

    from rich.console import Console
    from rich.table import Table

    from genmask.recipe_cost import cost
    from genmask.recipe_tasks import inherited

    if processes < 1:
        raise ValueError(f"Got --processes {processes}, expected 1 or more.")
    recipe = inherited(recipe, parts.start or recipe.start)
    table = Table(show_header=False, box=None, pad_edge=False)
    for label, value in cost(recipe, parts, processes):
        table.add_row(label, value)
    console = Console()
    console.print(pformat(recipe), highlight=False)
    console.print(table)


def _is_main_process() -> bool:
    from genmask.training.parallel import is_main_process

    return is_main_process()
