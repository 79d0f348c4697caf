"""Training at toy size: a run is a function of its recipe alone, however often it is interrupted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from genmask.conditioning import Condition
from genmask.data.example import Example
from genmask.latents import LatentCodec, images_to_pixels
from genmask.loading import load_model
from genmask.model_folder import load_processor
from genmask.objectives import WeightedSum
from genmask.pipeline import GenMaskPipeline
from genmask.processor import segmentation_prompt
from genmask.timesteps import PowerLaw
from genmask.training import checkpoint
from genmask.training.autoencoder import AutoencoderConfig, AutoencoderTask
from genmask.training.batches import StepBatches
from genmask.training.cache import CacheWriter, EncodingCache
from genmask.training.language import LanguageConfig, LanguageTask
from genmask.training.loop import Evaluation, LoopConfig, NonFiniteError, TrainingTask, train
from genmask.training.mask_config import SUPERVISIONS, MaskConfig
from genmask.training.masks import MaskTask
from genmask.training.new_transformer import TransformerShape, build_transformer
from genmask.training.parallel import Share
from genmask.training.samples import Encoding, MicroBatch, Samples
from genmask.training.whole_steps import WholeSteps, as_one
from tests.toy import toy_processor, toy_vae, toy_vlm
from tests.toy_training import LOOP, Rectangles, mask_task


def batch(task: MaskTask, step: int = 0, share: Share = Share()) -> MicroBatch:  # noqa: B008 (frozen)
    """The prepared first micro-batch of a step."""
    return task.prepare([task.batches(share)[step * share.accumulation]])[0]


def losses(task: MaskTask, part: MicroBatch, step: int = 0) -> dict[str, WeightedSum]:
    """Of both passes."""
    found: dict[str, WeightedSum] = {}
    for which in task.passes:
        found.update(task.losses(task.network, part, step, which, Share(), 0))
    return found


def autoencoder_task() -> AutoencoderTask:
    config = AutoencoderConfig(base_dim=4, crop=32, batch_size=4)
    return AutoencoderTask(config, [Rectangles()], {"held out": [Rectangles()[1000]]})


def decoder_task(vae: AutoencoderKLWan | None = None) -> AutoencoderTask:
    config = AutoencoderConfig(crop=32, batch_size=4, decoder_only=True, colour_weight=1.0)
    return AutoencoderTask(config, [Rectangles()], {"held out": [Rectangles()[1000]]}, vae or toy_vae())


def language_task() -> LanguageTask:
    config = LanguageConfig(
        hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64,
        vision_hidden_size=16, vision_depth=2, vision_num_heads=2, vision_intermediate_size=32, batch_size=3,
    )  # fmt: skip
    return LanguageTask(config, [Rectangles()], {"held out": Rectangles().dialogues(1000)}, toy_processor())


TASKS: dict[str, Callable[[], TrainingTask]] = {
    "autoencoder": autoencoder_task,
    "decoder": decoder_task,
    "language": language_task,
    "masks": mask_task,
}


def files(folder: Path) -> dict[str, bytes]:
    """Everything that a run leaves behind, to the bit; of the log, what does not depend on the clock."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop("log.jsonl")
    for checkpoint_file in [
        name for name in found if name.startswith("checkpoints") and name.endswith(".safetensors")
    ]:
        tensors = load_file(folder / checkpoint_file)  # by name: their order in the file is the writer's
        found[checkpoint_file] = b"".join(
            name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors)
        )
    return found


def saved(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {name: x for path in folder.glob("*.safetensors") for name, x in load_file(path).items()}


def log(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("steps_per_second", "samples_per_second", "mfu")}
        for line in lines
    ]


