"""Indirect ways to ask for a thing: what it is used for, what it does, what it looks like."""

from __future__ import annotations

from dataclasses import dataclass

from genmask.data.queries import Extreme


@dataclass(frozen=True, kw_only=True)
class Riddle:
    """Asked only where exactly one object is an answer and none is doubtful."""

    wordings: tuple[str, ...]
    answers: frozenset[str]
    """Categories that it is about."""
    doubtful: frozenset[str]
    """Categories of which one could argue."""


def _riddle(answers: str, *wordings: str, doubtful: str = "") -> Riddle:
    return Riddle(wordings=wordings, answers=frozenset(answers.split()), doubtful=frozenset(doubtful.split()))


RIDDLES: tuple[Riddle, ...] = (
    _riddle(
        "circle ring",
        "what could roll away?",
        "what would roll down a slope?",
        doubtful="oval car mug drop flower",
    ),
    _riddle(
        "mug", "something to drink from", "what can I drink coffee from?", "what would you fill with tea?"
    ),
    _riddle("fish", "what can swim?", "the animal with fins", "what breathes under water?", doubtful="boat"),
    _riddle("cat", "the animal with whiskers", "which animal says meow?", "what likes to chase mice?"),
    _riddle("cat fish", "which of these is an animal?", "the living thing with eyes"),
    _riddle(
        "car",
        "what needs petrol?",
        "what drives on a road?",
        "the thing with wheels",
        doubtful="circle ring boat",
    ),
    _riddle("boat", "what sails on the sea?", "what is driven by the wind?"),
    _riddle("car boat", "what could you travel in?", "something that carries passengers"),
    _riddle(
        "house", "where could a family live?", "the building", "the thing with a front door", doubtful="car"
    ),
    _riddle(
        "umbrella", "what keeps you dry in the rain?", "what do you open when it rains?", doubtful="house car"
    ),
    _riddle("tree", "what has a trunk and leaves?", "where could a bird build its nest?", doubtful="house"),
    _riddle("flower", "what has petals?", "what would a bee visit?"),
    _riddle("mushroom", "what might be poisonous to eat?", "which one is a fungus?"),
    _riddle("tree flower", "which of these is a plant?", doubtful="mushroom"),
    _riddle("heart", "the symbol of love", "what stands for love?"),
    _riddle("arrow", "the shape that shows a direction", "what points the way?"),
    _riddle("star", "the object with the most points", "what has five points?", doubtful="flower"),
    _riddle(
        "ring", "the shape with a hole in the middle", "what could you wear on a finger?", doubtful="mug"
    ),
    _riddle("triangle", "the shape with three sides", "the shape with three corners", doubtful="arrow drop"),
    _riddle("square diamond", "the shape with four corners", doubtful="cross house"),
    _riddle("hexagon", "the shape with six sides", "the shape with six corners"),
    _riddle("crescent", "what looks like a new moon?", "the shape of the moon", doubtful="circle"),
    _riddle("drop", "what looks like a drop of water?", "the shape of a tear"),
    _riddle("cross", "the sign for adding numbers", "what looks like a plus?"),
    _riddle("oval", "the shape of an egg", "the stretched circle", doubtful="drop"),
)

SUPERLATIVES: dict[Extreme, tuple[str, ...]] = {
    "largest": ("the largest thing", "what takes up the most room?", "which one is bigger than all others?"),
    "smallest": ("the smallest thing", "which one is smaller than all others?"),
    "leftmost": ("what comes first from the left?",),
    "rightmost": ("what comes first from the right?",),
    "topmost": ("what is higher up than all others?",),
    "bottommost": ("what is lower down than all others?",),
}
