"""Many processes, on CPU over gloo: the number of them, and how they share the weights out, change nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genmask.pipeline import GenMaskPipeline
from genmask.training import checkpoint

ROOT = Path(__file__).parents[1]


def command(output: Path, processes: int, model: dict[str, Any] | None = None, **loop: Any) -> list[str]:
    run = ["-m", "tests.parallel_run", str(output), json.dumps(loop), json.dumps(model or {})]
    if processes == 1:
        return [sys.executable, *run]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *launcher, *run]


def start(output: Path, processes: int, **config: Any) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return subprocess.Popen(
        command(output, processes, **config),
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def launch(output: Path, processes: int, **config: Any) -> dict[str, Any]:
    """Run to the end; what the first process printed."""
    process = start(output, processes, **config)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.strip().splitlines()[-1])


def curve(output: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [(line["segmentation"], line["generation"]) for line in lines if "segmentation" in line]


def weights(output: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(output / "checkpoints")
    assert newest is not None
    return {name: x for path in newest.glob("*.safetensors") for name, x in load_file(path).items()}


FLOAT32 = ["norm torch.float32", "time and modulation torch.float32", "timestep torch.float32 exact"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, in float32: what all others are compared with."""
    output = tmp_path_factory.mktemp("alone")
    assert launch(output, 1, mixed_precision="no")["finished"]
    return output


@pytest.mark.parametrize(
    ("processes", "loop"),
    [
        (2, {"sharded": True}),
        (2, {"accumulation": 3}),
        (1, {"accumulation": 5}),
        pytest.param(2, {}, marks=pytest.mark.slow),
        pytest.param(3, {}, marks=pytest.mark.slow),
        pytest.param(3, {"sharded": True, "accumulation": 2}, marks=pytest.mark.slow),
    ],
)
def test_the_loss_does_not_depend_on_the_number_of_processes(
    processes: int, loop: dict[str, Any], alone: Path, tmp_path: Path
) -> None:
    launch(tmp_path, processes, mixed_precision="no", **loop)
    ours, theirs = torch.tensor(curve(tmp_path)), torch.tensor(curve(alone))
    assert ours.shape == (20, 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert theirs[-1, 0] < 0.9 * theirs[0, 0]
    GenMaskPipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("processes", "loop", "model"),
    [
        (2, {"sharded": True}, {"gradient_checkpointing": True}),
        (1, {}, {"lora_rank": 2, "offload": True}),
        pytest.param(2, {}, {}, marks=pytest.mark.slow),
        pytest.param(1, {}, {"compile": True}, marks=pytest.mark.slow),
        pytest.param(2, {"sharded": True}, {"compile": True}, marks=pytest.mark.slow),
    ],
)
def test_time_stays_float32_in_bfloat16(
    processes: int, loop: dict[str, Any], model: dict[str, Any], tmp_path: Path
) -> None:
    found = launch(tmp_path, processes, steps=3, model=model, **loop)
    assert found["seen"] == FLOAT32


def test_a_run_goes_on_with_another_number_of_processes(alone: Path, tmp_path: Path) -> None:
    process = start(tmp_path, 2, mixed_precision="no", sharded=True, checkpoint_every=1)
    wait_for(tmp_path / "checkpoints/step-000000003", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    launch(tmp_path, 1, mixed_precision="no", checkpoint_every=1)
    torch.testing.assert_close(torch.tensor(curve(tmp_path)), torch.tensor(curve(alone)), rtol=0, atol=1e-4)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("to_the_whole_group", [False, True])
def test_sigterm_saves_and_exits_with_zero(to_the_whole_group: bool, alone: Path, tmp_path: Path) -> None:
    """Launchers and clusters send it to the processes that make batches, too."""
    process = start(
        tmp_path,
        1,
        mixed_precision="no",
        checkpoint_every=1000,
        log_every=1,
        num_workers=int(to_the_whole_group),
    )
    wait_for(tmp_path / "log.jsonl", process)
    while not curve(tmp_path):
        time.sleep(0.005)
    if to_the_whole_group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err[-3000:]
    assert json.loads(out.splitlines()[-1])["finished"] is False
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    assert int(newest.name[-9:]) == len(curve(tmp_path)) < 20
    launch(tmp_path, 1, mixed_precision="no", checkpoint_every=10)
    assert all(torch.equal(x, weights(alone)[name]) for name, x in weights(tmp_path).items())
    assert curve(tmp_path) == curve(alone)


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_weights(kills: int, alone: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, within steps and within the writing of checkpoints."""
    moments = random.Random(kills)
    for _ in range(kills):
        newest = checkpoint.latest(tmp_path / "checkpoints")
        done = int(newest.name[-9:]) if newest else 0
        process = start(tmp_path, 1, mixed_precision="no", checkpoint_every=1)
        if done < 18:
            wait_for(tmp_path / f"checkpoints/step-{done + 1:09d}", process)
            time.sleep(moments.random() * 0.3)
        process.kill()
        process.communicate()
    launch(tmp_path, 1, mixed_precision="no", checkpoint_every=1)
    ours, theirs = weights(tmp_path), weights(alone)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(x, theirs[name]) for name, x in ours.items())
    assert curve(tmp_path) == curve(alone)
