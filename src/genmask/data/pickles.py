"""Pickle files of plain data, read without running any of what a pickle can run."""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

# fmt: off
_VALUES = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
))
# fmt: on
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_REMEMBER = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_RECALL = frozenset(("GET", "BINGET", "LONG_BINGET"))
_SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OF_MARK = frozenset(("LIST", "TUPLE", "DICT", "APPENDS", "SETITEMS"))


def load_plain_pickle(path: str | Path) -> Any:
    """The lists, tuples, dicts, text, bytes, numbers, booleans and None in a pickle file.

    A pickle is a program, and half of its instructions exist to find Python code and call it. Here only
    those that build plain data are carried out, by this module and not by Python's unpickler: nothing is
    imported, nothing is called, and no number in the file sets how much memory is taken. Python 2's `str`
    is read as Latin-1, in which every byte is a letter (in the text protocol 0, as ASCII).

    Raises:
        ValueError: no such file, no whole pickle, or one that asks for anything else than plain data.
    """
    try:
        return _build(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"Cannot read {path} ({error.strerror}), expected a pickle file.") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"Got {path}, which is no pickle of plain data ({str(error)[:100]}), expected lists, dicts, text and "
            "numbers alone: fetch it again from a source that you trust."
        ) from error
    except (MemoryError, RecursionError) as error:
        raise ValueError(
            f"Got {path}, which does not fit in memory, expected a pickle of plain data: fetch it again."
        ) from error


def _build(data: bytes) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # one stack for every open mark
    memo: dict[Any, Any] = {}
    for opcode, argument, position in pickletools.genops(data):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _REMEMBER:
            memo[argument] = stack[-1]
        elif name in _RECALL:
            stack.append(memo[argument])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in _OF_MARK:
            items, stack = stack, below.pop()
            _add_marked(name, items, stack)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        elif name == "APPEND":
            value = stack.pop()
            _extend(stack[-1], [value])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _SHORT_TUPLES:
            items = [stack.pop() for _ in range(_SHORT_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"instruction {name} at byte {position}")
    raise ValueError("no end")


def _add_marked(name: str, items: list[Any], stack: list[Any]) -> None:
    """What an instruction on all items since the last mark leaves on the stack below it."""
    if name == "LIST":
        stack.append(items)
    elif name == "TUPLE":
        stack.append(tuple(items))
    elif name == "DICT":
        stack.append({})
        _set_items(stack[-1], items)
    elif name == "APPENDS":
        _extend(stack[-1], items)
    else:
        _set_items(stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise TypeError(f"{type(target).__name__} in place of a list")
    target.extend(items)


def _set_items(target: Any, items: list[Any]) -> None:
    """Keys and values in turn. A key is no tuple: hashing tuples in tuples can take for ever."""
    if not isinstance(target, dict):
        raise TypeError(f"{type(target).__name__} in place of a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | bytes | int | float | None):
            raise TypeError(f"{type(key).__name__} as a key")
        target[key] = value
