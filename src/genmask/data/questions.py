"""Pictures with an indirect instruction each ("what can I drink from?"), to describe, and to find, what it means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

from genmask.data.dialogues import Question, questions
from genmask.data.drawing import Scene, draw_scene
from genmask.data.example import Dialogue, Example
from genmask.data.expressions import expressions
from genmask.data.photograph_riddles import PHOTOGRAPH_RIDDLES
from genmask.data.photographs import Photographs
from genmask.data.phrases import plain_phrase
from genmask.data.riddles import Riddle, answer_of

Split = Literal["train", "val"]
"""Of the pictures; and only "val" asks in held-out words."""


class SceneQuestions:
    """Drawn scenes with an indirect instruction each, and the mask of what it means.

    In the split "val" every second question is asked in held-out words, which its kind then says; "train" has none.
    An example depends on split, seed, index and size alone.

    Args:
        split: "train" or "val".
        size: side of the pictures in pixels, or (height, width); at least 32.
        seed: another seed is another stream.
        length: number of indices.
    """

    def __init__(
        self, split: Split, size: tuple[int, int] | int = 128, *, seed: int = 0, length: int = 1000
    ) -> None:
        self.split, self.seed, self.length = split, seed, length
        self.size = (size, size) if isinstance(size, int) else size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(f"Got index {index}, expected 0 to {self.length - 1}.")
        scene, (question, *_), _ = self._draw(index)
        return Example(
            image=scene.image,
            text=question.text,
            mask=scene.mask(frozenset({question.target})),
            source="scene-questions",
            id=f"{self.split}/{index:06d}",
            kind=question.kind + (", new wording" if self._held_out(index) else ""),
        )

    def answer(self, index: int) -> str:
        """The right description."""
        return self._draw(index)[1][0].answer

    def dialogues(self, index: int) -> list[Dialogue]:
        """All questions on the index's scene, and a plain expression, which is its own description; any index."""
        scene, found, rng = self._draw(index)
        plain = expressions(scene, rng, 1)[0].text
        turns = [*((question.text, question.answer) for question in found), (plain, plain)]
        return [Dialogue(image=scene.image, question=asked, answer=answer) for asked, answer in turns]

    def _held_out(self, index: int) -> bool:
        return self.split == "val" and index % 2 == 1

    def _draw(self, index: int) -> tuple[Scene, list[Question], Random]:
        """The first scene of the index's stream that has a question."""
        rng = Random(f"genmask scene questions/{self.split}/{self.seed}/{index}")
        while True:
            scene = draw_scene(rng, self.size)
            found = list(questions(scene, rng, self._held_out(index)))
            if found:
                return scene, found, rng


class PhotographQuestions:
    """Photographs with riddles about their classes, asked where one class, and no other, is the answer.

    In the split "val": every such pair of photograph and riddle, in held-out words. In "train" `dialogues` takes any
    index, each riddle equally often.

    Args:
        root: the folder that holds the photographs, as for `Photographs`.
        split: "train" or "val".
        seed: of the order in training.
        area: processing area in pixels, or None, as for `Photographs`.

    Raises:
        ValueError: as `Photographs`; no photograph to ask a riddle about.
    """

    def __init__(self, root: str | Path, split: Split, *, seed: int = 0, area: int | None = None) -> None:
        self.split, self.seed = split, seed
        self.photographs = Photographs(root, split, seed=seed, area=area)
        self._askable: list[tuple[Riddle, list[int]]] = []
        """Each riddle with rows of `photographs.pairs`."""
        for riddle in PHOTOGRAPH_RIDDLES:
            pairs = [
                pair
                for pair, (row, label) in enumerate(self.photographs.pairs)
                if (classes := self.photographs.photographs[row].classes)[label]
                == answer_of(riddle, classes.values())
            ]
            if pairs:
                self._askable.append((riddle, pairs))
        if not self._askable:
            raise ValueError(
                f"Got no {split} photograph in {root} that a riddle fits, expected classes such as 'tiger' or 'road'."
            )
        self._rows = [(riddle, pair) for riddle, pairs in self._askable for pair in pairs]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"Got index {index}, expected 0 to {len(self) - 1}.")
        riddle, pair = self._rows[index]
        text = riddle.pick(self._stream(index), held_out=self.split == "val")
        return replace(self.photographs.plain(pair), text=text)

    def answer(self, index: int) -> str:
        """The right description."""
        return self.photographs.plain(self._rows[index][1]).text

    def dialogues(self, index: int) -> list[Dialogue]:
        """A riddle about a photograph, and one of its classes by name, which is its own description; any index."""
        rng = self._stream(index)
        riddle, pairs = rng.choice(self._askable)
        pair = rng.choice(pairs)
        example = self.photographs.plain(pair)
        asked = riddle.pick(rng, held_out=self.split == "val")
        classes = self.photographs.photographs[self.photographs.pairs[pair][0]].classes
        plain = plain_phrase(rng.choice(list(classes.values())))
        turns = ((asked, example.text), (plain, plain))
        return [Dialogue(image=example.image, question=text, answer=answer) for text, answer in turns]

    def _stream(self, index: int) -> Random:
        return Random(f"genmask photograph questions/{self.split}/{self.seed}/{index}")
