"""`genmask benchmark`: arithmetic against closed formulas, turns and parts, the report, and one line for mistakes.

How long anything takes is tested nowhere.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from genmask.benchmark import latency, models
from genmask.benchmark.inference import at_resolution, generate_cases, segment_cases
from genmask.benchmark.latency import REST, Case, Stopwatch, calls, measure, percentile
from genmask.benchmark.machine import Machine
from genmask.benchmark.memory import PeakMemory, available_memory
from genmask.benchmark.models import _networks, random_pipeline
from genmask.benchmark.report import tables
from genmask.benchmark.training import UPDATE_BYTES, Steps, _task, measure_training, training_config
from genmask.benchmark.work import Work, WorkCounter
from genmask.cli import main
from genmask.commands.benchmark import Benchmark
from genmask.denoiser import PAPER_CONFIG, GenMaskTransformer
from genmask.latents import LatentCodec
from genmask.pipeline import GenMaskPipeline
from genmask.recipe_cost import QWEN_PARAMETERS
from genmask.stages import listening
from genmask.training.estimate import Pass, training_flop
from tests.conftest import random_picture

CPU = torch.device("cpu")
TOY = ("--size", "toy", "--random-weights", "--device", "cpu", "--rounds", "2")


@pytest.fixture(scope="module")
def toy() -> GenMaskPipeline:
    return random_pipeline("toy", "cpu", torch.float32)


@pytest.fixture
def machine() -> Machine:
    """One that need not be measured: a FLOP takes a second, and reading a byte two."""
    return Machine(device=CPU, products={"float32": 1.0, "bfloat16": 1.0}, bandwidth=0.5)


def nothing(done: int) -> None:
    pass


# -- work


def transformer_inputs(
    model: GenMaskTransformer, batch: Pass, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Of 8 x 12 patches."""
    return (
        torch.randn(batch.samples, 16, batch.frames, 16, 24, dtype=dtype),
        torch.rand(batch.samples, batch.frames) * 1000,
        torch.randn(batch.samples, batch.text, model.config.text_dim, dtype=dtype),
        torch.ones(batch.samples, batch.text, dtype=torch.bool),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # which take different attention on a CPU
@pytest.mark.parametrize("frames", [1, 2])
def test_flop_of_the_transformer_are_those_of_the_formula(dtype: torch.dtype, frames: int) -> None:
    model: Any = torch.nn.Module.to(GenMaskTransformer(**models.TOY_TRANSFORMER), dtype)
    batch = Pass(samples=3, frames=frames, patches=96, text=40)
    inputs = transformer_inputs(model, batch, dtype)
    counter = WorkCounter([model])
    with counter("forward"):
        loss = model(*inputs).sample.float().square().mean()
    with counter("backward"):
        loss.backward()
    forward, backward = counter.work["forward"], counter.work["backward"]
    assert forward.total_flop + backward.total_flop == training_flop(model.config, batch)

    width, times, text = 24, batch.samples * frames, batch.samples * batch.text
    in_float32 = 2 * times * (32 * width + width**2 + 6 * width**2)  # time and its modulation
    in_dtype = 2 * text * (32 * width + width**2) + 2 * 2 * batch.tokens * 64 * width  # text, first, last
    for _ in range(2):
        in_dtype += 4 * width * (batch.tokens * (3 * width + 48) + text * width)
        in_dtype += 4 * width * batch.tokens * (frames * 96 + 40)
    name = str(dtype).removeprefix("torch.")
    by_precision = (
        {"float32": in_float32 + in_dtype} if name == "float32" else {"float32": in_float32, name: in_dtype}
    )
    assert forward.flop == by_precision
    assert forward.bytes == sum(x.nbytes for x in model.parameters())


def test_flop_of_the_vae_are_those_of_its_products() -> None:
    vae = AutoencoderKLWan(base_dim=4, num_res_blocks=1).requires_grad_(False)
    codec, pixels = LatentCodec(vae), torch.randn(2, 3, 64, 96)
    counter = WorkCounter([vae])
    with counter("encode"):
        latents = codec.encode(pixels)
    with counter("decode"):
        codec.decode(latents)
    for name, call in (("encode", lambda: codec.encode(pixels)), ("decode", lambda: codec.decode(latents))):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as products:
            call()
        assert counter.work[name].total_flop == products.get_total_flops()
    # Of a 3-D weight the last temporal tap is read, and no more.
    whole = sum(x.nbytes for x in vae.parameters())
    assert sum(work.bytes for work in counter.work.values()) < 0.5 * whole


def test_fewer_heads_of_keys_than_of_queries_are_counted_right() -> None:
    query, key = torch.randn(2, 8, 5, 16), torch.randn(2, 2, 7, 16)
    counter = WorkCounter([])
    with counter("attention"):
        F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
    assert counter.work["attention"].total_flop == 2 * 2 * (2 * 8 * 5 * 7 * 16)


def test_no_work_of_segment_is_outside_of_its_stages(toy: GenMaskPipeline) -> None:
    parts: Any = list(toy.components.values())
    weights = [part for part in parts if isinstance(part, torch.nn.Module)]
    by_stage, whole = WorkCounter(weights), WorkCounter(weights)
    texts = ["the red mug", "a green star"]
    with listening(by_stage):
        counted = toy.segment(random_picture(), texts)
    with whole("whole"):
        toy.segment(random_picture(), texts)
    plain = toy.segment(random_picture(), texts)
    assert sum(work.total_flop for work in by_stage.work.values()) == whole.work["whole"].total_flop > 0
    assert sum(work.bytes for work in by_stage.work.values()) == whole.work["whole"].bytes > 0
    assert isinstance(counted, list)
    assert isinstance(plain, list)
    assert all((a.soft_mask == b.soft_mask).all() for a, b in zip(counted, plain, strict=True))


def test_of_an_embedding_the_rows_that_are_looked_up_are_read() -> None:
    table = torch.nn.Embedding(1000, 8)
    counter = WorkCounter([table])
    with counter("look up"):
        table(torch.tensor([[1, 2, 3]]))
    assert counter.work["look up"].bytes == 3 * 8 * 4


def test_the_limit_is_the_longer_of_products_and_reading() -> None:
    machine = Machine(device=CPU, products={"float32": 10.0, "bfloat16": 100.0}, bandwidth=5.0)
    assert machine.limit(Work(flop={"float32": 20, "bfloat16": 100}, bytes=5)) == 3.0
    assert machine.limit(Work(flop={"float32": 20}, bytes=50)) == 10.0
    assert machine.limit(Work()) == 0.0


def test_a_machine_measures_what_it_is_asked_for_once() -> None:
    machine = Machine(device=CPU)
    assert machine.limit(Work(flop={"float32": 10**6})) > 0
    assert set(machine.products) == {"float32"}
    assert machine.ceiling("float32") == machine.products["float32"]
    assert 1e8 < machine.measured_bandwidth() < 1e13
    assert machine.name


# -- turns and parts


def test_cases_take_turns_and_their_parts_make_up_the_whole(
    toy: GenMaskPipeline, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: float(next(ticks)))
    log: list[str] = []

    def case(name: str) -> Case:
        def run(listener: Any) -> None:
            log.append(name + type(listener).__name__[0])
            for part in ("b", "a") if listener else ():
                with listener(part):
                    torch.ones(2, 3) @ torch.ones(3, 4)

        return Case(settings={"name": name}, counts={"things": 3}, run=run, bytes={"a": 7})

    told: list[int] = []
    found = measure(toy, [case("x"), case("y")], machine, rounds=2, advance=told.append)
    # N: nobody listens; W: work is counted; S: a stopwatch runs.
    assert " ".join(log) == "xN xN xW yN yN yW xN yN xN yN xS yS xS yS"
    assert sum(told) == len(log) == 2 * calls(2)
    for timing in found:
        assert [part.name for part in timing.parts] == ["b", "a", REST]
        assert [part.turns for part in timing.parts] == [1, 1, 0]
        assert [part.work.bytes for part in timing.parts] == [0, 7, 0]
        assert [part.limit for part in timing.parts] == [48, 48, 0]
        # A tick at each beginning and end: alone the call takes one, with its parts five.
        assert (timing.first, timing.seconds) == (1, [1, 1])
        assert [part.seconds for part in timing.parts] == [1, 1, 3]
        entry = timing.to_dict()
        assert len(entry["seconds"]) == 2
        assert entry["per_second"]["things"] == 3 / entry["p50_seconds"]


def test_a_stopwatch_adds_up_turns() -> None:
    watch = Stopwatch(device=CPU)
    for name in ("a", "b", "a"):
        with watch(name):
            pass
    with pytest.raises(KeyError), watch("b"):
        raise KeyError
    assert watch.turns == {"a": 2, "b": 2}
    assert list(watch.seconds) == ["a", "b"]


def test_percentiles_are_numpys() -> None:
    assert percentile([3.0], 95) == 3.0
    assert percentile([float(x) for x in range(101)], 95) == 95.0
    assert percentile([1.0, 2.0], 50) == 1.5


@pytest.mark.skipif(available_memory(CPU) is None, reason="the system does not say what is free")
def test_peak_memory_is_that_of_the_fullest_moment() -> None:
    memory = PeakMemory(CPU)
    memory.reset()
    torch.ones(2**24).sum().item()  # 64 MiB, and gone
    first = memory.bytes()
    if first is None:
        pytest.skip("the kernel does not let the peak be reset")
    memory.reset()
    assert 60 * 2**20 < first < 80 * 2**20
    assert (memory.bytes() or 0) < 8 * 2**20


# -- what is timed


def turns(case: Case) -> dict[str, int]:
    watch = Stopwatch(device=CPU)
    case.run(watch)
    return dict(watch.turns)


def test_prompts_of_a_picture_share_it_and_pictures_share_passes(
    toy: GenMaskPipeline, tmp_path: Path
) -> None:
    cases = segment_cases(
        at_resolution(toy, 48),
        tmp_path,
        picture_size=80,
        prompts=(1, 3),
        pictures=(1, 2),
        decoders=("vae", "linear"),
    )
    found = {
        (case.settings["pictures"], case.settings["prompts"], case.settings["decoder"]): case
        for case in cases
    }
    assert len(found) == len(cases) == 8
    assert {case.settings["resolution"] for case in cases} == {48}
    for key, passes in {(1, 1): 1, (1, 3): 1, (2, 1): 1, (2, 3): 2}.items():
        assert turns(found[(*key, "vae")]) == {
            "decode and resize": 2 * passes, "VLM": passes, "VAE encode": passes, "DiT": passes,
            "decode": passes, "resize back": passes,
        }  # fmt: skip
        assert found[(*key, "linear")].counts == {"pictures": key[0], "prompts": key[0] * key[1]}


def test_pictures_are_generated_with_guidance(toy: GenMaskPipeline) -> None:
    (case,) = generate_cases(at_resolution(toy, 32), pictures=(2,), num_steps=3)
    assert turns(case) == {"VLM": 2, "DiT": 6, "decode": 1}
    with pytest.raises(ValueError, match="multiple of 16"):
        generate_cases(at_resolution(toy, 40), pictures=(1,), num_steps=3)


def test_a_training_step_by_variant(machine: Machine, tmp_path: Path) -> None:
    pipeline = random_pipeline("toy", "cpu", torch.float32)
    before = pipeline.transformer.proj_out.weight.clone()
    plain, cached, again = measure_training(
        pipeline,
        machine,
        tmp_path,
        variants=("plain", "cache", "checkpointing"),
        segmentation_batch=2,
        generation_batch=1,
        rounds=1,
        advance=nothing,
    )
    assert not torch.equal(pipeline.transformer.proj_out.weight, before)
    assert not pipeline.transformer.is_gradient_checkpointing
    flop = []
    for timing in (plain, cached, again):
        parts = {part.name: part for part in timing.parts}
        assert {name: part.turns for name, part in parts.items()} == {
            "encode": 1, "forward": 2, "backward": 2, "optimizer": 1, REST: 0,
        }  # fmt: skip
        trained = sum(x.numel() for x in pipeline.transformer.parameters())
        assert parts["optimizer"].work.bytes == UPDATE_BYTES * trained
        flop.append({name: part.work.total_flop for name, part in parts.items()})
        assert timing.loader > 0
    transformer = flop[0]["forward"] + flop[0]["backward"]
    assert plain.mfu * plain.median == pytest.approx(transformer)  # the machine does one FLOP in a second
    assert flop[1] == {**flop[0], "encode": 0}
    # Checkpointing does the blocks' forward again, which MFU leaves out.
    assert flop[2]["forward"] == flop[0]["forward"]
    assert 1.2 * transformer < flop[2]["forward"] + flop[2]["backward"] < 1.4 * transformer
    assert again.mfu * again.median == pytest.approx(transformer)


def test_compiled_blocks_run_where_they_are_asked_for_alone(
    toy: GenMaskPipeline,
) -> None:
    ran: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            ran.append("compiled")
            return graph.forward(*args)

        return run

    pipeline = copy.deepcopy(at_resolution(toy, 32))
    transformer = pipeline.transformer.requires_grad_(True)
    transformer.compile_repeated_blocks(backend=backend, dynamic=True)
    task = _task(pipeline, training_config(pipeline, 1, 1), None)
    optimizer = torch.optim.SGD(transformer.parameters())
    for variant, counted, blocks in (
        ("plain", False, 0), ("compiled", False, 4), ("compiled", True, 0), ("plain", False, 0),
    ):  # fmt: skip
        ran.clear()
        Steps(variant, task, optimizer).run(WorkCounter([]) if counted else None)  # type: ignore[arg-type]
        assert len(ran) == blocks  # two blocks in two passes


@pytest.mark.slow
def test_without_a_compiler_compiled_steps_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/compiler"))
    said = refused(
        "training", *TOY, "--variant", "compiled", "--segmentation-batch", "1", "--generation-batch", "1"
    )
    assert "Got variant compiled, but no working compiler" in said


def test_steps_draw_every_size_beforehand(toy: GenMaskPipeline) -> None:
    config = training_config(at_resolution(toy, 128), 2, 1)
    assert config.sizes == ((128, 128), (112, 144))
    steps = Steps("plain", _task(toy, config, None), torch.optim.SGD(toy.transformer.parameters()))
    shapes = [tuple(batch.segmentation.images.shape) for batch in steps.batches]  # type: ignore[union-attr]
    assert shapes == [(2, 128, 128, 3), (2, 112, 144, 3)]


# -- models


def test_random_models_have_the_sizes_that_they_are_said_to_have() -> None:
    transformer, vae, vlm, _ = _networks("paper", torch.device("meta"), torch.bfloat16)
    counts = [sum(x.numel() for x in part.parameters()) for part in (transformer, vae, vlm)]
    assert counts == [1_418_210_368, 126_892_531, QWEN_PARAMETERS]
    assert {name: transformer.config[name] for name in PAPER_CONFIG} == PAPER_CONFIG

    random = random_pipeline("bundled", "cpu", torch.bfloat16)
    bundled = GenMaskPipeline.from_pretrained("tiny", torch_dtype=torch.bfloat16)
    assert random.config.resolution == bundled.config.resolution
    for part in ("transformer", "vae", "vlm"):
        shapes = [
            {name: (x.shape, x.dtype) for name, x in getattr(each, part).named_parameters()}
            for each in (random, bundled)
        ]
        assert shapes[0] == shapes[1]


def test_random_weights_are_always_the_same_and_leave_the_generator_alone(toy: GenMaskPipeline) -> None:
    state = torch.get_rng_state()
    again = random_pipeline("toy", "cpu", torch.float32)
    assert torch.equal(state, torch.get_rng_state())
    for part in ("transformer", "vae", "vlm", "mask_head"):
        for one, other in zip(
            getattr(toy, part).parameters(), getattr(again, part).parameters(), strict=True
        ):
            assert torch.equal(one, other)


# -- the command


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        assert main(["benchmark", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        return captured.err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "toy"), "without --random-weights"),
        (("--random-weights",), "without --size"),
        (("--size", "toy", "--random-weights", "--model", "tiny"), "--model with --size"),
        (("--json", "--markdown"), "--json with --markdown"),
        (("--rounds", "0"), "Got --rounds 0, expected a whole number of at least 1"),
        (("--prompts", "1", "0"), "Got --prompts 0"),
        (("--picture-size", "31"), "at least 32"),
        (("--prompts",), "Got --prompts without a value"),
        (("--size", "huge", "--random-weights"), "huge"),
        (("sgment",), "sgment"),
        (("--device", "abacus"), "Got device 'abacus'"),
        (("--model", "no-such-model"), "Got model 'no-such-model'"),
        (("segment", *TOY, "--resolution", "15"), "at least one patch, 16 pixels"),
        (("generate", *TOY, "--resolution", "40"), "multiple of 16 pixels"),
        (("segment", "--model", "tiny", "--device", "cpu", "--decoder", "lin"), "lin"),
    ],
)
def test_mistakes_take_one_line(
    arguments: tuple[str, ...], message: str, refused: Callable[..., str]
) -> None:
    assert message in refused(*arguments)


