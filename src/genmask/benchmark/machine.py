"""The machine that figures come from: what it is, and what it can do at most, measured in the same run."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from genmask.benchmark.work import Work
from genmask.stages import timed
from genmask.training.estimate import matmul_ceiling

PROBES = 8
"""The fastest of so many counts: whatever else the machine does can only slow them."""
PROBE_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Of the tensor whose copying is timed: far more than any cache holds."""


@dataclass(kw_only=True)
class Machine:
    """A device, and its limits as far as they have been asked for."""

    device: torch.device
    products: dict[str, float] = field(default_factory=dict)
    """FLOP per second of a large matrix product, by precision."""
    bandwidth: float | None = None
    """Bytes per second between device and memory, of copying a large tensor; read and written bytes count."""

    @property
    def name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return _processor_name() if self.device.type == "cpu" else self.device.type

    def limit(self, work: Work) -> float:
        """Seconds that the work takes at least: products at the ceiling, or weights at the memory's bandwidth."""
        products = sum(flop / self.ceiling(precision) for precision, flop in work.flop.items())
        return max(products, work.bytes / self.measured_bandwidth())

    def ceiling(self, precision: str) -> float:
        """FLOP per second, measured at first use."""
        if precision not in self.products:
            allowed = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            try:
                dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
                self.products[precision] = max(matmul_ceiling(self.device, dtype) for _ in range(PROBES))
            finally:
                torch.backends.cuda.matmul.allow_tf32 = allowed
        return self.products[precision]

    def measured_bandwidth(self) -> float:
        """Bytes per second, measured at first use."""
        if self.bandwidth is None:
            source = torch.ones(
                PROBE_BYTES.get(self.device.type, 2**28), dtype=torch.uint8, device=self.device
            )
            target = torch.empty_like(source)
            seconds = min(timed(partial(target.copy_, source), self.device)[1] for _ in range(PROBES))
            self.bandwidth = 2 * source.nbytes / seconds
        return self.bandwidth

    def to_dict(self) -> dict[str, Any]:
        return {
            "device": self.device.type,
            "name": self.name,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "products_flop_per_second": dict(self.products),
            "bandwidth_bytes_per_second": self.bandwidth,
        }


def _processor_name() -> str:
    """As Linux knows it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