@pytest.mark.parametrize("name", TASKS)
def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_bit(name: str, tmp_path: Path) -> None:
    config = replace(LOOP, optimizer="muon") if name == "masks" else LOOP
    assert train(TASKS[name](), config, tmp_path / "whole")
    sittings = 1
    while not train(TASKS[name](), config, tmp_path / "parts", max_seconds=0):
        sittings += 1
    assert sittings == config.steps
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")
    weights = saved(tmp_path / "whole" / "checkpoints" / "step-000000005")
    assert {value.dtype for value in weights.values()} == {torch.float32}  # though it computes in bfloat16
    assert [line["step"] for line in log(tmp_path / "whole")] == [3, 4, 5, 5]


def test_a_decoder_learns_colours_and_leaves_the_latents_as_they_are(tmp_path: Path) -> None:
    start = autoencoder_task()
    assert train(start, LOOP, tmp_path / "start")
    vae = load_model(AutoencoderKLWan, tmp_path / "start/model", dtype=torch.float32)
    before, pictures = vae.state_dict(), images_to_pixels(torch.from_numpy(Rectangles()[7].image[None]))
    with torch.no_grad():
        latents = LatentCodec(vae).encode(pictures)
    task = decoder_task(load_model(AutoencoderKLWan, tmp_path / "start/model", dtype=torch.float32))
    assert train(task, replace(LOOP, steps=12, learning_rate=1e-2), tmp_path / "decoder")
    after = load_model(AutoencoderKLWan, tmp_path / "decoder/model", dtype=torch.float32)
    for name, x in after.state_dict().items():
        is_encoders = name.startswith(("encoder.", "quant_conv."))
        assert torch.equal(x, before[name]) or not is_encoders, name
    with torch.no_grad():
        assert torch.equal(LatentCodec(after).encode(pictures), latents)
    scores = [log(tmp_path / name)[-1]["held out_colour_l1"] for name in ("start", "decoder")]
    assert scores[1] < scores[0]


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_end(tmp_path: Path) -> None:
    class Killed(AutoencoderTask):
        def losses(self, network: nn.Module, batch: Any, step: int, *rest: Any) -> dict[str, WeightedSum]:
            if step == 3:
                raise KeyboardInterrupt
            return super().losses(network, batch, step, *rest)

    config = replace(LOOP, log_every=1)
    train(autoencoder_task(), config, tmp_path / "whole")
    parts = tmp_path / "parts"
    task = autoencoder_task()
    task.__class__ = Killed
    with pytest.raises(KeyboardInterrupt):
        train(task, config, parts)
    assert [line["step"] for line in log(parts)] == [1, 2, 3]
    assert checkpoint.latest(parts / "checkpoints") == parts / "checkpoints" / "step-000000002"
    with (parts / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "ma')  # cut short
    train(autoencoder_task(), config, parts)
    assert files(parts) == files(tmp_path / "whole")
    assert log(parts) == log(tmp_path / "whole")


def test_a_finished_run_run_again_changes_nothing(tmp_path: Path) -> None:
    train(autoencoder_task(), LOOP, tmp_path)
    before = files(tmp_path), log(tmp_path)
    assert train(autoencoder_task(), LOOP, tmp_path)
    assert (files(tmp_path), log(tmp_path)) == before


def test_a_checkpoint_of_another_recipe_is_refused_in_one_line(tmp_path: Path) -> None:
    train(autoencoder_task(), LOOP, tmp_path, max_seconds=0)
    before = files(tmp_path)
    for task, config in (
        (language_task(), LOOP),
        (autoencoder_task(), replace(LOOP, ema_decay=None)),
    ):
        with pytest.raises(ValueError, match=r"^Got a checkpoint of another recipe at .*output folder\.$"):
            train(task, config, tmp_path)
    assert files(tmp_path) == before


def state(seed: int) -> tuple[nn.Module, list[torch.optim.Optimizer], EMAModel]:
    torch.manual_seed(seed)
    modules = nn.ModuleDict({"vlm": toy_vlm(seed)})
    optimizer = torch.optim.AdamW(modules.parameters())
    for parameter in modules.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return modules, [optimizer], EMAModel(modules.parameters(), decay=0.5)


def test_a_checkpoint_reads_back_with_tied_weights_tied(tmp_path: Path) -> None:
    modules, optimizers, ema = state(seed=0)
    checkpoint.save(tmp_path, modules, optimizers, ema, 7, {"loss": [0.1, 1 / 3]})
    other, other_optimizers, other_ema = state(seed=1)
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    assert checkpoint.load(newest, other, other_optimizers, other_ema) == (7, {"loss": [0.1, 1 / 3]})
    for name, value in modules.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    vlm = other["vlm"]
    assert vlm.lm_head.weight is vlm.get_input_embeddings().weight
    assert all(map(torch.equal, ema.shadow_params, other_ema.shadow_params))
    assert other_ema.optimization_step == 7
    first, second = (o[0].state_dict()["state"] for o in (optimizers, other_optimizers))
    assert all(torch.equal(first[i]["exp_avg"], second[i]["exp_avg"]) for i in first)


def test_a_killed_save_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, *state(seed=0), 1, {})
    whole = {path.name: path.read_bytes() for path in (tmp_path / "step-000000001").iterdir()}

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    for moment in ("dcp.save", "os.replace"):  # half-way through the writing, and just before it is named
        with monkeypatch.context() as patch:
            patch.setattr(f"genmask.training.checkpoint.{moment}", killed)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(tmp_path, *state(seed=1), 2, {})
        assert (tmp_path / "partial-000000002").is_dir()
        newest = checkpoint.latest(tmp_path)
        assert newest == tmp_path / "step-000000001"
        assert {path.name: path.read_bytes() for path in newest.iterdir()} == whole
    checkpoint.save(tmp_path, *state(seed=1), 2, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002"]


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    config = LoopConfig(steps=110, learning_rate=1.0, final_learning_rate=0.2, warmup_steps=10)
    rates = [config.learning_rate_at(step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == max(rates) == 1.0
    assert rates[35] == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert rates[60] == pytest.approx(0.6)
    assert rates[110] == pytest.approx(0.2)
    assert config.learning_rate_at(1000) == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_paper_is_the_default() -> None:
    config = LoopConfig(steps=8000)
    assert (config.learning_rate_at(500), config.learning_rate_at(8000)) == (5e-5, pytest.approx(1e-5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "must be positive"),
        ({"log_every": 0}, "must be positive"),
        ({"mixed_precision": "fp8"}, "expected 'bf16' or 'no'"),
        ({"optimizer": "sgd"}, "expected one of adamw, adamw-8bit, muon"),
    ],
)
def test_an_impossible_loop_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoopConfig(**{"steps": 1, **wrong})


class Line(WholeSteps):
    """Fits one number, until its loss or only its gradient is not finite."""

    names_of_losses = ("distance",)
    samples_per_step = 1

    def __init__(self, breaks_at: int, in_gradient: bool) -> None:
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.network = nn.ParameterDict({"weight": self.weight})
        self.frozen = nn.ModuleDict()
        self.breaks_at, self.in_gradient = breaks_at, in_gradient

    def batches(self, share: Share) -> Dataset:
        return StepBatches(lambda step: torch.tensor(float(step)))

    def losses(self, network: nn.Module, batch: Tensor, step: int, *rest: Any) -> dict[str, WeightedSum]:
        total = self.weight.square().sum()
        if step == self.breaks_at:
            zero = self.weight.sum() * 0
            total = total + (zero.abs().sqrt() if self.in_gradient else zero.log())
        return {"distance": as_one(total)}

    def evaluate(self, share: Share) -> Evaluation:
        return Evaluation(scores={})

    def save(self, folder: Path) -> None:
        folder.mkdir()


@pytest.mark.parametrize(
    ("in_gradient", "named"), [(False, "Loss 'distance' is -inf"), (True, "gradient norm is nan")]
)
def test_what_is_not_finite_stops_before_the_update(in_gradient: bool, named: str, tmp_path: Path) -> None:
    healthy = Line(breaks_at=100, in_gradient=in_gradient)
    train(healthy, replace(LOOP, steps=4, checkpoint_every=4), tmp_path / "healthy")
    broken = Line(breaks_at=4, in_gradient=in_gradient)
    with pytest.raises(NonFiniteError, match=f"{named} at step 4.*; the last good state is in .*checkpoints"):
        train(broken, replace(LOOP, warmup_steps=0, learning_rate=1e-2), tmp_path / "broken")
    assert torch.isfinite(broken.weight).all()
    newest = checkpoint.latest(tmp_path / "broken" / "checkpoints")
    assert newest is not None
    assert newest.name == "step-000000004"
    assert torch.equal(saved(newest)["network/weight"], broken.weight.detach())
    assert not (tmp_path / "broken" / "model").exists()


def same(left: Any, right: Any) -> bool:
    """Batches of any make, compared to the bit."""
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if hasattr(left, "__dataclass_fields__"):
        return all(same(value, getattr(right, name)) for name, value in vars(left).items())
    return bool(left == right)


@pytest.mark.parametrize("name", TASKS)
def test_batches_are_a_function_of_the_step_alone(name: str) -> None:
    task = TASKS[name]()
    alone = [TASKS[name]().batches(Share())[step] for step in (5, 6, 7)]
    assert same(alone[0], task.batches(Share())[5])
    assert not same(alone[0], alone[2])
    for workers in (0, 1, 2) if name == "masks" else (0,):
        loader = DataLoader(task.batches(Share()), batch_size=None, sampler=range(5, 8), num_workers=workers)
        assert all(map(same, loader, alone))


def test_noise_depends_on_the_sample_alone() -> None:
    task = mask_task()
    density, like = task.config.segmentation_density, torch.empty(4, 16, 4, 4)
    noise, t = task.objective.noise([0, 1, 2, 3], like, density, stream=2)
    again, t_again = task.objective.noise([9, 2], like, density, stream=2)
    assert torch.equal(again[1], noise[2])
    assert t_again[1] == t[2]
    assert len(set(t.tolist())) == 4
    for other in (
        task.objective.noise([2], like, density, stream=3),
        mask_task(seed=1).objective.noise([2], like, density, stream=2),
    ):
        assert not torch.equal(other[0][0], noise[2])
        assert other[1][0] != t[2]


def test_the_loss_of_a_sample_does_not_depend_on_its_batch() -> None:
    """Of a step of four samples, and of four steps of one: the sums agree."""
    together, alone = mask_task(generation_batch=0, sizes=((32, 32),)), []
    for index in range(4):
        task = mask_task(generation_batch=0, sizes=((32, 32),), segmentation_batch=1)
        alone.append(losses(task, batch(task, index), index)["segmentation"])
    total, weight = losses(together, batch(together))["segmentation"]
    torch.testing.assert_close(weight, torch.cat([part.weight for part in alone]), rtol=0, atol=0)
    torch.testing.assert_close(total, torch.cat([part.total for part in alone]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_what_a_step_weighs_is_known_before_its_losses(supervision: str) -> None:
    task = mask_task(supervision=supervision)
    part = batch(task)
    found = {name: float(loss.weight.sum()) for name, loss in losses(task, part).items()}
    assert task.weights(part) == found


@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_each_supervision_learns_a_batch_by_heart_and_touches_nothing_frozen(supervision: str) -> None:
    task = mask_task(supervision=supervision, segmentation_density=PowerLaw(0.0))
    frozen = {name: value.clone() for name, value in task.frozen.state_dict().items()}
    part = batch(task)
    optimizer = torch.optim.AdamW(task.network.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        means = {name: loss.mean() for name, loss in losses(task, part).items()}
        values.append({name: float(value.detach()) for name, value in means.items()})
        optimizer.zero_grad()
        torch.stack(list(means.values())).sum().backward()
        optimizer.step()
    for name in ("segmentation", "generation"):
        assert values[-1][name] < 0.95 * values[0][name]
    assert (task.network.mask_head is not None) == (supervision == "bce-linear")
    assert all(p.grad is not None for p in task.network.parameters())
    assert all(p.grad is None and not p.requires_grad for p in task.frozen.parameters())
    assert all(torch.equal(value, frozen[name]) for name, value in task.frozen.state_dict().items())


def test_an_unknown_supervision_lists_the_known() -> None:
    with pytest.raises(ValueError, match="mse, bce-pixels, bce-linear"):
        MaskConfig(supervision="dice")


def test_a_source_without_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="'rectangles' without a share in segmentation_sources"):
        mask_task(segmentation_sources=(("scenes", 1.0),))


def test_the_condition_is_that_of_the_prompt_alone() -> None:
    """The transformer is trained on what the pipeline will give it; the answer is not in it."""
    seen: list[Condition] = []

    def watch(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
        states, mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
        seen.append(Condition(hidden_states=states.detach(), attention_mask=mask))

    task = mask_task(generation_batch=0)
    task.transformer.register_forward_pre_hook(watch, with_kwargs=True)
    losses(task, batch(task))
    examples = [Rectangles().segmentation(i, 32, 32) for i in range(4)]
    plain = task.encoder.instructions.encode_segmentation(
        [e.image for e in examples], [e.text for e in examples]
    )
    (condition,) = seen
    assert torch.equal(condition.attention_mask, plain.attention_mask)
    assert torch.equal(condition.hidden_states, plain.hidden_states)


def test_samples_that_come_again_are_noised_anew() -> None:
    task = mask_task(epoch_steps=2)
    nn.init.normal_(task.transformer.proj_out.weight)
    batches = task.batches(Share())
    assert same(batches[3], batches[1])
    assert not same(mask_task().batches(Share())[3], batches[1])
    (part,) = task.prepare([batches[1]])
    first, again = losses(task, part, 1)["segmentation"], losses(task, part, 3)["segmentation"]
    assert not torch.equal(first.total, again.total)


def test_a_cache_stands_in_for_vae_and_vlm_to_the_bit(tmp_path: Path) -> None:
    plain = mask_task(epoch_steps=2)
    with CacheWriter(tmp_path, "toy") as writer:
        for step in range(2):
            drawn = plain.samples.drawn(step)
            for sample, encoded in zip(drawn, plain.encoder.encode_each(drawn), strict=True):
                writer.add(plain.encoder.key(sample), encoded)
    cached = mask_task(epoch_steps=2, cache=EncodingCache(tmp_path, "toy"))
    frozen = cached.encoder
    frozen.vae = frozen.vlm = frozen.codec = frozen.instructions = None  # type: ignore[assignment]
    for step in range(3):
        drawn_part = cached.batches(Share())[step]
        assert isinstance(drawn_part.segmentation, Encoding)
        assert isinstance(drawn_part.generation, Encoding)
        ours, theirs = (
            losses(cached, *[cached.prepare([drawn_part])[0]], step),
            losses(plain, batch(plain, step), step),
        )
        for name, loss in theirs.items():
            torch.testing.assert_close(ours[name].total, loss.total, rtol=1e-6, atol=0)
            assert torch.equal(ours[name].weight, loss.weight)
    with pytest.raises(ValueError, match="genmask cache"):
        mask_task(cache=EncodingCache(tmp_path, "toy")).batches(Share())[2]


def test_a_sample_weighs_the_same_in_both_tasks() -> None:
    task = mask_task()
    nn.init.normal_(task.transformer.proj_out.weight)
    part = batch(task)
    assert isinstance(part.generation, Encoding)
    total, weight = losses(task, part)["generation"]
    alone, alone_weight = task.objective.generation(task.network, part.generation, range(2))
    assert torch.equal(weight, alone_weight)
    assert torch.equal(total, alone * 2 / 4)


@pytest.mark.parametrize(
    "parts", [Share(world_size=2), Share(world_size=3), Share(world_size=2, accumulation=2)]
)
def test_a_step_is_the_same_samples_however_it_is_shared_out(parts: Share) -> None:
    """Ids, noise and noise levels; sizes that do not divide included."""
    task = mask_task(segmentation_batch=7, generation_batch=5)
    whole = task.batches(Share())[1]
    found: dict[str, list[str]] = {"segmentation": [], "generation": []}
    for micro in range(parts.accumulation):
        for rank in range(parts.world_size):
            share = replace(parts, rank=rank)
            part = task.batches(share)[1 * parts.accumulation + micro]
            for name, ids in found.items():
                ids.extend(getattr(part, name).ids)
            assert share.locate(1 * parts.accumulation + micro) == (1, micro)
    assert found == {name: list(getattr(whole, name).ids) for name in found}
    with pytest.raises(ValueError, match="Got 7 masks a step for 8 processes"):
        task.batches(Share(world_size=8))


def test_a_transformer_without_the_shortcut_is_used_as_it_was_trained(tmp_path: Path) -> None:
    """Table 6: one frame in training and in use, from the same noise to the same mask."""
    task = mask_task(shortcut=False, generation_batch=0)
    nn.init.normal_(task.transformer.proj_out.weight, std=0.1)
    frames: list[int] = []
    task.transformer.register_forward_pre_hook(
        lambda module, args, inputs: frames.append(inputs["hidden_states"].shape[2]), with_kwargs=True
    )
    losses(task, batch(task))
    example = Rectangles().segmentation(0, 32, 32)
    answer = task.pipeline().segment(example.image, example.text)
    assert frames == [1, 1]
    task.pipeline().save_pretrained(tmp_path)
    loaded = GenMaskPipeline.from_pretrained(tmp_path)
    assert not loaded.config.shortcut
    assert np.allclose(loaded.segment(example.image, example.text).soft_mask, answer.soft_mask, atol=1e-5)


@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_what_the_mask_says_under_ignore_changes_no_loss(supervision: str) -> None:
    class Scribbled(Rectangles):
        def segmentation(self, index: int, height: int, width: int) -> Example:
            example = super().segmentation(index, height, width)
            assert example.mask is not None
            assert example.ignore is not None
            scribble = np.random.default_rng(index).random((height, width)) > 0.5
            return replace(example, mask=np.where(example.ignore, scribble, example.mask))

    found = []
    for source in (Rectangles(), Scribbled(), Rectangles(with_ignore=False)):
        task = mask_task(source, supervision=supervision)
        nn.init.normal_(task.transformer.proj_out.weight)
        found.append({name: float(loss.mean()) for name, loss in losses(task, batch(task)).items()})
    assert found[0] == found[1]
    assert found[0]["segmentation"] != found[2]["segmentation"]


def test_a_share_of_captions_is_dropped_for_guidance_and_no_instruction_is() -> None:
    task = mask_task(generation_batch=40, condition_dropout=0.25)
    drawn = task.batches(Share())[0]
    assert isinstance(drawn.generation, Samples)
    assert isinstance(drawn.segmentation, Samples)
    empty = toy_processor().prepare([""]).prompt_lengths
    assert 3 <= int((drawn.generation.prompts.prompt_lengths == empty).sum()) <= 17
    examples = [Rectangles().segmentation(i, 32, 32) for i in range(4)]
    prompts = toy_processor().prepare(
        [segmentation_prompt(e.text) for e in examples], [e.image for e in examples]
    )
    assert same(prompts.input_ids, drawn.segmentation.prompts.input_ids)


@pytest.mark.parametrize("supervision", ["mse", "bce-linear"])
def test_a_finished_run_is_a_model_in_bfloat16(supervision: str, tmp_path: Path) -> None:
    task = mask_task(supervision=supervision)
    train(task, replace(LOOP, steps=2), tmp_path)
    folder = tmp_path / "model"
    kept = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (a safe_open, not a dict)
                float32 = path.parent.name == "transformer" and not {*key.split(".")}.isdisjoint(
                    task.transformer._keep_in_fp32_modules
                )
                kept += float32
                assert tensors.get_tensor(key).dtype == (torch.float32 if float32 else torch.bfloat16), key
    assert kept > 0
    pipeline = GenMaskPipeline.from_pretrained(folder)
    assert pipeline.config.resolution == 32
    example = Rectangles().segmentation(0, 40, 60)
    decoders = ("vae", "linear") if supervision == "bce-linear" else ("vae",)
    for decoder in decoders:
        assert pipeline.segment(example.image, example.text, decoder=decoder).mask.shape == (40, 60)


def test_the_moving_average_is_what_is_saved(tmp_path: Path) -> None:
    train(language_task(), replace(LOOP, ema_decay=0.5), tmp_path)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    found = saved(newest)
    model = load_model(type(language_task().vlm), tmp_path / "model")
    for name, value in model.named_parameters():
        assert torch.equal(value, found[f"ema/vlm.{name}"].to(torch.bfloat16)), name
    assert any(
        not torch.equal(value, found[f"network/vlm.{name}"].to(torch.bfloat16))
        for name, value in model.named_parameters()
    )
    assert load_processor(tmp_path / "model").tokenizer.get_vocab() == toy_processor().tokenizer.get_vocab()


def test_the_vae_is_saved_with_the_statistics_of_its_own_latents(tmp_path: Path) -> None:
    train(autoencoder_task(), LOOP, tmp_path)
    task = autoencoder_task()
    vae = load_model(AutoencoderKLWan, tmp_path / "model", dtype=torch.float32)
    latents = torch.cat([LatentCodec(vae).encode(task._crops(step)) for step in range(16)])
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.3
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.3


def test_temporal_taps_that_a_picture_never_reaches_stay_zero(tmp_path: Path) -> None:
    train(autoencoder_task(), replace(LOOP, weight_decay=0.0), tmp_path)
    for name, weight in load_file(tmp_path / "model" / "diffusion_pytorch_model.safetensors").items():
        if weight.ndim == 5:
            dead = weight if "time_conv" in name else weight[:, :, :-1]
            assert not dead.any(), name


def test_a_picture_smaller_than_the_crop_is_enlarged() -> None:
    class Narrow(Rectangles):
        def __getitem__(self, index: int) -> Example:
            return self.segmentation(index, 16, 80)

    task = AutoencoderTask(AutoencoderConfig(base_dim=4, crop=32, batch_size=4), [Narrow()], {})
    assert task.batches(Share())[0].shape == (4, 3, 32, 32)


def test_the_language_task_makes_the_last_layer_remember_its_words() -> None:
    task = language_task()
    prompts = task._dialogues(0)
    optimizer = torch.optim.AdamW(task.network.parameters(), lr=1e-2)
    recalled = []
    for _ in range(30):
        mean = task.losses(task.network, prompts, 0, "step", Share(), 0)["recall"].mean()
        recalled.append(float(mean.detach()))
        mean.backward()
        assert task.vlm.model.language_model.layers[0].self_attn.q_proj.weight.grad is not None
        optimizer.step()
        optimizer.zero_grad()
    assert recalled[-1] < 0.5 * recalled[0]
    assert "recall" not in "".join(task.vlm.state_dict())


def test_the_text_enters_a_fresh_transformer_at_the_size_of_everything_else():
    transformer = build_transformer(TransformerShape(num_layers=2), text_dim=256)
    sizes = {}
    for name in ("attn1", "attn2"):
        module = getattr(transformer.blocks[0], name)
        module.register_forward_hook(
            lambda _, __, output, name=name: sizes.update({name: float(output.square().mean().sqrt())})
        )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        transformer(
            torch.randn(2, 16, 2, 4, 4, generator=generator),
            torch.tensor([[0.0, 1000.0]]).expand(2, 2),
            torch.randn(2, 20, 256, generator=generator),
        )
    assert 1 / 3 < sizes["attn2"] / sizes["attn1"] < 3


def test_a_run_draws_its_tasks_alike_and_each_from_its_own_density(tmp_path: Path) -> None:
    """Kolmogorov and Smirnov on the noise levels that the transformer was given, at the 1 % level."""
    config: dict[str, Any] = {"segmentation_batch": 16, "generation_batch": 16, "condition_dropout": 0.5}
    task = mask_task(sizes=((32, 32),), **config)
    drawn: dict[int, list[float]] = {1: [], 2: []}  # by the number of frames
    task.transformer.register_forward_pre_hook(
        lambda module, args, inputs: drawn[inputs["hidden_states"].shape[2]].extend(
            (inputs["timestep"][:, -1] / 1000).tolist()
        ),
        with_kwargs=True,
    )
    empty = toy_processor().prepare([""]).prompt_lengths
    dropped = {"segmentation": 0, "generation": 0}
    prepare = task.prepare

    def watch(batches: list[MicroBatch]) -> list[MicroBatch]:
        for part in batches:
            for name in dropped:
                dropped[name] += int((getattr(part, name).prompts.prompt_lengths == empty).sum())
        return prepare(batches)

    task.prepare = watch  # type: ignore[method-assign, assignment]
    train(task, replace(LOOP, steps=32, checkpoint_every=32, evaluate_every=0, ema_decay=None), tmp_path)
    # The last evaluation segments and draws held-out samples, after all steps.
    levels = {name: sorted(drawn[frames][:512]) for name, frames in (("generation", 1), ("segmentation", 2))}
    assert len(levels["generation"]) == len(levels["segmentation"]) == 512
    densities = {
        "generation": task.config.generation_density,
        "segmentation": task.config.segmentation_density,
    }
    for name, found in levels.items():
        for other, density in densities.items():
            expected = density.cdf(torch.tensor(found)).numpy()
            steps = np.arange(513) / 512
            distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())
            assert (distance < 1.63 / math.sqrt(512)) == (name == other)
    assert dropped["segmentation"] == 0
    assert 200 < dropped["generation"] < 312


def test_trackers_get_numbers_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(LOOP, steps=4, trackers=("tensorboard",), log_every=2)
    train(mask_task(), config, tmp_path / "run")
    (events,) = (tmp_path / "run" / "genmask").glob("events*")
    found = EventAccumulator(str(events), size_guidance={"images": 0})
    found.Reload()
    lines = log(tmp_path / "run")
    values = [event.value for event in found.Scalars("segmentation")]
    assert values == pytest.approx(
        [line["segmentation"] for line in lines if "segmentation" in line], rel=1e-5
    )
    assert {"samples_per_second", "mfu", "held out_oiou"} <= set(found.Tags()["scalars"])
    assert len(found.Tags()["images"]) == 2
    rates = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert rates["samples_per_second"] == pytest.approx(6 * rates["steps_per_second"], rel=1e-4)


def test_an_unknown_tracker_lists_the_known() -> None:
    with pytest.raises(ValueError, match="Got tracker 'tensorbord', expected one of tensorboard, wandb"):
        LoopConfig(steps=1, trackers=("tensorbord",))


def test_a_sample_whose_loss_is_not_finite_is_named_with_step_and_task(tmp_path: Path) -> None:
    class Broken(MaskTask):
        def losses(self, network: nn.Module, batch: MicroBatch, step: int, which: str, *rest: Any) -> Any:
            found = super().losses(network, batch, step, which, *rest)
            if step == 2 and which == "segmentation":
                total, weight = found["segmentation"]
                found["segmentation"] = WeightedSum(total * torch.tensor([1, 1, math.nan, 1]), weight)
            return found

    task = mask_task()
    task.__class__ = Broken
    named = r"Loss 'segmentation' is nan at step 2: segmentation of rectangles/10; the last good state"
    with pytest.raises(NonFiniteError, match=named):
        train(task, replace(LOOP, checkpoint_every=1), tmp_path)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-000000002"
    weights = {name: x for name, x in saved(newest).items() if name.startswith("network/transformer")}
    trained = dict(task.network.named_parameters())
    assert all(torch.equal(trained[name.removeprefix("network/")], x) for name, x in weights.items())
