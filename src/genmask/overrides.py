"""Changing a field of a recipe by its name, as `--override loop.steps=100` does."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from genmask.timesteps import LogitNormal, PowerLaw, RationalShift, TimestepDensity

Config = TypeVar("Config")
DENSITIES = {density.__name__: density for density in (LogitNormal, PowerLaw, RationalShift)}


def override(config: Config, assignment: str) -> Config:
    """A copy of a nested dataclass with one field changed.

    Args:
        config: a frozen dataclass whose fields may be such again.
        assignment: "path.to.field=value", the value as Python writes it: 100, 1e-4, None, True, (("scenes", 1.0),),
            PowerLaw(0.1); text needs no quotes.

    Raises:
        ValueError: no such field, or a value of another type.
    """
    path, equals, value = assignment.partition("=")
    if not equals:
        raise ValueError(f"Got --override {assignment!r}, expected FIELD=VALUE, such as loop.steps=100.")
    return _replaced(config, path.strip().split("."), value.strip(), path.strip())


def _replaced(config: Any, path: list[str], value: str, whole: str) -> Any:
    name, *rest = path
    fields = [field.name for field in dataclasses.fields(config)]
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f": did you mean {near[0]}?" if near else "."
        raise ValueError(
            f"Got --override {whole}, where {name!r} is no field, expected one of {', '.join(fields)}{hint}"
        )
    current = getattr(config, name)
    if rest:
        if not dataclasses.is_dataclass(current):
            raise ValueError(f"Got --override {whole}, but {name} has no fields: give it a value itself.")
        return dataclasses.replace(config, **{name: _replaced(current, rest, value, whole)})
    kind = get_type_hints(type(config))[name]
    parsed = _parse(value, whole)
    if not _is_a(parsed, kind):
        raise ValueError(f"Got --override {whole}={value}, expected {_named(kind)}, such as {current!r}.")
    return dataclasses.replace(config, **{name: float(parsed) if kind is float else parsed})


def _parse(value: str, whole: str) -> Any:
    name, bracket, arguments = value.partition("(")
    if bracket and name in DENSITIES and arguments.endswith(")"):
        try:
            return DENSITIES[name](*(float(part) for part in arguments[:-1].split(",") if part.strip()))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Got --override {whole}={value} ({error}), expected such as {name}(0.1)."
            ) from error
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value fits a field's type, as far as recipes have types."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, tuple):
            return False
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return len(kinds) == len(value) and all(map(_is_a, value, kinds))
    if get_args(kind):  # a union
        return any(_is_a(value, option) for option in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is TimestepDensity:
        return isinstance(value, tuple(DENSITIES.values()))
    return isinstance(value, kind)


def _named(kind: Any) -> str:
    if kind is TimestepDensity:
        return "one of " + ", ".join(f"{name}(...)" for name in DENSITIES)
    return getattr(kind, "__name__", str(kind)).replace("NoneType", "None")
