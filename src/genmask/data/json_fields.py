"""JSON from outside: read it, or say in one line what it should have been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

FieldT = TypeVar("FieldT")


def read_json(path: Path, layout: str) -> Any:
    """The content of a UTF-8 JSON file; `layout` is what the error says was expected."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"Cannot read {path} ({error.strerror}), expected {layout}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Got no valid JSON in {path} ({error}), expected {layout}.") from error


def read_field(row: Any, name: str, kind: type[FieldT], where: str) -> FieldT:
    """`row[name]`, which must be of a type; True and False are no integers."""
    if not isinstance(row, dict):
        raise ValueError(f"Got {type(row).__name__} for {where}, expected an object with {name}.")
    value = row.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        found = type(value).__name__ if name in row else "nothing"
        raise ValueError(f"Got {found} for {name} of {where}, expected {kind.__name__}.")
    return value
