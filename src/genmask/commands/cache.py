"""genmask cache"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from genmask.commands.output import prepare_output
from genmask.commands.terminal import progress
from genmask.commands.train import find


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Encode a recipe's samples once, with the VAE and the vision-language model that its training leaves frozen.

    genmask cache tiny --start tiny --data photos --output encodings

    The same command goes on where an interrupted one stopped. Under accelerate launch or torchrun each process takes
    its share; on machines without a network between them, and a folder that all see, name the shares by hand:

    genmask cache tiny --start tiny --output encodings --rank 0 --world-size 2
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
    """Name of the recipe."""
    output: Path
    """Folder for the encodings."""
    data: Path | None = None
    """Folder that holds the recipe's data sets, or, for finetune, your own."""
    start: str | None = None
    """A finished model, whose VAE and vision-language model encode: a folder, a bundled model or a hub id."""
    vae: Path | None = None
    """In its place, the model/ folder of a finished VAE."""
    vlm: Path | None = None
    """The same of the vision-language model."""
    override: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=VALUE")] = ()
    """Change a field of the recipe, as in the training to come; may be given several times."""
    samples: int | None = None
    """Only those of the first steps that hold so many; by default all that the recipe comes back to."""
    rank: int | None = None
    """Which share, from 0; by default the launcher's RANK, or 0."""
    world_size: int | None = None
    """How many shares; by default the launcher's WORLD_SIZE, or 1."""

    def run(self) -> None:
        rank = int(os.environ.get("RANK", 0)) if self.rank is None else self.rank
        world_size = int(os.environ.get("WORLD_SIZE", 1)) if self.world_size is None else self.world_size
        if not 0 <= rank < world_size:
            raise ValueError(
                f"Got --rank {rank} of --world-size {world_size}, expected a rank from 0 to below it."
            )
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"Got --samples {self.samples}, expected at least 1.")
        from genmask.recipe_runs import cache
        from genmask.recipe_tasks import Parts
        from genmask.training.cache import finished_shards

        recipe = find(self.recipe, self.override)
        prepare_output(self.output)
        counts = cache(
            self.recipe,
            self.output,
            Parts(data=self.data, vae=self.vae, vlm=self.vlm, start=self.start),
            samples=self.samples,
            rank=rank,
            world_size=world_size,
            progress=partial(progress, self.recipe, hidden=rank > 0),
            recipe=recipe,
        )
        size = sum(shard.stat().st_size for shard in finished_shards(self.output))
        share = f", share {rank + 1} of {world_size}" if world_size > 1 else ""
        print(
            f"{self.output}{share}: {counts.encoded} samples encoded, {counts.found} found; "
            f"{size / 1e6:.1f} MB on disk"
        )
