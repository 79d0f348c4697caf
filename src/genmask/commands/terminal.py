"""What a command says, and where."""

from __future__ import annotations

import contextlib
import difflib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator

NOISY = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
"""Loggers that warn of GPU kernels nobody asked for, in every process, as soon as torchao is installed."""


def hush() -> None:
    """Let only errors of `NOISY` through; before they are imported."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message: the nearest of the valid names, if any is near."""
    nearest = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f": did you mean {nearest[0]}?" if nearest else ""


@contextlib.contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """While the work is done, whatever a library prints goes to stderr if stdout is to hold JSON alone."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def progress(what: str, total: int, *, hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
