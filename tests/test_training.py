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
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from genmask.conditioning import Condition
from genmask.data.example import Dialogue, Example
from genmask.data.folder import Folder
from genmask.data.transforms import resize
from genmask.latents import LatentCodec
from genmask.loading import load_model
from genmask.model_folder import load_processor
from genmask.objectives import WeightedSum
from genmask.pipeline import GenMaskPipeline
from genmask.processor import segmentation_prompt
from genmask.timesteps import PowerLaw
from genmask.training import checkpoint
from genmask.training.autoencoder import AutoencoderConfig, AutoencoderTask
from genmask.training.batches import StepBatches
from genmask.training.encodings import EncodedStep, EncodedSteps
from genmask.training.language import LanguageConfig, LanguageTask
from genmask.training.loop import LoopConfig, NonFiniteError, TrainingTask, train
from genmask.training.masks import SUPERVISIONS, ExampleSource, MaskConfig, MaskTask, Step, build_transformer
from tests.conftest import toy_pipeline
from tests.toy import toy_processor, toy_vae, toy_vlm

SIZES = ((32, 32), (32, 48))
LOOP = LoopConfig(
    steps=5,
    learning_rate=3e-3,
    final_learning_rate=1e-3,
    warmup_steps=2,
    ema_decay=0.9,
    num_workers=0,
    checkpoint_every=2,
    evaluate_every=4,
    log_every=3,
)


