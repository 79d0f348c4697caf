"""What a run was made with: versions, machine, git revision, command; a line for every sitting."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import genmask
from genmask.atomic import replace_file

PACKAGE = Path(genmask.__file__).parent
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "numpy")
GIT_SECONDS = 5.0
"""A git that takes longer (a slow network drive) is not waited for."""


def provenance() -> dict[str, Any]:
    """The circumstances of this process, ready for JSON.

    Returns:
        "started": now, UTC, ISO 8601; "command": as a shell takes it, the program by its bare name;
        "versions": by package, and of Python; "platform"; "devices": names of the accelerators, or the CPU's
        architecture and threads in use; "git": `git_state` of this package.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "genmask": genmask.__version__,
            **{name: version(name) for name in LIBRARIES},
            "python": platform.python_version(),
        },
        "platform": platform.platform(),
        "devices": _devices(),
        "git": git_state(PACKAGE),
    }


def write_provenance(folder: Path, config_text: str) -> dict[str, Any]:
    """Add a line of JSON to `folder/provenance.jsonl`, after those of earlier sittings; in one step.

    Args:
        folder: of the run; made if need be.
        config_text: the whole configuration of this sitting; kept under "config".

    Returns:
        What was written.
    """
    record = {**provenance(), "config": config_text}
    path = folder / "provenance.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    earlier = path.read_text().splitlines() if path.exists() else []
    replace_file(path, "".join(f"{line}\n" for line in (*earlier, json.dumps(record))))
    return record


def git_state(package: Path) -> dict[str, Any] | None:
    """The revision that a package was run from.

    Args:
        package: its folder.

    Returns:
        "revision": the commit's hash; "dirty": whether files of the package, new ones included, differ from that
        commit. None where the commit does not hold the package (one that is installed inside somebody else's
        checkout), and without git.
    """
    revision = _git(package, "rev-parse", "HEAD", "HEAD:./__init__.py")
    changes = _git(package, "status", "--porcelain", "--", ".")
    if revision is None or changes is None:
        return None
    return {"revision": revision.split()[0], "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None if it fails, is missing, or takes too long."""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # to look is not to write
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=GIT_SECONDS,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _devices() -> list[str]:
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return ["mps"]
    return [f"{platform.machine()} CPU, threads: {torch.get_num_threads()}"]
