"""Changing a recipe's fields by name: typed, and refused in one line that helps."""

from __future__ import annotations

from typing import Any

import pytest

from genmask.overrides import override
from genmask.recipes import RECIPES
from genmask.timesteps import PowerLaw, RationalShift


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("loop.steps=100", "loop.steps", 100),
        ("loop.learning_rate=1e-4", "loop.learning_rate", 1e-4),
        ("loop.max_grad_norm=2", "loop.max_grad_norm", 2.0),
        ("loop.ema_decay=None", "loop.ema_decay", None),
        ("loop.optimizer=muon", "loop.optimizer", "muon"),
        ("loop.sharded=True", "loop.sharded", True),
        ('loop.trackers=("tensorboard",)', "loop.trackers", ("tensorboard",)),
        ("model.sizes=((64, 64), (48, 80))", "model.sizes", ((64, 64), (48, 80))),
        (
            'model.segmentation_sources=(("scenes", 1.0),)',
            "model.segmentation_sources",
            (("scenes", 1.0),),
        ),
        ("model.segmentation_density=PowerLaw(0.1)", "model.segmentation_density", PowerLaw(0.1)),
        ("model.generation_density = RationalShift(0.5)", "model.generation_density", RationalShift(0.5)),
        ("model.shape=None", "model.shape", None),
        ("model.shape.num_layers=4", "model.shape.num_layers", 4),
    ],
)
def test_a_field_is_changed_and_nothing_else(assignment: str, path: str, value: Any) -> None:
    before = RECIPES["tiny"]()
    after: Any = override(before, assignment)
    found = after
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)
    assert before == RECIPES["tiny"]()
    assert override(after, assignment) == after


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("loop.steps", "expected FIELD=VALUE"),
        ("loop.stpes=3", "'stpes' is no field, expected one of steps, .*did you mean steps"),
        ("lop.steps=3", "did you mean loop"),
        ("loop.steps=many", r"loop.steps=many, expected int, such as \d+\.$"),
        ("loop.steps=1.5", "expected int"),
        ("loop.steps=True", "expected int"),
        ("loop.steps=0", "must be positive"),
        ("loop.steps.more=3", "steps has no fields"),
        ("model.sizes=((64, 64, 3),)", "model.sizes"),
        ("model.segmentation_density=0.1", r"expected one of LogitNormal\(...\), PowerLaw\(...\)"),
        ("model.segmentation_density=PowerLaw(x)", r"PowerLaw\(0.1\)"),
        ("model.supervision=dice", "mse, bce-pixels, bce-linear"),
        ("model.sizes=__import__('os')", "model.sizes"),
    ],
)
def test_what_is_no_field_or_no_value_of_it_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        override(RECIPES["tiny"](), assignment)
    assert "\n" not in str(error.value)
