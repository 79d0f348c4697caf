"""Indirect ways to ask for a thing: what it is used for, what it does, what it looks like."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from genmask.data.queries import Extreme


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """Ways to say one thing; those held out are never trained on, so that they tell whether the others taught it."""

    wordings: tuple[str, ...]
    held_out: tuple[str, ...]

    def pick(self, rng: Random, held_out: bool) -> str:
        return rng.choice(self.held_out if held_out else self.wordings)


@dataclass(frozen=True, kw_only=True)
class Riddle(Wordings):
    """Asked only where exactly one thing is an answer and none is doubtful."""

    answers: frozenset[str]
    """Categories (of photographs: classes) that it is about."""
    doubtful: frozenset[str]
    """Those of which one could argue."""


def riddle(answers: str, *wordings: str, held_out: tuple[str, ...], doubtful: str = "") -> Riddle:
    """Answers and doubtful ones are separated by commas."""
    return Riddle(wordings=wordings, held_out=held_out, answers=_names(answers), doubtful=_names(doubtful))


def _names(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


def answer_of(riddle: Riddle, things: Collection[str]) -> str | None:
    """What a riddle means among the things of a picture, if one and only one can be meant."""
    answers = [thing for thing in things if thing in riddle.answers]
    return answers[0] if len(answers) == 1 and not riddle.doubtful.intersection(things) else None


RIDDLES: tuple[Riddle, ...] = (
    riddle(
        "circle,ring",
        "what could roll away?",
        "what would roll down a slope?",
        "which of these can roll?",
        "something round that could roll",
        held_out=("which one could roll down a hill?",),
        doubtful="oval,car,mug,drop,flower",
    ),
    riddle(
        "mug",
        "something to drink from",
        "what can I drink coffee from?",
        "what would you fill with tea?",
        "the thing that holds a hot drink",
        "which one could hold my coffee?",
        held_out=("what can I drink from?", "which one would you fill with coffee?"),
    ),
    riddle(
        "fish",
        "what can swim?",
        "the animal with fins",
        "what breathes under water?",
        "which of these swims?",
        "what lives in the sea?",
        held_out=("the animal that can swim", "what has fins?"),
        doubtful="boat",
    ),
    riddle(
        "cat",
        "the animal with whiskers",
        "which animal says meow?",
        "what likes to chase mice?",
        "the pet that purrs",
        "which of these catches mice?",
        held_out=("what says meow?", "the pet that likes to catch mice"),
    ),
    riddle(
        "cat,fish",
        "which of these is an animal?",
        "the living thing with eyes",
        "what is alive and has eyes?",
        held_out=("which one is an animal?",),
    ),
    riddle(
        "car",
        "what needs petrol?",
        "what drives on a road?",
        "the thing with wheels",
        "what can I drive to work?",
        "which of these has an engine and wheels?",
        held_out=("what could I drive on a road?", "which one has wheels?"),
        doubtful="circle,ring,boat",
    ),
    riddle(
        "boat",
        "what sails on the sea?",
        "what is driven by the wind?",
        "the thing with sails",
        "what floats on the water?",
        held_out=("which of these sails?", "what could float on the sea?"),
    ),
    riddle(
        "car,boat",
        "what could you travel in?",
        "something that carries passengers",
        "which of these is a vehicle?",
        held_out=("what could carry passengers?",),
    ),
    riddle(
        "house",
        "where could a family live?",
        "the building",
        "the thing with a front door",
        "what has windows and a roof?",
        "which of these do people live in?",
        held_out=("where do people live?", "which one has a roof and a door?"),
        doubtful="car",
    ),
    riddle(
        "umbrella",
        "what keeps you dry in the rain?",
        "what do you open when it rains?",
        "something against the rain",
        "which of these would I take out in the rain?",
        held_out=("what keeps the rain off?", "which one do you open in the rain?"),
        doubtful="house,car",
    ),
    riddle(
        "tree",
        "what has a trunk and leaves?",
        "where could a bird build its nest?",
        "the plant with a trunk",
        "what do birds nest in?",
        held_out=("which one has a trunk?", "where would birds build a nest?"),
        doubtful="house",
    ),
    riddle(
        "flower",
        "what has petals?",
        "what would a bee visit?",
        "the plant with petals",
        "which of these smells sweet to a bee?",
        held_out=("which one has petals?", "what do bees visit?"),
    ),
    riddle(
        "mushroom",
        "what might be poisonous to eat?",
        "which one is a fungus?",
        "the thing that grows in the woods and may be poisonous",
        "what has a cap and grows after rain?",
        held_out=("which of these is a fungus?", "the poisonous one"),
    ),
    riddle(
        "tree,flower",
        "which of these is a plant?",
        "what grows in a garden?",
        held_out=("which one is a plant?",),
        doubtful="mushroom",
    ),
    riddle(
        "heart",
        "the symbol of love",
        "what stands for love?",
        "which of these means love?",
        "the sign on a valentine card",
        held_out=("which one is the symbol of love?", "what means love?"),
    ),
    riddle(
        "arrow",
        "the shape that shows a direction",
        "what points the way?",
        "which of these shows where to go?",
        "the sign that points somewhere",
        held_out=("what shows the direction?", "which one points the way?"),
    ),
    riddle(
        "star",
        "the object with the most points",
        "what has five points?",
        "the shape with five points",
        "what shines in the sky at night?",
        held_out=("which one has five points?", "which of these shines at night?"),
        doubtful="flower,crescent",
    ),
    riddle(
        "ring",
        "the shape with a hole in the middle",
        "what could you wear on a finger?",
        "which of these has a hole?",
        "something to put on a finger",
        held_out=("what has a hole in the middle?", "which one would fit on a finger?"),
        doubtful="mug",
    ),
    riddle(
        "triangle",
        "the shape with three sides",
        "the shape with three corners",
        "what has three corners?",
        "which of these has three sides?",
        held_out=("what has three sides?", "which one has three corners?"),
        doubtful="arrow,drop",
    ),
    riddle(
        "square,diamond",
        "the shape with four corners",
        "what has four corners?",
        held_out=("which one has four corners?",),
        doubtful="cross,house",
    ),
    riddle(
        "hexagon",
        "the shape with six sides",
        "the shape with six corners",
        "what has six corners?",
        "which of these has six sides?",
        held_out=("what has six sides?", "which one has six corners?"),
    ),
    riddle(
        "crescent",
        "what looks like a new moon?",
        "the shape of the moon",
        "which of these looks like the moon?",
        held_out=("what has the shape of the moon?",),
        doubtful="circle",
    ),
    riddle(
        "drop",
        "what looks like a drop of water?",
        "the shape of a tear",
        "which of these looks like a tear?",
        held_out=("what has the shape of a tear?",),
    ),
    riddle(
        "cross",
        "the sign for adding numbers",
        "what looks like a plus?",
        "which of these means plus?",
        held_out=("the plus", "what is the sign for adding?"),
    ),
    riddle(
        "oval",
        "the shape of an egg",
        "the stretched circle",
        "what looks like an egg?",
        held_out=("which one has the shape of an egg?",),
        doubtful="drop",
    ),
)
"""About categories of drawn scenes."""

SUPERLATIVES: dict[Extreme, Wordings] = {
    "largest": Wordings(
        wordings=(
            "the largest thing",
            "what takes up the most room?",
            "which one is bigger than all others?",
        ),
        held_out=("which takes up more room than all others?", "what is bigger than the rest?"),
    ),
    "smallest": Wordings(
        wordings=(
            "the smallest thing",
            "which one is smaller than all others?",
            "what takes up the least room?",
        ),
        held_out=("what is smaller than the rest?", "which one takes up the least room?"),
    ),
    "leftmost": Wordings(
        wordings=(
            "what comes first from the left?",
            "which one is nearest to the left edge?",
            "what is further left than all others?",
        ),
        held_out=("which one comes first from the left?", "what is nearest to the left edge?"),
    ),
    "rightmost": Wordings(
        wordings=(
            "what comes first from the right?",
            "which one is nearest to the right edge?",
            "what is further right than all others?",
        ),
        held_out=("which one comes first from the right?", "what is nearest to the right edge?"),
    ),
    "topmost": Wordings(
        wordings=(
            "what is higher up than all others?",
            "which one is nearest to the top edge?",
            "what has nothing above it?",
        ),
        held_out=("which one is higher up than the rest?", "what is nearest to the top edge?"),
    ),
    "bottommost": Wordings(
        wordings=(
            "what is lower down than all others?",
            "which one is nearest to the bottom edge?",
            "what has nothing below it?",
        ),
        held_out=("which one is lower down than the rest?", "what is nearest to the bottom edge?"),
    ),
}
ODD_ONE_OUT = Wordings(
    wordings=("the odd one out", "what does not belong here?", "which one is unlike all others?"),
    held_out=("which one does not belong here?", "what is the odd one out?"),
)
BETWEEN = Wordings(
    wordings=(
        "what is between the two {}?",
        "which one stands between the two {}?",
        "what has the two {} on either side?",
    ),
    held_out=("which one has the two {} on either side?", "what stands between the two {}?"),
)
"""With a place for a plural."""
