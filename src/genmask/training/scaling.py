"""What a training step takes on any number of GPUs: seconds, bytes sent, memory on each. A model, to plan with.

    seconds = FLOP / (efficiency * ceiling) + update + max(0, communication - overlap * window)

all of one process. The window is the work behind which communication can hide: for DDP the backward of a step's last
pass, for FSDP2 the transformer's whole forward and backward. It leaves out what no formula knows: smaller batches that
use a GPU less well, processes that wait for the slowest, data that come late, evaluations, checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from genmask.denoiser import GenMaskTransformer
from genmask.training.estimate import Estimate, Memory, Workload, estimate

DDP_BUCKET = 25 * 2**20
"""Bytes of gradients that DDP reduces at a time, PyTorch's default."""
LAST_BACKWARD = 2 / 3
"""Of a pass's forward and backward, without what checkpointing computes again."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """Between two processes that are neighbours in a collective operation."""

    bandwidth: float
    """Bytes per second that a process sends while it receives as much."""
    latency: float
    """Seconds of a step, however little it sends."""

    def __post_init__(self) -> None:
        if self.bandwidth <= 0 or self.latency < 0:
            raise ValueError(
                f"Got bandwidth={self.bandwidth} and latency={self.latency}, expected more than 0 and 0 or more."
            )


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of equal GPUs: what they and the links between them reach."""

    products: float
    """FLOP per second of dense matrix products: the ceiling of MFU."""
    convolutions: float
    """FLOP per second of the VAE's convolutions in float32."""
    efficiency: float
    """Share of these two that a step reaches while it computes, in (0, 1]."""
    memory_bandwidth: float
    """Bytes per second between a GPU and its memory; the optimizer's update takes nothing else."""
    per_node: int
    """GPUs of a node."""
    node: Link
    """Within a node."""
    network: Link
    """Between nodes, for each GPU."""
    overlap: float
    """Share of the window that hides communication, in [0, 1]."""

    def __post_init__(self) -> None:
        if not (0 < self.efficiency <= 1 and 0 <= self.overlap <= 1):
            raise ValueError(
                f"Got efficiency={self.efficiency} and overlap={self.overlap}, expected shares in (0, 1] and [0, 1]."
            )
        if min(self.products, self.convolutions, self.memory_bandwidth, self.per_node) <= 0:
            raise ValueError("Got a cluster with a rate or a number of GPUs of 0 or less, expected more.")


DGX_H100 = Cluster(
    products=989.4e12,
    convolutions=494.7e12,
    efficiency=0.5,
    memory_bandwidth=3.35e12,
    per_node=8,
    node=Link(bandwidth=450e9, latency=3.4e-6),
    network=Link(bandwidth=50e9, latency=14e-6),
    overlap=0.8,
)
"""Nodes of eight H100 SXM. Rates without sparsity (bfloat16; TF32, which cuDNN takes for float32 convolutions), memory
and NVLink's 900 GB/s, half each way: NVIDIA's data sheet. An InfiniBand NDR port of 400 Gb/s for each GPU: DGX H100's
data sheet. Latencies: NCCL's tuning table (src/graph/tuning.cc; rings, simple protocol). Efficiency and overlap are
assumptions. Nothing is measured.
"""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of a step; seconds are those of each process."""

    processes: int
    samples: int
    """In all processes together."""
    compute: float
    """Seconds of forward, backward and the frozen half."""
    update: float
    """Seconds of clipping and the optimizer."""
    communication: float
    """Seconds of all collectives, hidden or not."""
    exposed: float
    """Seconds of these that nothing hides."""
    sent: int
    """Bytes that each process sends."""
    memory: Memory
    """Of each GPU."""
    mfu: float
    """The transformer's forward and backward against the ceiling."""

    @property
    def seconds(self) -> float:
        return self.compute + self.update + self.exposed

    @property
    def samples_per_second(self) -> float:
        """In all processes together."""
        return self.samples / self.seconds

    def efficiency(self, base: Prediction) -> float:
        """Samples per second of a process, as a share of those in `base`."""
        return self.samples_per_second / self.processes / (base.samples_per_second / base.processes)


