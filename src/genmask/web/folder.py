"""The one folder whose files the page serves: uploads, overlays, zips. Nothing stays in it for long."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class PageFolder:
    """A new folder of this process alone, kept small.

    Gradio has a clean-up of its own, but it passes over uploads that broke off and knows no limit of size.

    Args:
        max_age: seconds after which a file goes.
        max_bytes: of all files together; beyond, the oldest go first.
    """

    def __init__(self, max_age: float, max_bytes: int) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="genmask-web-")).resolve()
        self._max_age, self._max_bytes = max_age, max_bytes
        self._kept: set[str] = set()
        self.known: list[set[str]] = []
        """Gradio's sets of the files it made, which would otherwise grow for ever: what is deleted leaves them."""

    def new(self) -> Path:
        """A new folder in it, whose name nobody can guess."""
        folder = self.path / secrets.token_hex(16)
        folder.mkdir()
        return folder

    def keep(self) -> None:
        """Let what is there now stay as long as the page: its example pictures."""
        self._kept = {entry.path for entry in _files(self.path)}

    def sweep(self) -> None:
        """Delete what is too old or too much, and folders that are left empty."""
        files = []
        for entry in _files(self.path):
            if entry.path not in self._kept:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    files.append((status.st_ctime, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        deleted = set()
        for changed, size, path in sorted(files):
            if time.time() - changed <= self._max_age and total <= self._max_bytes:
                break
            total -= size
            deleted.add(path)
            with contextlib.suppress(OSError):
                os.unlink(path)
            with contextlib.suppress(OSError):  # others are still in it
                os.rmdir(os.path.dirname(path))
        for names in self.known:
            names -= deleted

    @contextlib.contextmanager
    def swept(self, interval: float) -> Iterator[None]:
        """Sweep every so many seconds; at the end the folder goes."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(interval):
                self.sweep()

        thread = threading.Thread(target=run, name="genmask-web-sweep", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            shutil.rmtree(self.path, ignore_errors=True)


def _files(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder; one that vanishes meanwhile is passed over."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        else:
            yield entry
