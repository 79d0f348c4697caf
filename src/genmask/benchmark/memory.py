"""Memory: what is free, and what a piece of work needs at its fullest moment."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def available_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kibibytes(Path("/proc/meminfo"), "MemAvailable") if device.type == "cpu" else None


class PeakMemory:
    """The fullest moment since `reset`.

    On CUDA all that PyTorch has allocated, weights included; on a CPU what the resident memory of the process has grown
    by, weights not included.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._base: int | None = None

    def reset(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu" and _PROCESS.exists():
            # What earlier work has left to the allocator would be taken again, and not seen to grow.
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)
            try:
                (_PROCESS / "clear_refs").write_text("5")  # VmHWM starts anew from what is resident now
            except OSError:  # a kernel that does not allow it
                return
            self._base = _kibibytes(_PROCESS / "status", "VmRSS")

    def bytes(self) -> int | None:
        """None where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self._base is None:
            return None
        peak = _kibibytes(_PROCESS / "status", "VmHWM")
        return None if peak is None else max(0, peak - self._base)


def _kibibytes(file: Path, name: str) -> int | None:
    """A line "name: 123 kB" in bytes; None where there is none, as on other systems than Linux."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(values[0]) if values else None