class Rectangles:
    """A bright rectangle on a dark ground, to be found by its colour; a function of the index alone."""

    colours = ("red", "green", "blue")

    def __init__(self, with_ignore: bool = True) -> None:
        self.with_ignore = with_ignore

    def segmentation(self, index: int, height: int, width: int) -> Example:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        top, left = rng.integers(height // 2), rng.integers(width // 2)
        mask = np.zeros((height, width), dtype=bool)
        mask[top : top + 16, left : left + 16] = True
        image[mask, index % 3] = 250
        ignore = np.zeros_like(mask)
        ignore[:10, :20] = self.with_ignore
        return Example(image=image, text=f"the {self.colours[index % 3]} mug", mask=mask, ignore=ignore)

    def generation(self, index: int, height: int, width: int) -> Example:
        found = self.segmentation(index, height, width)
        return Example(image=found.image, text=f"a {self.colours[index % 3]} mug", task="generation")

    def dialogues(self, index: int) -> list[Dialogue]:
        image = self.segmentation(index, 32, 32).image
        return [Dialogue(image=image, question="Which part?", answer=self.colours[index % 3])]

    def __getitem__(self, index: int) -> Example:
        return self.segmentation(index, 48, 48)


def mask_task(
    source: ExampleSource | None = None, kept: EncodedSteps | None = None, **config: Any
) -> MaskTask:
    source = source or Rectangles()
    toy = MaskConfig(
        num_layers=2, num_attention_heads=2, attention_head_dim=12, ffn_dim=48, freq_dim=32, resolution=32,
        sizes=SIZES, source_weights=(("rectangles", 1.0),), segmentation_batch=4, generation_batch=2,
        segmentation_density=PowerLaw(0.5),
    )  # fmt: skip
    return MaskTask(
        replace(toy, **config),
        {"rectangles": source},
        {"held out": [source.segmentation(1000 + i, 32, 32) for i in range(2)]},
        vae=toy_vae(),
        vlm=toy_vlm(),
        processor=toy_processor(),
        kept=kept,
    )


def autoencoder_task() -> AutoencoderTask:
    config = AutoencoderConfig(base_dim=4, crop=32, batch_size=4)
    return AutoencoderTask(config, [Rectangles()], {"held out": [Rectangles()[1000]]})


def language_task() -> LanguageTask:
    config = LanguageConfig(
        hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64,
        vision_hidden_size=16, vision_depth=2, vision_num_heads=2, vision_intermediate_size=32, batch_size=3,
    )  # fmt: skip
    return LanguageTask(config, [Rectangles()], {"held out": Rectangles().dialogues(1000)}, toy_processor())


TASKS: dict[str, Callable[[], TrainingTask]] = {
    "autoencoder": autoencoder_task,
    "language": language_task,
    "masks": mask_task,
}


def files(folder: Path) -> dict[str, bytes]:
    """Everything that a run leaves behind, to the bit; of the log, what does not depend on the clock."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop("log.jsonl")
    (optimizers,) = [name for name in found if name.endswith("optimizers.pt")]
    states = torch.load(
        folder / optimizers, weights_only=True
    )  # as numbers: pickles of equal states may differ
    found[optimizers] = b"".join(
        value.numpy().tobytes()
        for state in states
        for moments in state["state"].values()
        for value in moments.values()
    )
    return found


def log(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in lines]


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
    weights = load_file(tmp_path / "whole" / "checkpoints" / "step-000000005" / "modules.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}  # though it computes in bfloat16
    assert [line["step"] for line in log(tmp_path / "whole")] == [3, 4, 5, 5]


def test_an_interrupted_run_on_samples_that_come_again_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def task(name: str) -> MaskTask:
        return mask_task(kept=EncodedSteps(tmp_path / name), epoch_steps=2)

    train(task("kept"), LOOP, tmp_path / "whole")
    while not train(task("kept in parts"), LOOP, tmp_path / "parts", max_seconds=0):
        pass
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_end(tmp_path: Path) -> None:
    class Killed(AutoencoderTask):
        def losses(self, batch: Tensor, step: int) -> dict[str, WeightedSum]:
            if step == 3:
                raise KeyboardInterrupt
            return super().losses(batch, step)

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

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    for moment in ("save_file", "os.replace"):  # half-way through the writing, and just before it is named
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
        ({"optimizer": "sgd"}, "expected one of adamw, muon"),
    ],
)
def test_an_impossible_loop_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoopConfig(**{"steps": 1, **wrong})


class Line:
    """Fits one number, until its loss or only its gradient is not finite."""

    def __init__(self, breaks_at: int, in_gradient: bool) -> None:
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.modules = nn.ModuleDict({"line": nn.ParameterList([self.weight])})
        self.frozen = nn.ModuleDict()
        self.breaks_at, self.in_gradient = breaks_at, in_gradient

    def batches(self) -> Dataset:
        return StepBatches(lambda step: torch.tensor(float(step)))

    def losses(self, batch: Tensor, step: int) -> dict[str, WeightedSum]:
        total = self.weight.square().sum()
        if step == self.breaks_at:
            zero = self.weight.sum() * 0
            total = total + (zero.abs().sqrt() if self.in_gradient else zero.log())
        return {"distance": WeightedSum(total, torch.tensor(1.0))}

    def evaluate(self) -> dict[str, float]:
        return {}

    def save(self, folder: Path) -> None:
        folder.mkdir()


@pytest.mark.parametrize(
    ("in_gradient", "named"), [(False, "Loss 'distance' is -inf"), (True, "gradient norm is nan")]
)
def test_what_is_not_finite_stops_before_the_update(in_gradient: bool, named: str, tmp_path: Path) -> None:
    healthy = Line(breaks_at=100, in_gradient=in_gradient)
    train(healthy, replace(LOOP, steps=4, checkpoint_every=4), tmp_path / "healthy")
    broken = Line(breaks_at=4, in_gradient=in_gradient)
    with pytest.raises(NonFiniteError, match=f"{named} at step 4; the last good state is in .*checkpoints"):
        train(broken, replace(LOOP, warmup_steps=0, learning_rate=1e-2), tmp_path / "broken")
    assert torch.isfinite(broken.weight).all()
    newest = checkpoint.latest(tmp_path / "broken" / "checkpoints")
    assert newest is not None
    assert newest.name == "step-000000004"
    assert torch.equal(load_file(newest / "modules.safetensors")["line.0"], broken.weight.detach())
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
    alone = [TASKS[name]().batches()[step] for step in (5, 6, 7)]
    assert same(alone[0], task.batches()[5])
    assert not same(alone[0], alone[2])
    for workers in (0, 1, 2) if name == "masks" else (0,):
        loader = DataLoader(task.batches(), batch_size=None, sampler=range(5, 8), num_workers=workers)
        assert all(map(same, loader, alone))


def test_noise_depends_on_the_sample_alone() -> None:
    task = mask_task()
    density, like = task.config.segmentation_density, torch.empty(4, 16, 4, 4)
    noise, t = task._noise([0, 1, 2, 3], like, density, stream=2)
    again, t_again = task._noise([9, 2], like, density, stream=2)
    assert torch.equal(again[1], noise[2])
    assert t_again[1] == t[2]
    assert len(set(t.tolist())) == 4
    for other in (
        task._noise([2], like, density, stream=3),
        mask_task(seed=1)._noise([2], like, density, stream=2),
    ):
        assert not torch.equal(other[0][0], noise[2])
        assert other[1][0] != t[2]


def loss(task: MaskTask, batch: Step, name: str = "segmentation") -> Tensor:
    total, weight = task.losses(batch, 0)[name]
    return total / weight


def test_the_loss_of_a_sample_does_not_depend_on_its_batch() -> None:
    """Of a step of four samples, and of four steps of one: the sums agree."""
    together, alone = mask_task(generation_batch=0, sizes=((32, 32),)), []
    for index in range(4):
        task = mask_task(generation_batch=0, sizes=((32, 32),), segmentation_batch=1)
        alone.append(task.losses(task.batches()[index], index)["segmentation"])
    total, weight = together.losses(together.batches()[0], 0)["segmentation"]
    assert weight == sum(part.weight for part in alone)
    torch.testing.assert_close(total, sum(part.total for part in alone), rtol=1e-5, atol=0)


@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_each_supervision_learns_a_batch_by_heart_and_touches_nothing_frozen(supervision: str) -> None:
    task = mask_task(supervision=supervision, segmentation_density=PowerLaw(0.0))
    frozen = {name: value.clone() for name, value in task.frozen.state_dict().items()}
    batch = task.batches()[0]
    optimizer = torch.optim.AdamW(task.modules.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        losses = {name: total / weight for name, (total, weight) in task.losses(batch, 0).items()}
        values.append({name: float(value.detach()) for name, value in losses.items()})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    for name in ("segmentation", "generation"):
        assert values[-1][name] < 0.95 * values[0][name]
    assert set(task.modules) == {"transformer"} | ({"mask_head"} if supervision == "bce-linear" else set())
    assert all(p.grad is not None for p in task.modules.parameters())
    assert all(p.grad is None and not p.requires_grad for p in task.frozen.parameters())
    assert all(torch.equal(value, frozen[name]) for name, value in task.frozen.state_dict().items())


def test_an_unknown_supervision_lists_the_known() -> None:
    with pytest.raises(ValueError, match="mse, bce-pixels, bce-linear"):
        MaskConfig(supervision="dice")


def test_a_source_without_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="'rectangles' without a share in source_weights"):
        mask_task(source_weights=(("scenes", 1.0),))


def test_the_condition_is_that_of_the_prompt_alone() -> None:
    """The transformer is trained on what the pipeline will give it; the answer is not in it."""
    seen: list[Condition] = []

    def watch(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
        states, mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
        seen.append(Condition(hidden_states=states.detach(), attention_mask=mask))

    task = mask_task(generation_batch=0)
    task.transformer.register_forward_pre_hook(watch, with_kwargs=True)
    task.losses(task.batches()[0], 0)
    examples = [Rectangles().segmentation(i, 32, 32) for i in range(4)]
    plain = task.encoder.encode_segmentation([e.image for e in examples], [e.text for e in examples])
    (condition,) = seen
    assert torch.equal(condition.attention_mask, plain.attention_mask)
    assert torch.equal(condition.hidden_states, plain.hidden_states)


def test_samples_that_come_again_are_encoded_once_and_noised_anew(tmp_path: Path) -> None:
    task = mask_task(kept=EncodedSteps(tmp_path), epoch_steps=2)
    nn.init.normal_(task.transformer.proj_out.weight)
    batches = task.batches()
    drawn = batches[3]
    assert isinstance(drawn, Step)
    assert drawn.segmentation.images.shape[1:3] == SIZES[1]
    first = task.losses(drawn, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    again = batches[5]
    assert isinstance(again, EncodedStep)
    assert task.losses(again, 3) == first
    assert task.losses(again, 5) != first
    assert isinstance(batches[4], Step)

    endless = mask_task()
    endless.transformer.load_state_dict(task.transformer.state_dict())
    assert endless.losses(endless.batches()[1], 3) == first
    assert not same(endless.batches()[3], drawn)


def test_a_sample_weighs_the_same_in_both_tasks() -> None:
    task = mask_task()
    nn.init.normal_(task.transformer.proj_out.weight)
    batch = task.batches()[0]
    assert batch.generation is not None
    encoded = task._encode(batch, 0).generation
    total, weight = task.losses(batch, 0)["generation"]
    alone, alone_weight = task._generation_loss(encoded, 0)
    assert weight == alone_weight
    assert total == alone * 2 / 4


def test_encodings_are_kept_in_the_precision_that_they_are_used_in(tmp_path: Path) -> None:
    task = mask_task(kept=EncodedSteps(tmp_path), epoch_steps=2)
    nn.init.normal_(task.transformer.proj_out.weight)
    with torch.autocast("cpu", torch.bfloat16):
        first = task.losses(task.batches()[0], 0)
        kept = task.batches()[0]
        assert task.losses(kept, 0) == first
    assert isinstance(kept, EncodedStep)
    assert kept.segmentation.condition.hidden_states.dtype == torch.bfloat16
    assert kept.segmentation.x0.dtype == torch.float32


def test_samples_come_again_only_with_a_place_to_keep_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epoch_steps=2 and no folder"):
        mask_task(epoch_steps=2)
    with pytest.raises(ValueError, match="epoch_steps=0 and a folder"):
        mask_task(kept=EncodedSteps(tmp_path))


@pytest.mark.parametrize("supervision", SUPERVISIONS)
def test_what_the_mask_says_under_ignore_changes_no_loss(supervision: str) -> None:
    class Scribbled(Rectangles):
        def segmentation(self, index: int, height: int, width: int) -> Example:
            example = super().segmentation(index, height, width)
            assert example.mask is not None
            assert example.ignore is not None
            scribble = np.random.default_rng(index).random((height, width)) > 0.5
            return replace(example, mask=np.where(example.ignore, scribble, example.mask))

    losses = []
    for source in (Rectangles(), Scribbled(), Rectangles(with_ignore=False)):
        task = mask_task(source, supervision=supervision)
        nn.init.normal_(task.transformer.proj_out.weight)
        losses.append({name: sum_.total.item() for name, sum_ in task.losses(task.batches()[0], 0).items()})
    assert losses[0] == losses[1]
    assert losses[0]["segmentation"] != losses[2]["segmentation"]


def test_a_share_of_captions_is_dropped_for_guidance_and_no_instruction_is() -> None:
    task = mask_task(generation_batch=40, condition_dropout=0.25)
    batch = task.batches()[0]
    assert batch.generation is not None
    empty = toy_processor().prepare([""]).prompt_lengths
    assert 3 <= int((batch.generation.prompts.prompt_lengths == empty).sum()) <= 17
    examples = [Rectangles().segmentation(i, 32, 32) for i in range(4)]
    prompts = toy_processor().prepare(
        [segmentation_prompt(e.text) for e in examples], [e.image for e in examples]
    )
    assert same(prompts.input_ids, batch.segmentation.prompts.input_ids)


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


def test_a_folder_of_ones_own_goes_on_from_a_model(tmp_path: Path) -> None:
    """As docs/training.md shows it: masks alone, from a source that can do nothing else."""

    class Own:
        def __init__(self, root: Path) -> None:
            self.folder = Folder(root)

        def segmentation(self, index: int, height: int, width: int) -> Example:
            return resize(self.folder[index % len(self.folder)], height, width)

    example = Rectangles().segmentation(0, 40, 56)
    assert example.mask is not None
    Image.fromarray(example.image).save(tmp_path / "mug.png")
    Image.fromarray(example.mask).save(tmp_path / "mask.png")
    row = {"image": "mug.png", "text": "the red mug", "mask": "mask.png"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    pipeline = toy_pipeline()
    source: Any = Own(tmp_path)
    task = mask_task(source, generation_batch=0)
    task.transformer.load_state_dict(pipeline.transformer.state_dict())
    before = float(loss(task, task.batches()[0]).detach())
    train(task, replace(LOOP, steps=20, log_every=20, ema_decay=None), tmp_path / "run")
    assert log(tmp_path / "run")[-2]["segmentation"] < before
    assert (
        GenMaskPipeline.from_pretrained(tmp_path / "run" / "model").segment(example.image, "the red mug").text
    )


def test_the_moving_average_is_what_is_saved(tmp_path: Path) -> None:
    train(language_task(), replace(LOOP, ema_decay=0.5), tmp_path)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    average = list(load_file(newest / "ema.safetensors").values())
    task = language_task()
    saved = load_model(type(task.vlm), tmp_path / "model")
    assert len(average) == len(list(saved.parameters())) + len(list(task.recall.parameters()))
    for expected, (name, value) in zip(
        average, saved.named_parameters(), strict=False
    ):  # the recall head is last
        assert torch.equal(value, expected.to(torch.bfloat16)), name
    weights = load_file(newest / "modules.safetensors")
    assert any(
        not torch.equal(value, weights[f"vlm.{name}"].to(torch.bfloat16))
        for name, value in saved.named_parameters()
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
    assert task.batches()[0].shape == (4, 3, 32, 32)


def test_the_language_task_makes_the_last_layer_remember_its_words():
    task = language_task()
    batch = task._dialogues(0)
    optimizer = torch.optim.AdamW(task.modules.parameters(), lr=1e-2)
    recalled = []
    for _ in range(30):
        loss = task.losses(batch, 0)["recall"]
        mean = loss.total / loss.weight
        recalled.append(float(mean.detach()))
        mean.backward()
        assert task.vlm.model.language_model.layers[0].self_attn.q_proj.weight.grad is not None
        optimizer.step()
        optimizer.zero_grad()
    assert recalled[-1] < 0.5 * recalled[0]
    assert "recall" not in "".join(task.vlm.state_dict())


def test_the_text_enters_a_fresh_transformer_at_the_size_of_everything_else():
    transformer = build_transformer(MaskConfig(num_layers=2), text_dim=256)
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
