"""What a step on many GPUs is said to take: against DDP and FSDP2 at work, against arithmetic, and as laws."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from benchmarks.training_memory import TOY_CONFIG
from rich.table import Table
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from genmask.denoiser import GenMaskTransformer
from genmask.training.estimate import Workload, estimate
from genmask.training.masks import MaskTask
from genmask.training.parallel import Share, parallelise
from genmask.training.scaling import (
    DDP_BUCKET,
    DGX_H100,
    Cluster,
    Link,
    calibrate,
    predict,
    share_out,
)
from tests.toy_training import mask_task

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import scaling  # noqa: E402
from scaling_inference import halves, power_law, straight_line  # noqa: E402

STEP = Workload(
    transformer=TOY_CONFIG,
    size=(128, 128),
    segmentation_samples=8,
    generation_samples=8,
    prompt_tokens=40,
    caption_tokens=24,
    accumulation=8,
    vae={"base_dim": 16, "num_res_blocks": 1},
)
CLUSTER = Cluster(
    products=1e12,
    convolutions=1e11,
    efficiency=0.5,
    memory_bandwidth=1e11,
    per_node=4,
    node=Link(bandwidth=2e9, latency=1e-5),
    network=Link(bandwidth=1e9, latency=1e-4),
    overlap=0.0,
)


# Against DDP and FSDP2


@pytest.fixture
def two_processes() -> Iterator[None]:
    """The first of two processes, of which the second does not exist: PyTorch's group that only pretends to talk."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


