"""The shell commands: genmask segment | generate | evaluate | benchmark | analyse | data | train | cache | ...

Arguments in, exit code out.

Exit code 0: done. 2: the user can fix it; one line on stderr says what was given, what was expected and what
to do. 1: a fault of ours, with its traceback.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import tyro

import genmask
from genmask.commands.ablate import Ablate
from genmask.commands.analyse import Analyse
from genmask.commands.benchmark import Benchmark
from genmask.commands.cache import Cache
from genmask.commands.convert import Convert
from genmask.commands.data import Data
from genmask.commands.evaluate import Evaluate
from genmask.commands.generate import Generate
from genmask.commands.segment import Segment
from genmask.commands.terminal import did_you_mean, hush
from genmask.commands.train import Train
from genmask.commands.web import Web

COMMANDS: dict[str, Any] = {
    "segment": Segment,
    "generate": Generate,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
    "analyse": Analyse,
    "data": Data,
    "train": Train,
    "cache": Cache,
    "ablate": Ablate,
    "convert": Convert,
    "web": Web,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a text in any language, on a terminal of any
    hush()
    try:
        parse(list(sys.argv[1:] if argv is None else argv)).run()
    except SystemExit as exit:  # help was asked for
        return int(exit.code or 0)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except (ValueError, OSError) as error:
        return complain(str(error), 2)
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return complain(
                "Got more to do than memory holds: lower --batch-size or take a smaller model.", 2
            )
        traceback.print_exc()
        return complain(
            f"A fault of ours ({type(error).__name__}); please report it with the lines above.", 1
        )
    return 0


def complain(message: str, code: int) -> int:
    """One line on stderr; the exit code."""
    print("genmask:", " ".join(message.split()), file=sys.stderr)
    return code


def parse(arguments: list[str]) -> Any:
    """The command, as an instance of one of `COMMANDS`.

    Raises:
        ValueError: what cannot be parsed, in one line, with the nearest name where one was mistyped.
        SystemExit: with code 0, after help was printed.
    """
    if arguments == ["--version"]:
        print(genmask.__version__)
        raise SystemExit(0)
    name = arguments[0] if arguments else ""
    if not name.startswith("-") and name not in COMMANDS:
        got = f"Got command {name!r}" if name else "Got no command"
        raise ValueError(f"{got}, expected one of {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}")
    help_line = f"see genmask {name} --help" if name in COMMANDS else "see genmask --help"
    if name in COMMANDS:
        options = ["--help", *(f"--{field.name.replace('_', '-')}" for field in fields(COMMANDS[name]))]
        for argument in itertools.takewhile(lambda argument: argument != "--", arguments[1:]):
            option = argument.partition("=")[0].replace("_", "-")
            if re.fullmatch(r"--[\w-]+", option) and option not in options:
                raise ValueError(f"Got option {option}{did_you_mean(option, options)}; {help_line}.")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS, args=arguments, prog="genmask", description=(genmask.__doc__ or "").split("\n")[0]
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        raise ValueError(
            f"Got arguments that do not fit: {reason(complaint.getvalue())}; {help_line}."
        ) from None


def reason(box: str) -> str:
    """What tyro says in the first section of a box drawn over several lines, in one."""
    lines = [line.strip("\u2502 ") for line in box.splitlines()[1:]]
    section = itertools.takewhile(lambda line: not line.startswith(("\u2500", "\u2570")), lines)
    return " ".join(section).rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
