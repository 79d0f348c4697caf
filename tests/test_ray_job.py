"""The same job on a real Ray cluster on this machine: the same files, also if a worker is killed in its midst."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genmask.cli import main
from tests.test_segment_job import draw, lines, tree

ray = pytest.importorskip("ray", reason="pip install 'genmask[ray]'")
psutil = pytest.importorskip("psutil")

# One thread and one kind of worker, so that sums are added up in one order; workers that are as urgent as all else.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"}


def start(photos: Path, output: Path, model: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "genmask.cli", "segment", str(photos), "--text", "the mug"]
    command += ["--model", str(model), "--device", "cpu", "--batch-size", "1", "--output", str(output)]
    command += ["--format", "png", "--format", "coco"]
    return subprocess.Popen(
        [*command, *options],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ray_workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes of the cluster that hold, or will hold, a model."""
    return [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if any("MapBatches(_RayWorker)" in part for part in process.cmdline())
    ]


def listening(driver: subprocess.Popen[str]) -> set[str]:
    """Addresses at which the cluster can be reached."""
    found = set()
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections(kind="inet")
            found |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_picture_and_doubles_none(
    toy_pipeline_folder: Path, tmp_path: Path
) -> None:
    photos = draw(tmp_path / "photos", 60)
    (photos / "b" / "bad.png").write_text("no picture")
    local = start(photos, tmp_path / "local", toy_pipeline_folder)
    said, errors = local.communicate()
    assert local.returncode == 2, errors
    assert said == f"60 of 61 pictures: {tmp_path / 'local' / 'results.jsonl'}\n"

    output = tmp_path / "ray"
    driver = start(photos, output, toy_pipeline_folder, "--engine", "ray", "--workers", "2")
    records = output / ".genmask" / "records"
    while driver.poll() is None and len(list(records.rglob("*.json"))) < 10:
        time.sleep(0.05)
    assert driver.poll() is None, driver.communicate()
    workers = ray_workers(driver)
    assert workers
    done = len(list(records.rglob("*.json")))
    addresses = listening(driver)
    workers[0].send_signal(signal.SIGKILL)
    said, errors = driver.communicate()
    assert driver.returncode == 2, errors
    # Ray tells of the death first.
    assert said.splitlines()[-1] == f"60 of 61 pictures: {output / 'results.jsonl'}"
    assert [line.split(":")[0] for line in errors.splitlines()[-2:]] == ["b/bad.png", "genmask"]
    assert 10 <= done < 60
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert tree(output) == tree(tmp_path / "local")
    names = [line["image"] for line in lines(output / "results.jsonl")]
    assert len(names) == len(set(names)) == 60


@pytest.mark.slow
def test_more_workers_than_cpus_are_refused(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos", 1)
    driver = start(photos, tmp_path / "out", toy_pipeline_folder, "--engine", "ray", "--workers", "9999")
    said, errors = driver.communicate()
    assert (driver.returncode, said) == (2, "")
    assert errors.splitlines()[-1].startswith("genmask: Got 9999 workers for a Ray cluster of ")


def test_without_ray_the_way_to_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = [
        "segment",
        str(draw(tmp_path, 1)),
        "--text",
        "x",
        "--engine",
        "ray",
        "--model",
        "no such model",
    ]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "pip install 'genmask[ray]'" in capsys.readouterr().err