class Collectives(TorchDispatchMode):
    """Bytes of the largest tensor of each collective operation, all together, and how many there were."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "c10d":
            self.sizes[func.__name__] += max(x.nbytes for x in tree_iter(args) if isinstance(x, torch.Tensor))
            self.calls[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def toy_step(**config: Any) -> tuple[MaskTask, Workload]:
    task = mask_task(segmentation_batch=4, generation_batch=4, **config)
    shape = {name: value for name, value in task.transformer.config.items() if not name.startswith("_")}
    return task, replace(
        STEP,
        transformer=shape,
        accumulation=1,
        segmentation_samples=2,
        generation_samples=2,
        processes=2,
        gradient_checkpointing=task.config.gradient_checkpointing,
    )


def backward(task: MaskTask, network: torch.nn.Module, which: str) -> None:
    (part,) = task.prepare([task.batches(Share(world_size=2))[0]])
    losses = task.losses(network, part, 0, which, Share(world_size=2), 0)
    torch.stack([loss.mean() for loss in losses.values()]).sum().backward()


def test_ddp_sends_its_gradients_once_a_step(two_processes: None) -> None:
    task, work = toy_step()
    network = parallelise(task.network, torch.device("cpu"), shard=False)
    reduced = []

    def note(state, bucket):  # type: ignore[no-untyped-def]  # DDP reads annotations, and wants none or real ones
        reduced.append(bucket.buffer().nbytes)
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    network.register_comm_hook(None, note)
    with network.no_sync():
        backward(task, network, "generation")
    assert not reduced
    backward(task, network, "segmentation")
    for accumulation in (1, 4):
        # A ring of two: half is sent to be summed, half of the sum is passed on.
        assert predict(replace(work, accumulation=accumulation), CLUSTER).sent == sum(reduced)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_fsdp_gathers_and_scatters_in_every_pass(checkpointing: bool, two_processes: None) -> None:
    task, work = toy_step(gradient_checkpointing=checkpointing)
    network = parallelise(task.network, torch.device("cpu"), shard=True)
    with Collectives() as seen:
        for which in task.passes:
            backward(task, network, which)
    gathers, scatters = (f"_{name}_base_.default" for name in ("allgather", "reduce_scatter"))
    assert set(seen.sizes) == {gathers, scatters}

    found = predict(replace(work, sharded=True), CLUSTER)
    # Shards are padded to equal parts, which counts in a toy.
    assert found.sent == pytest.approx((seen.sizes[gathers] + seen.sizes[scatters]) / 2, rel=0.03)
    # A latency of a second, and nothing else, counts the collectives.
    slow = replace(CLUSTER, node=Link(bandwidth=1e30, latency=1.0))
    assert predict(replace(work, sharded=True), slow).communication == pytest.approx(seen.calls.total())
    assert predict(replace(work, sharded=True, accumulation=3), CLUSTER).sent == 3 * found.sent


# Against arithmetic


def test_one_process_does_not_communicate() -> None:
    for sharded in (False, True):
        found = predict(replace(STEP, sharded=sharded), CLUSTER)
        assert (found.sent, found.communication, found.exposed) == (0, 0, 0)
        assert found.seconds == found.compute + found.update


def test_compute_is_flop_over_what_the_gpu_reaches() -> None:
    work = replace(STEP, vlm_parameters=10**6, gradient_checkpointing=True)
    counted, found = estimate(work), predict(work, CLUSTER)
    products = counted.transformer_flop + counted.recomputed_flop + counted.vlm_flop
    assert found.compute == pytest.approx(products / 5e11 + counted.vae_flop / 5e10)
    assert found.update == pytest.approx(40 * counted.parameters / 1e11)
    assert found.mfu == pytest.approx(counted.transformer_flop / 1e12 / found.seconds)


def test_an_all_reduce_on_four_nodes() -> None:
    """Within a node by a ring, between them a quarter of the gradients by each GPU, along a tree."""
    found = predict(replace(STEP, processes=16), CLUSTER)
    size = 4 * estimate(STEP).parameters
    buckets = math.ceil(size / DDP_BUCKET)
    within, between = 2 * size * 3 / 4, 2 * (size / 4) * 3 / 4
    assert found.sent == int(within + between) == 2 * size * 15 // 16
    latency = 2 * buckets * (3 * 1e-5 + 2 * 1e-4)
    assert found.communication == pytest.approx(within / 2e9 + between / 1e9 + latency)


def test_gathering_and_scattering_on_four_nodes() -> None:
    found = predict(replace(STEP, processes=16, sharded=True), CLUSTER)
    transformer = GenMaskTransformer(**TOY_CONFIG)
    whole, blocks = (
        4 * sum(p.numel() for p in part.parameters()) for part in (transformer, transformer.blocks)
    )
    passes, collectives = 2 * STEP.accumulation, 3 * len(transformer.blocks) + 2
    size = passes * (whole + blocks + whole)
    assert found.sent == size * 15 // 16
    latency = passes * collectives * (3 * 1e-5 + 3 * 1e-4)
    assert found.communication == pytest.approx(size * 3 / 4 / 2e9 + size / 4 * 3 / 4 / 1e9 + latency)


@pytest.mark.parametrize("sharded", [False, True])
def test_communication_hides_behind_its_window_and_no_more(sharded: bool) -> None:
    slow = replace(CLUSTER, node=Link(bandwidth=1e6, latency=0.0))  # more to send than any window hides
    work = replace(STEP, processes=4, sharded=sharded, gradient_checkpointing=True)
    exposed = [predict(work, replace(slow, overlap=share)).exposed for share in (0.0, 0.5, 1.0)]
    window = exposed[0] - exposed[2]
    assert exposed[1] == pytest.approx(exposed[0] - window / 2)

    last = estimate(replace(STEP, generation_samples=0, accumulation=1, gradient_checkpointing=True))
    whole = estimate(replace(STEP, gradient_checkpointing=True))
    flop = (
        whole.transformer_flop + whole.recomputed_flop
        if sharded
        else last.transformer_flop * 2 / 3 + last.recomputed_flop
    )
    assert window == pytest.approx(flop / 5e11)
    fast = replace(CLUSTER, node=Link(bandwidth=1e15, latency=0.0), overlap=1.0)
    assert predict(work, fast).exposed == 0 < predict(work, fast).communication


# Laws


def test_weak_scaling_falls_from_one() -> None:
    base, *others = (predict(replace(STEP, processes=n), CLUSTER) for n in (1, 2, 4, 8, 64, 512))
    efficiencies = [found.efficiency(base) for found in others]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert 1 > efficiencies[0] > efficiencies[-1] > 0
    assert others[-1].samples == 512 * base.samples


@pytest.mark.parametrize("processes", [1, 2, 8, 64])
def test_a_shared_step_is_the_same_work_in_smaller_parts(processes: int) -> None:
    base, work = predict(STEP, CLUSTER), share_out(STEP, processes)
    found = predict(work, CLUSTER)
    assert (work.processes, found.processes, found.samples) == (processes, processes, base.samples)
    assert found.compute == pytest.approx(base.compute / processes)
    assert found.update == base.update
    assert found.efficiency(base) == pytest.approx(base.seconds / processes / found.seconds)
    assert share_out(work, 1).accumulation * work.segmentation_samples == 64


def test_memory_is_the_estimates_and_sharding_makes_it_smaller() -> None:
    copied, *sharded = (
        predict(replace(STEP, processes=n, sharded=shards), CLUSTER)
        for n, shards in ((8, False), (2, True), (8, True), (64, True))
    )
    assert copied.memory == estimate(replace(STEP, processes=8)).memory
    assert sharded[1].memory == estimate(replace(STEP, processes=8, sharded=True)).memory
    totals = [found.memory.total for found in (copied, *sharded)]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)
    assert sharded[1].update == pytest.approx(copied.update / 8)


def test_a_machine_as_it_was_measured() -> None:
    node = Link(bandwidth=1e9, latency=1e-4)
    machine = calibrate(STEP, compute=3.0, update=0.2, node=node)
    one = predict(STEP, machine)
    assert (one.compute, one.update) == (pytest.approx(3.0), pytest.approx(0.2))
    two = predict(share_out(STEP, 2), machine)
    size = 4 * estimate(STEP).parameters
    assert two.seconds == pytest.approx(1.5 + 0.2 + size / 1e9 + 2 * math.ceil(size / DDP_BUCKET) * 1e-4)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="whole nodes"):
        predict(replace(STEP, processes=6), CLUSTER)
    for processes in (3, 128, 96):
        with pytest.raises(ValueError, match="shares them out evenly"):
            share_out(replace(STEP, generation_samples=7), processes)
    with pytest.raises(ValueError, match="efficiency=2"):
        replace(CLUSTER, efficiency=2)
    with pytest.raises(ValueError, match="0 or less"):
        replace(CLUSTER, memory_bandwidth=0)
    with pytest.raises(ValueError, match="bandwidth=0"):
        Link(bandwidth=0, latency=0)


# The benchmark


def test_fits_find_the_laws_that_they_are_given() -> None:
    counts = halves(32)
    assert counts == [1, 2, 4, 8, 16, 32]
    assert straight_line(counts, [3 + 0.5 * n for n in counts]) == pytest.approx((3, 0.5))
    assert power_law(counts, [7 * n**1.5 for n in counts]) == pytest.approx(1.5)


def test_the_papers_step_is_predicted_as_it_is_stated() -> None:
    step = scaling.paper_step()
    assert predict(step, DGX_H100).samples == 1024
    together, shared, each, *_ = scaling.prediction(scaling.PredictOptions(gpus=(1, 64)))
    assert (together, each) == ("The same step of 1,024 samples:", "16 samples on each GPU:")
    assert isinstance(shared, Table)
    assert [list(column.cells) for column in shared.columns[:3]] == [
        ["1", "64", "64"],
        ["", "DDP", "FSDP2"],
        ["64 of 8 + 8", "1 of 8 + 8", "1 of 8 + 8"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["training", "--segmentation", "2", "--generation", "2"], "2 by DDP, as many samples together"),
        (["inference", "--most-prompts", "2", "--most-pictures", "2"], "threads: 2 but in the last table"),
    ],
)
def test_the_benchmark_runs(command: list[str], says: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    run = [sys.executable, str(BENCHMARKS / "scaling.py"), *command, "--size", "toy", "--rounds", "1"]
    found = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr[-3000:]
    assert says in found.stdout
