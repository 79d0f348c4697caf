"""The card of a trained model: what it is, how to use it, how it came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genmask.atomic import replace_file

# The terms of the data are not ours to name: "unknown" until somebody has read them.
CARD = """\
---
license: unknown
pipeline_tag: image-segmentation
library_name: genmask
---

# genmask, trained by the recipe {recipe}

A model that finds what a sentence asks for in a picture, by drawing the mask in one forward pass of a diffusion
transformer. The recipe: {summary}.

```python
from genmask import GenMaskPipeline

pipe = GenMaskPipeline.from_pretrained("FOLDER")  # this folder, or its id on the hub
pipe.segment("photo.jpg", "the red mug").overlay().show()
```

```sh
genmask segment photo.jpg --text "the red mug" --model FOLDER
```

## What it was trained on

{origin} It was trained for {steps:,} steps on:

{sources}

## How well it does

{scores}

## How to repeat it

```sh
{command}
```

{circumstances}

The whole configuration:

````
{config}
````

## Licence

The terms of the data above{and_of_the_start} apply to these weights. Read them before you use or share
the model, then name its licence at the head of this file.
"""


def write_model_card(
    folder: Path,
    *,
    recipe: str,
    summary: str,
    config: str,
    scores: Mapping[str, float],
    steps: int,
    sources: Sequence[str],
    started_from: str | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write `folder/README.md` with the front matter that Hugging Face reads; a card that is there is replaced.

    Args:
        folder: of a pipeline.
        recipe: its name.
        summary: one line, without a full stop.
        config: the whole configuration, as text.
        scores: held-out scores at the end of the training, by name.
        steps: optimizer steps of the run.
        sources: what it was trained on, one line each.
        started_from: the model whose weights were trained further; None for random weights.
        provenance: of the latest sitting, as `genmask.training.provenance.provenance` returns it.
    """
    card = CARD.format(
        recipe=recipe,
        summary=summary,
        origin="Its transformer began with random weights."
        if started_from is None
        else f"It began with the weights of `{started_from}`, whose own card says what those were trained on.",
        steps=steps,
        sources="\n".join(f"* {source}" for source in sources),
        scores=_table(scores),
        command=provenance["command"],
        circumstances=_circumstances(provenance),
        config=config.strip(),
        and_of_the_start="" if started_from is None else f" and of `{started_from}`",
    )
    replace_file(folder / "README.md", card)


def _table(scores: Mapping[str, float]) -> str:
    if not scores:
        return "No held-out samples were scored."
    names = [name.replace("|", r"\|") for name in scores]
    rows = [f"| {name} | {score:.4f} |" for name, score in zip(names, scores.values(), strict=True)]
    return "\n".join(("| held-out samples, at the end of the training | score |", "|---|---:|", *rows))


def _circumstances(provenance: Mapping[str, Any]) -> str:
    git = provenance["git"]
    revision = "no git checkout"
    if git is not None:
        revision = f"git revision `{git['revision']}`" + (", with changes" if git["dirty"] else "")
    devices = Counter(provenance["devices"]).items()
    return "\n".join(
        (
            f"* last started: {provenance['started']}",
            f"* on: {', '.join(name if count == 1 else f'{count} x {name}' for name, count in devices)}",
            f"* with: {', '.join(f'{name} {number}' for name, number in provenance['versions'].items())}",
            f"* code: {revision}",
        )
    )
