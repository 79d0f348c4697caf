"""The rows of the ablation: Tables 3 to 6 of the paper, and those that decide its thesis and are not in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from genmask.timesteps import LogitNormal, PowerLaw, RationalShift


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing changed, and how its answers are asked for."""

    name: str
    label: str
    """What is changed, in a few words."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `MaskConfig`."""
    weights: str | None = None
    """The row whose weights answer; None for a row that is trained itself."""
    answer: Literal["segment", "exchanged", "oracle", "constant"] = "segment"
    """By the model; by the model, to the sentence of another picture; by the VAE, given the right mask; always the same
    mask."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `segment`."""
    paper: str = ""
    """The paper's mIoU / oIoU on RefCOCO, RefCOCO+ and RefCOCOg, as in its tables; "" where it has none."""
    recipe: str = ""
    """The same at the paper's size, a key of `RECIPES`; "" where there is none."""

    @property
    def is_trained(self) -> bool:
        return self.weights is None and self.answer == "segment"

    def definition(self) -> dict[str, Any]:
        """What its result depends on, ready for JSON."""
        return {
            "changes": {name: repr(value) for name, value in sorted(self.changes.items())},
            "weights": self.weights,
            "answer": self.answer,
            "options": dict(self.options),
        }


def _steps(row: str, label: str, *counts: int) -> list[Row]:
    """The weights of a row, asked in several Euler steps."""
    return [
        Row(
            name=f"{row}-{count}-steps",
            label=f"{label}, {count} steps",
            weights=row,
            options={"num_inference_steps": count},
        )
        for count in counts
    ]


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(
            name="base",
            label="a = 0.05, MSE, generation data, shortcut",
            paper="82.2 / 81.3, 75.8 / 73.5, 77.7 / 76.0",
            recipe="paper",
        ),
        Row(name="a-0.01", label="a = 0.01", changes={"segmentation_density": PowerLaw(0.01)}),
        Row(name="a-0.02", label="a = 0.02", changes={"segmentation_density": PowerLaw(0.02)}),
        Row(name="a-0.07", label="a = 0.07", changes={"segmentation_density": PowerLaw(0.07)}),
        Row(
            name="a-0.1",
            label="a = 0.1",
            changes={"segmentation_density": PowerLaw(0.1)},
            paper="78.1 / 77.6, 69.3 / 68.1, 73.7 / 72.3",
            recipe="paper-a-0.1",
        ),
        Row(
            name="a-0.5",
            label="a = 0.5",
            changes={"segmentation_density": PowerLaw(0.5)},
            paper="66.0 / 66.0, 52.7 / 53.3, 57.5 / 56.6",
            recipe="paper-a-0.5",
        ),
        Row(
            name="rational",
            label="rational shift, a = 0.05",
            changes={"segmentation_density": RationalShift(0.05)},
        ),
        Row(
            name="logit-normal",
            label="logit-normal, as for pictures",
            changes={"segmentation_density": LogitNormal()},
        ),
        Row(
            name="bce-pixels",
            label="BCE through the VAE's decoder",
            changes={"supervision": "bce-pixels"},
            paper="78.1 / 77.6, 73.1 / 70.3, 75.0 / 72.2",
            recipe="paper-bce-pixels",
        ),
        Row(
            name="bce-linear",
            label="BCE after a linear map",
            changes={"supervision": "bce-linear"},
            options={"decoder": "linear"},
            paper="81.3 / 80.4, 74.8 / 72.4, 76.9 / 75.0",
            recipe="paper-bce-linear",
        ),
        Row(
            name="no-generation",
            label="no generation data",
            changes={"generation_batch": 0},
            paper="81.0 / 80.6, 74.2 / 72.4, 76.7 / 75.0",
            recipe="paper-no-generation",
        ),
        Row(
            name="no-shortcut",
            label="no VAE shortcut",
            changes={"shortcut": False},
            paper="74.1 / 73.2, 68.8 / 67.6, 72.4 / 71.1",
            recipe="paper-no-shortcut",
        ),
        Row(
            name="t-1",
            label="t = 1 always: regression from noise",
            changes={"segmentation_density": PowerLaw(0.0)},
            recipe="paper-t-1",
        ),
        Row(
            name="zero-noise",
            label="t = 1 always, from zeros: regression",
            changes={"segmentation_density": PowerLaw(0.0), "noise": False},
            recipe="paper-zero-noise",
        ),
        Row(name="x0", label="x0 in place of the velocity", changes={"prediction": "x0"}, recipe="paper-x0"),
        Row(
            name="picture-second",
            label="the picture is the second frame",
            changes={"picture_first": False},
            recipe="paper-picture-second",
        ),
        Row(
            name="discriminative",
            label="the rival: no diffusion, BCE on the picture's tokens",
            changes={"prediction": "mask", "supervision": "bce-linear", "generation_batch": 0},
            recipe="paper-discriminative",
        ),
        *_steps("base", "base", 2, 5, 20),
        Row(name="base-4-noises", label="base, 4 noises averaged", weights="base", options={"num_noises": 4}),
        *_steps("logit-normal", "logit-normal", 2, 5, 20),
        Row(
            name="exchanged",
            label="base, asked another picture's sentence",
            weights="base",
            answer="exchanged",
        ),
        Row(name="oracle", label="oracle: the right mask through the VAE", answer="oracle"),
        Row(name="constant", label="the best constant mask", answer="constant"),
    )
}
"""By name; the trained ones in the order in which they are trained."""

TABLES: dict[str, tuple[str, ...]] = {
    "Table 3: density of the noise level": (
        "a-0.01", "a-0.02", "base", "a-0.07", "a-0.1", "a-0.5", "rational", "logit-normal",
    ),
    "Table 4: supervision": ("base", "bce-pixels", "bce-linear"),
    "Table 5: generation data": ("base", "no-generation"),
    "Table 6: VAE shortcut": ("base", "no-shortcut"),
    "Beyond the paper: is it the diffusion?": (
        "base", "t-1", "zero-noise", "x0", "picture-second", "no-generation", "discriminative",
    ),
    "Beyond the paper: more than one step": (
        "base", "base-2-steps", "base-5-steps", "base-20-steps", "base-4-noises",
        "logit-normal", "logit-normal-2-steps", "logit-normal-5-steps", "logit-normal-20-steps",
    ),
    "Controls": ("base", "exchanged", "constant"),
}  # fmt: skip
"""The oracle closes each of them."""


def scored_with(trained: Row) -> list[Row]:
    """A trained row, and those that are answered by its weights."""
    return [trained, *(row for row in ROWS.values() if row.weights == trained.name)]
