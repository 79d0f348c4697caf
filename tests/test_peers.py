"""What benchmarks/peers.py compares, with tiny networks: each answers with a mask, and sees what it should see."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from genmask.pipeline import GenMaskPipeline, Prediction
from tests.conftest import random_picture, toy_pipeline

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # where the script itself finds its other half

import peers  # noqa: E402
from peers_models import ClipSeg, GenMask, LisaShaped, Sam3  # noqa: E402

CPU = torch.device("cpu")
IMAGE = np.asarray(random_picture())  # (60, 80, 3)


@pytest.fixture(scope="module", autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("of", [ClipSeg, Sam3, LisaShaped])
def test_a_peer_answers_with_a_mask_of_the_pictures_size(of: Any, dtype: torch.dtype) -> None:
    model = of(CPU, dtype, toy=True)
    seen: list[tuple[int, ...]] = []
    for network in model.networks:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:  # cuts a picture into patches
                layer.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    mask = model(IMAGE, "the red mug")
    assert (mask.shape, mask.dtype) == (IMAGE.shape[:2], np.bool_)
    assert model.weight_bytes == model.parameters * dtype.itemsize
    assert seen == [(1, 3, side, side) for side in model.sides]


def test_published_sizes() -> None:
    """As the authors count them: 150.7 M; 848 M with the tracker; 7 B, and SAM's 641 M."""
    meta = torch.device("meta")
    found = {of: of(meta, torch.bfloat16) for of in (ClipSeg, Sam3, LisaShaped)}
    assert [model.sides for model in found.values()] == [(352,), (1008,), (224, 1024)]
    assert found[ClipSeg].parameters == 150_747_746
    assert found[Sam3].parameters == pytest.approx(840e6, rel=0.01)
    llava, sam, _ = found[LisaShaped].networks
    assert sum(p.numel() for p in llava.parameters()) == pytest.approx(7.06e9, rel=0.01)
    assert sum(p.numel() for p in sam.parameters()) == pytest.approx(641e6, rel=0.01)
    assert found[LisaShaped].image_tokens == 256


def test_lisa_writes_its_answer_with_a_cache() -> None:
    model = LisaShaped(CPU, torch.float32, toy=True)
    lengths: list[int] = []
    model.llava.model.language_model.register_forward_hook(
        lambda _, args, output: lengths.append(output.last_hidden_state.shape[1])
    )
    model(IMAGE, "the red mug")
    assert lengths == [16 + 60 + 3] + [1] * 9


def test_ours_at_another_size_and_in_several_steps(
    pipeline: GenMaskPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = GenMask("ours", pipeline)
    passes: list[torch.Size] = []
    monkeypatch.setattr(
        GenMaskPipeline,
        "_velocity",
        lambda self, frames, condition: (
            passes.append(frames.latents.shape)
            or Prediction(torch.zeros_like(frames.latents[:, :, frames.answer]), torch.zeros(1, 8))
        ),
    )
    square = IMAGE[:, :60]
    for model in (ours, ours.at(96), ours.in_steps(3)):
        assert model(square, "the red mug").shape == (60, 60)
        assert model.parameters == ours.parameters
    assert [shape[-1] for shape in passes] == [8, 12, 8, 8, 8]
    assert ours.pipeline.config.resolution == 64


def test_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every model answers on every picture, in turn; the slow ones answer one; ratios are of medians."""
    monkeypatch.setattr(peers, "SLOW", 1e9)
    peers.main(peers.Options(toy=True, rounds=2, size=64, markdown=True, json=tmp_path / "peers.json"))
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "peers.json").read_text())
    names = [row["model"] for row in report["own_size"]]
    steps = ["genmask toy, 20 steps", "genmask toy, 50 steps"]
    assert names == ["genmask tiny", "genmask toy", *steps, "CLIPSeg", "SAM 3", "LISA-shaped"]
    for row in report["own_size"]:
        assert len(row["seconds"]) == 2
        for ours in report["own_size"][:2]:
            assert row["ratio"][ours["model"]] == pytest.approx(row["median"] / ours["median"])
        assert f"| {row['model']} " in out
    assert [(row["peer"], row["model"], row["sides"]) for row in report["equal_size"]] == [
        (peer, ours, [side])
        for peer, side in (("CLIPSeg", 64), ("SAM 3", 112), ("LISA-shaped", 64))
        for ours in names[:2]
    ]
    assert "TOY NETWORKS" in out
    assert "is asked for" not in out

    monkeypatch.setattr(peers, "SLOW", 0.0)
    peers.main(peers.Options(peers=("clipseg",), toy=True, rounds=2, size=64, json=tmp_path / "slow.json"))
    rows = json.loads((tmp_path / "slow.json").read_text())["own_size"]
    assert [len(row["seconds"]) for row in rows] == [1, 1, 1]


def test_floor() -> None:
    ours = peers.Entry(GenMask("genmask tiny", toy_pipeline()), [0.2, 0.1, 9.0])
    clipseg = peers.Entry(ClipSeg(CPU, torch.float32, toy=True), [0.7, 0.8, 0.1])
    assert "takes 3.50 times as long as the bundled model at 64 x 64" in peers.floor(clipseg, ours)
    assert peers.floor(clipseg, ours).endswith(": met")
    clipseg.seconds = [0.6]
    assert peers.floor(clipseg, ours).endswith(": NOT MET")


def test_what_cannot_be_run_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"Got lisa without a GPU.*--toy"):
        peers.main(peers.Options(peers=("lisa",)))
    with pytest.raises(SystemExit, match="Got --rounds 0, expected at least 1"):
        peers.main(peers.Options(rounds=0))
