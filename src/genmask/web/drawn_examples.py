"""Pictures to click on: drawn scenes, with a sentence of each kind."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from genmask.data.scenes import Scenes

SIZE = 320
"""Side in pixels."""
KINDS = ("category", "colour", "position", "relation", "plural", "absent")


def draw_examples(folder: Path) -> list[tuple[Path, str]]:
    """A picture for every kind of expression, written to the folder, and two sentences, one on each line."""
    scenes = Scenes("val", size=SIZE)
    examples = []
    wanted = list(KINDS)
    first = Scenes.EXPRESSIONS_PER_SCENE
    for number in range(200):  # each kind is met within a few scenes
        found = [scenes.expression(number * first + i) for i in range(first)]
        kind = next((kind for kind in wanted if any(one.kind == kind for one in found)), None)
        if kind is None:
            continue
        wanted.remove(kind)
        leading = next(one for one in found if one.kind == kind)
        others = [one.text for one in found if one.text != leading.text and one.kind != "absent"]
        path = folder / f"example-{kind}.png"
        Image.fromarray(scenes.scene(number * first).image).save(path)
        examples.append((path, "\n".join([leading.text, *others[:1]])))
        if not wanted:
            break
    return examples


def captions(count: int) -> list[str]:
    """Short captions of drawn scenes, of the kind that the bundled model was trained on."""
    scenes = Scenes("val", size=64)
    texts = {scenes.caption(number * Scenes.EXPRESSIONS_PER_SCENE).text for number in range(4 * count)}
    return sorted(texts, key=lambda text: (len(text), text))[:count]