def predict(workload: Workload, cluster: Cluster) -> Prediction:
    """What a step of `workload` takes on `cluster`, which its processes fill node by node.

    DDP reduces the gradients once a step, in buckets; FSDP2 (`workload.sharded`) gathers all weights in the forward of
    every pass and those of the blocks again in its backward, and scatters the gradients of every pass, all in float32.
    Within a node these go around a ring, and between nodes each GPU sends its own share; there an all-reduce goes along
    a tree, whose steps grow with the logarithm of the nodes, all else along a ring.

    Raises:
        ValueError: processes that do not fill their nodes.
    """
    count = workload.processes
    inside = min(count, cluster.per_node)
    if count % inside:
        raise ValueError(
            f"Got {count} processes on nodes of {inside} GPUs, expected at most one node or whole nodes."
        )
    found = estimate(workload)
    products, convolutions = (cluster.efficiency * rate for rate in (cluster.products, cluster.convolutions))
    transformer = (found.transformer_flop + found.recomputed_flop) / count / products
    compute = transformer + found.vlm_flop / count / products + found.vae_flop / count / convolutions
    update = _update_bytes(workload, found) / cluster.memory_bandwidth

    if workload.sharded:
        size, calls = _fsdp_traffic(workload, found)
        window = transformer
    else:
        size, calls = 2 * 4 * found.trainable, 2 * math.ceil(4 * found.trainable / DDP_BUCKET)
        window = _last_backward_flop(workload) / products
    communication = _seconds(cluster, count, size, calls, nodes_in_tree=not workload.sharded)
    exposed = max(0.0, communication - cluster.overlap * window)
    return Prediction(
        processes=count,
        samples=_samples(workload),
        compute=compute,
        update=update,
        communication=communication,
        exposed=exposed,
        sent=size * (count - 1) // count,
        memory=found.memory,
        mfu=found.transformer_flop / count / cluster.products / (compute + update + exposed),
    )


def share_out(workload: Workload, processes: int) -> Workload:
    """The same step on another number of processes: first its micro-batches are shared out, then their samples.

    Raises:
        ValueError: they cannot be shared out evenly.
    """
    parts = workload.accumulation * workload.processes
    if parts % processes == 0:
        return replace(workload, processes=processes, accumulation=parts // processes)
    split = processes // parts
    segmentation, generation = workload.segmentation_samples, workload.generation_samples
    if processes % parts or segmentation % split or generation % split:
        raise ValueError(
            f"Got {processes} processes for {parts} micro-batches of {segmentation} masks and {generation} pictures, "
            "expected a number that shares them out evenly."
        )
    return replace(
        workload,
        processes=processes,
        accumulation=1,
        segmentation_samples=segmentation // split,
        generation_samples=generation // split,
    )


def calibrate(workload: Workload, *, compute: float, update: float, node: Link) -> Cluster:
    """One node on which a single process takes as long as was measured, and which hides no communication.

    Args:
        workload: of that process.
        compute: seconds of a step without its update.
        update: seconds of clipping and the optimizer.
        node: between its processes, as measured.
    """
    found = estimate(replace(workload, processes=1, sharded=False))
    rate = (found.transformer_flop + found.recomputed_flop + found.vlm_flop + found.vae_flop) / compute
    return Cluster(
        products=rate,
        convolutions=rate,
        efficiency=1.0,
        memory_bandwidth=_update_bytes(workload, found) / update,
        per_node=2**20,
        node=node,
        network=node,
        overlap=0.0,
    )


def _seconds(cluster: Cluster, count: int, size: int, calls: int, *, nodes_in_tree: bool) -> float:
    """Of `calls` all-gathers or reduce-scatters, of `size` bytes in all; an all-reduce is one of each."""
    inside = min(count, cluster.per_node)
    nodes = count // inside
    steps = math.ceil(math.log2(nodes)) if nodes_in_tree else nodes - 1
    within = size * (inside - 1) / inside / cluster.node.bandwidth
    between = size / inside * (nodes - 1) / nodes / cluster.network.bandwidth
    return within + between + calls * ((inside - 1) * cluster.node.latency + steps * cluster.network.latency)


def _fsdp_traffic(workload: Workload, found: Estimate) -> tuple[int, int]:
    """Bytes, and collectives, of a step's all-gathers and reduce-scatters: one for each block and one for the rest,
    which is gathered in the forward alone.
    """
    with torch.device("meta"):
        blocks = GenMaskTransformer(**workload.transformer).blocks
    adapters = found.trainable if found.trainable < found.parameters else 0
    in_blocks = sum(parameter.numel() for parameter in blocks.parameters()) + adapters
    numbers = found.parameters + adapters + in_blocks + found.trainable
    passes = workload.accumulation * _passes(workload)
    return passes * 4 * numbers, passes * (3 * len(blocks) + 2)


def _update_bytes(workload: Workload, found: Estimate) -> float:
    """Read and written by one process: weights, gradients three times (clipping reads them and scales them in place)
    and the optimizer's, in and out.
    """
    shards = workload.processes if workload.sharded else 1
    return found.trainable / shards * (8 + 16 + 2 * workload.optimizer_bytes)


def _last_backward_flop(workload: Workload) -> float:
    """Of one process: segmentation is the last pass, where there is any."""
    generation = 0 if workload.segmentation_samples else workload.generation_samples
    last = replace(
        workload, generation_samples=generation, accumulation=1, processes=1, sharded=False, cached=True
    )
    found = estimate(last)
    return LAST_BACKWARD * found.transformer_flop + found.recomputed_flop


def _passes(workload: Workload) -> int:
    """Of a micro-batch."""
    return bool(workload.segmentation_samples) + bool(workload.generation_samples)


def _samples(workload: Workload) -> int:
    micro = workload.segmentation_samples + workload.generation_samples
    return micro * workload.accumulation * workload.processes