def test_more_weights_than_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setattr(models, "available_memory", lambda device: 10**9)
    said = refused("--size", "paper", "--random-weights", "--device", "cpu", "--dtype", "bfloat16")
    assert "weights take 18." in said
    assert "0.9 GiB that are free on cpu" in said


def test_the_document_and_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        *TOY, "--prompts", "1", "2", "--resolution", "32", "64", "--variant", "plain", "cache",
        "--num-inference-steps", "2", "--segmentation-batch", "2", "--generation-batch", "1",
    )  # fmt: skip
    assert main(["benchmark", *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {what: len(document[what]) for what in ("segment", "generate", "training")} == {
        "segment": 4, "generate": 2, "training": 4,
    }  # fmt: skip
    (machine,) = document["machines"]
    assert set(machine["products_flop_per_second"]) == {"float32", "bfloat16"}
    for entry in document["segment"]:
        stages = {stage["stage"]: stage for stage in entry["stages"]}
        assert list(stages) == [
            "decode and resize", "VLM", "VAE encode", "DiT", "decode", "resize back", REST,
        ]  # fmt: skip
        assert stages["DiT"]["flop"] > 0 < stages["DiT"]["limit_seconds"]
        assert entry["p50_seconds"] <= entry["p95_seconds"]
        assert len(entry["seconds"]) == 2

    printed = io.StringIO()
    with redirect_stdout(printed):
        Benchmark(what=(), markdown=True).show(document)
    text = printed.getvalue()
    assert machine["name"] in text
    assert "segment in 2 rounds, generate in 2 rounds, training in 2 rounds" in text
    assert text.count("\n| ---") == len(tables(document)) == 6 + 10
    lines = text.splitlines()
    assert all(f"| {' | '.join(row)} |" in lines for rows in tables(document) for row in rows)
    overviews = [rows for rows in tables(document) if rows[0][1] == "first ms" and "p95 ms" in rows[0]]
    cells = [dict(zip(rows[0][1:], row[1:], strict=True)) for rows in overviews for row in rows[1:]]
    for entry, row in zip(document["segment"], cells, strict=True):
        assert float(row["p50 ms"]) == pytest.approx(1e3 * entry["p50_seconds"], rel=0.01)
        assert float(row["prompts/s"]) == pytest.approx(entry["per_second"]["prompts"], rel=0.01)

    Benchmark(what=()).show(document)  # on a terminal: the same cells
    shown = capsys.readouterr().out
    assert all(cell in shown for rows in tables(document) for row in rows[1:] for cell in row)
