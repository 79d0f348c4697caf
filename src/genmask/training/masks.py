"""Training the transformer on masks and pictures under one flow-matching objective (Eq. 2).

VAE and instruction encoder are frozen, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.conditioning import Condition, InstructionEncoder, concatenate
from genmask.data.example import Example
from genmask.data.mixture import Interleaving
from genmask.denoiser import GenMaskTransformer
from genmask.evaluation.metrics import Counts, IoUTotals, count_pixels
from genmask.latents import COMPRESSION, LatentCodec, images_to_pixels, mask_to_pixels
from genmask.mask_head import LinearMaskHead
from genmask.objectives import (
    WeightedSum,
    bce_linear_loss,
    bce_pixel_loss,
    interpolate,
    latent_weight,
    mse_loss,
    velocity,
)
from genmask.pipeline import GenMaskPipeline
from genmask.processor import GenMaskProcessor, segmentation_prompt
from genmask.prompt_batch import PromptBatch
from genmask.quantise import quantise
from genmask.segmentation import Segmentation
from genmask.timesteps import TimestepDensity
from genmask.training.adapters import add_lora, merge_lora
from genmask.training.batches import StepBatches
from genmask.training.cache import (
    CacheWriter,
    EncodedSample,
    EncodingCache,
    FillCounts,
    fill,
    sample_key,
)
from genmask.training.estimate import Pass, training_flop
from genmask.training.grid import generation_grid, segmentation_grid
from genmask.training.loop import Evaluation
from genmask.training.mask_config import MaskConfig
from genmask.training.network import MaskNetwork
from genmask.training.offload import lent
from genmask.training.parallel import Share, full_tensor, gather_lists, is_main_process, is_sharded
from genmask.training.recognition import RecognitionHead, label_patches, recognition_loss
from genmask.training.samples import Encoding, MicroBatch, Samples
from genmask.training.sources import GenerationSource, SegmentationSource

CACHE_BATCH = 32
"""Samples that are encoded together for a cache."""
GRID_ROWS = 8
"""Held-out samples, and captions, that an evaluation shows."""


class Drawn(NamedTuple):
    """A sample as VAE and VLM read it."""

    id: str
    """Source and id."""
    prompt: str
    image: np.ndarray
    """(H, W, 3) uint8."""
    mask: np.ndarray | None
    """(H, W) bool, background where unknown; None for a picture that is to be drawn."""


class MaskTask:
    """Segmentation and generation, one pass each per micro-batch.

    Args:
        config: what the transformer is trained on, and how.
        transformer: what is trained; its parameters without `requires_grad` are not.
        segmentation_sources, generation_sources: by name, each with a share in the config.
        validation: held-out samples by name.
        vae, vlm, processor: frozen.
        describer: of the model to go on from: it is not trained, and saved with the rest.
        mask_head: of the third supervision, to go on from; None for a new one.
        cache: what VAE and VLM made of the samples before; they are not run then.
        original_vlm: loads the VLM again, to be saved where it is quantised for the training.
        identity: of VAE, VLM and processor (`cache.model_identity`), in the keys of the cache.
    """

    passes = ("generation", "segmentation")
    """In this order on every process: the last uses every parameter, as DDP wants of the one that it reduces in."""

    def __init__(
        self,
        config: MaskConfig,
        transformer: GenMaskTransformer,
        *,
        segmentation_sources: Mapping[str, SegmentationSource],
        generation_sources: Mapping[str, GenerationSource],
        validation: Mapping[str, Sequence[Example]],
        vae: AutoencoderKLWan,
        vlm: Qwen2_5_VLForConditionalGeneration,
        processor: GenMaskProcessor,
        describer: Qwen2_5_VLForConditionalGeneration | None = None,
        mask_head: LinearMaskHead | None = None,
        cache: EncodingCache | None = None,
        identity: str = "",
        original_vlm: Callable[[], Qwen2_5_VLForConditionalGeneration] | None = None,
    ) -> None:
        if config.lora_rank:
            add_lora(transformer, config.lora_rank)
        self.original_vlm = original_vlm if config.vlm_precision == "int8" else None
        if config.vlm_precision == "int8":
            quantise(vlm)
        self.config = config
        self.segmentation_sources, self.generation_sources = segmentation_sources, generation_sources
        self._segmentation_turns = _interleaving("segmentation", config, segmentation_sources)
        self._generation_turns = None
        if config.generation_batch:
            self._generation_turns = _interleaving("generation", config, generation_sources)
        self.validation = validation
        self.vae, self.vlm, self.processor = vae.requires_grad_(False), vlm.requires_grad_(False), processor
        self.describer = describer
        self.codec = LatentCodec(vae)
        self.encoder = InstructionEncoder(vlm, processor)
        self.cache, self.identity = cache, identity
        self.transformer = transformer
        if config.supervision == "bce-linear":
            mask_head = mask_head or LinearMaskHead(vae.config.z_dim)
        elif mask_head is not None:
            raise ValueError(
                f"Got a model with a mask head, which supervision {config.supervision!r} does not train: "
                "take 'bce-linear'."
            )
        recognition = None
        if config.recognition_weight:
            recognition = RecognitionHead.for_sources(transformer, segmentation_sources)
        self.recognition = recognition
        self.network = MaskNetwork(
            transformer,
            mask_head,
            recognition,
            config.recognition_block,
            prediction=config.prediction,
            picture_first=config.picture_first,
        )
        decodes = config.supervision == "bce-pixels"
        waits = {"vae": cache is not None and not decodes, "vlm": cache is not None or config.offload}
        parts: dict[str, nn.Module] = {"vae": vae, "vlm": vlm}
        self.frozen = nn.ModuleDict({name: part for name, part in parts.items() if not waits[name]})
        self._waiting = [part for name, part in parts.items() if waits[name]]
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        if config.compile:
            transformer.compile_repeated_blocks(dynamic=True)

    @property
    def samples_per_step(self) -> int:
        return self.config.segmentation_batch + self.config.generation_batch

    def batches(self, share: Share) -> Dataset:
        """Map from the turn of a process to its micro-batch.

        Raises:
            ValueError: fewer samples in a step than parts to share them out among.
        """
        share.require(masks=self.config.segmentation_batch, pictures=self.config.generation_batch or None)

        def draw(turn: int) -> MicroBatch:
            return self._draw(share, *share.locate(turn))

        return StepBatches(draw)

    def _draw(self, share: Share, step: int, micro: int) -> MicroBatch:
        step = step % self.config.epoch_steps if self.config.epoch_steps else step
        masks = share.samples(step, self.config.segmentation_batch, micro)
        pictures = share.samples(step, self.config.generation_batch, micro)
        size = self.config.sizes[step % len(self.config.sizes)]
        return MicroBatch(
            segmentation=self._labelled(masks, *size),
            generation=self._assembled(self._pictures(pictures, *size)) if len(pictures) else None,
        )

    def drawn(self, step: int) -> list[Drawn]:
        """All samples of a step, in all processes together."""
        size = self.config.sizes[step % len(self.config.sizes)]
        masks = Share().samples(step, self.config.segmentation_batch, 0)
        pictures = Share().samples(step, self.config.generation_batch, 0)
        return [_asked(e) for _, e in self._masks(masks, *size)] + self._pictures(pictures, *size)

    def _masks(self, indices: Iterable[int], height: int, width: int) -> list[tuple[str, Example]]:
        """Names of sources, and their examples."""
        located = [self._segmentation_turns.locate(index) for index in indices]
        return [
            (name, self.segmentation_sources[name].segmentation(position, height, width))
            for name, position in located
        ]

    def _labelled(self, indices: Iterable[int], height: int, width: int) -> Samples | Encoding:
        """Masks to be drawn, with all that is known of them."""
        found = self._masks(indices, height, width)
        nothing = np.zeros((height, width), dtype=bool)
        ignore = np.stack([nothing if e.ignore is None else e.ignore for _, e in found])
        labels = {"ignore": torch.from_numpy(ignore)}
        if self.recognition is not None:
            labels["coverage"], labels["concepts"] = label_patches(
                [e.regions for _, e in found],
                [self.recognition.columns[name] for name, _ in found],
                concepts=self.recognition.count,
                patch=COMPRESSION * self.transformer.config.patch_size[-1],
            )
        return self._assembled([_asked(e) for _, e in found], **labels)

    def _pictures(self, indices: Iterable[int], height: int, width: int) -> list[Drawn]:
        """Pictures to be drawn, some of them from no words at all."""
        drawn = []
        for index in indices:
            assert self._generation_turns is not None
            name, position = self._generation_turns.locate(index)
            example = self.generation_sources[name].generation(position, height, width)
            dropped = (
                np.random.default_rng((self.config.seed, index, 1)).random() < self.config.condition_dropout
            )
            drawn.append(Drawn(_id(example), "" if dropped else example.text, example.image, None))
        return drawn

    def _assembled(self, drawn: Sequence[Drawn], **labels: Tensor) -> Samples | Encoding:
        """Equal-sized samples as a batch; with a cache, what VAE and VLM would make of it."""
        ids = tuple(sample.id for sample in drawn)
        masks = [sample.mask for sample in drawn if sample.mask is not None]
        if masks:
            labels["masks"] = torch.from_numpy(np.stack(masks))
        if self.cache is not None:
            return join([self.cache.get(self.key(sample)) for sample in drawn], ids=ids, **labels)
        images = torch.from_numpy(np.stack([sample.image for sample in drawn]))
        prompts = self.processor.prepare([sample.prompt for sample in drawn], images if masks else None)
        return Samples(ids=ids, images=images, prompts=prompts, **labels)

    def key(self, sample: Drawn) -> str:
        """Of a sample in a cache."""
        return sample_key(self.identity, sample.prompt, sample.image, sample.mask)

    def encode(self, drawn: Sequence[Drawn]) -> list[EncodedSample]:
        """Samples of any sizes and tasks, for a cache."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for row, sample in enumerate(drawn):
            groups.setdefault((*sample.image.shape, sample.mask is None), []).append(row)
        encoded: dict[int, EncodedSample] = {}
        for rows in groups.values():
            batch = self._assembled([drawn[row] for row in rows]).to(self.vae.device)
            encoded.update(zip(rows, split(self._encoded(batch)), strict=True))
        return [encoded[row] for row in range(len(drawn))]

    def fill(
        self, writer: CacheWriter, steps: Iterable[int], mixed_precision: str, advance: Callable[[int], None]
    ) -> FillCounts:
        """Encode the samples of some steps into a cache, on the GPU if there is one; `advance` is told how many."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.frozen.to(device)
        drawn = ((self.key(sample), sample) for step in steps for sample in self.drawn(step))
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision == "bf16"), torch.no_grad():
            return fill(drawn, self.encode, writer, CACHE_BATCH, advance)

    def prepare(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """The frozen half of a step."""
        if self.cache is not None:
            return list(batches)
        with self._fetched():
            return [
                MicroBatch(
                    segmentation=self._encoded(batch.segmentation),
                    generation=None if batch.generation is None else self._encoded(batch.generation),
                )
                for batch in batches
            ]

    @contextmanager
    def _fetched(self) -> Iterator[None]:
        """Frozen parts that wait on the CPU are where the network is, for a while."""
        device = next(self.network.parameters()).device
        with ExitStack() as stack:
            for part in self._waiting:
                stack.enter_context(lent(part, device))
            yield

    @torch.no_grad()
    def _encoded(self, samples: Samples | Encoding) -> Encoding:
        if isinstance(samples, Encoding):
            return samples
        pixels = [images_to_pixels(samples.images)]
        if samples.masks is not None:
            pixels.append(mask_to_pixels(samples.masks))
        with torch.autocast(samples.images.device.type, enabled=False):
            latents = self.codec.encode(torch.cat(pixels)).split(len(samples.images))
        return Encoding(
            ids=samples.ids,
            x0=latents[-1],
            picture=None if samples.masks is None else latents[0],
            condition=self._condition(samples.prompts),
            masks=samples.masks,
            ignore=samples.ignore,
            coverage=samples.coverage,
            concepts=samples.concepts,
        )

    def _condition(self, prompts: PromptBatch) -> Condition:
        """In the precision that the transformer takes it in."""
        condition = self.encoder.encode(prompts)
        device = condition.hidden_states.device.type
        return (
            condition.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else condition
        )

    def weights(self, batch: MicroBatch) -> dict[str, float]:
        """What the losses of `batch` are to be divided by, before they are known: `WeightedSum.weight`, summed."""
        segmentation, generation = batch.segmentation, batch.generation
        assert isinstance(segmentation, Encoding)
        assert segmentation.ignore is not None
        if self.config.supervision == "mse":
            weight = float(latent_weight(segmentation.ignore).sum()) * segmentation.x0.shape[1]
        else:
            weight = float((~segmentation.ignore).sum())
        weights = {"segmentation": weight}
        if segmentation.coverage is not None:
            weights["recognition"] = float(segmentation.coverage[..., 0].numel())
        if self.config.generation_batch:
            weights["generation"] = float(generation.x0.numel()) if isinstance(generation, Encoding) else 0.0
        return weights

    def flop(self, batch: MicroBatch) -> float:
        """Operations of the transformer's forward and backward."""
        flop = 0.0
        for part in (batch.segmentation, batch.generation):
            if isinstance(part, Encoding):
                samples, _, height, width = part.x0.shape
                patch = self.transformer.config.patch_size[-1]
                work = Pass(
                    samples=samples,
                    frames=1 if part.masks is None else self.config.segmentation_frames,
                    patches=height * width // patch**2,
                    text=part.condition.attention_mask.shape[1],
                )
                flop += training_flop(self.transformer.config, work)
        return flop

    def names(self, batch: MicroBatch, which: str) -> Sequence[str]:
        part = batch.generation if which == "generation" else batch.segmentation
        return () if part is None else part.ids

    def losses(
        self, network: nn.Module, batch: MicroBatch, step: int, which: str, share: Share, micro: int
    ) -> dict[str, WeightedSum]:
        """Of one pass.

        Args:
            network: `self.network`, as it is or wrapped.
            batch: prepared, of micro-batch number `micro` of `step`.
            which: one of `passes`.
            share: whose part of the step it is.
        """
        if which == "generation":
            if batch.generation is None:
                return {}
            assert isinstance(batch.generation, Encoding)
            indices = share.samples(step, self.config.generation_batch, micro)
            total, weight = self._generation_loss(network, batch.generation, indices)
            # A sample counts alike in both tasks; a small share of pictures would drown the masks otherwise.
            ratio = self.config.generation_batch / self.config.segmentation_batch
            return {"generation": WeightedSum(ratio * total, weight)}
        assert isinstance(batch.segmentation, Encoding)
        indices = share.samples(step, self.config.segmentation_batch, micro)
        return self._segmentation_losses(network, batch.segmentation, indices)

    def _segmentation_losses(
        self, network: nn.Module, samples: Encoding, indices: Sequence[int]
    ) -> dict[str, WeightedSum]:
        assert samples.masks is not None
        assert samples.ignore is not None
        x0 = samples.x0
        eps, t = self._noise(indices, x0, self.config.segmentation_density, stream=2)
        if not self.config.noise:
            eps = torch.zeros_like(eps)
        x_t = None if self.config.prediction == "mask" else interpolate(x0, eps, t)
        prediction = network(x_t, t, samples.condition, samples.picture if self.config.shortcut else None)
        if self.config.supervision == "mse":
            loss = mse_loss(prediction.output, self._target(x0, eps), latent_weight(samples.ignore))
        elif self.config.supervision == "bce-linear":
            loss = bce_linear_loss(prediction.mask_logits, samples.masks, samples.ignore)
        else:
            decode = partial(self.codec.decode, clamp=False)
            loss = bce_pixel_loss(prediction.x0_hat, samples.masks, decode, samples.ignore)
        losses = {"segmentation": loss}
        if prediction.concept_logits is not None:
            assert samples.coverage is not None
            assert samples.concepts is not None
            total, weight = recognition_loss(prediction.concept_logits, samples.coverage, samples.concepts)
            losses["recognition"] = WeightedSum(self.config.recognition_weight * total, weight)
        return losses

    def _generation_loss(self, network: nn.Module, samples: Encoding, indices: Sequence[int]) -> WeightedSum:
        x0 = samples.x0
        eps, t = self._noise(indices, x0, self.config.generation_density, stream=3)
        prediction = network(interpolate(x0, eps, t), t, samples.condition)
        return mse_loss(prediction.output, self._target(x0, eps))

    def _target(self, x0: Tensor, eps: Tensor) -> Tensor:
        """What the transformer's output is to be."""
        return x0 if self.config.prediction == "x0" else velocity(x0, eps)

    def _noise(
        self, indices: Iterable[int], like: Tensor, density: TimestepDensity, stream: int
    ) -> tuple[Tensor, Tensor]:
        """Noise like `like` and its level t (B,), keyed by the sample's number: no batch, process or resume changes
        them.
        """
        noises, levels = [], []
        for index in indices:
            generator = torch.Generator().manual_seed(_key(self.config.seed, index, stream))
            noises.append(torch.randn(like.shape[1:], generator=generator))
            levels.append(density.sample(1, generator))
        return torch.stack(noises).to(like.device), torch.cat(levels).to(like.device)

    def pipeline(self) -> GenMaskPipeline:
        """The modules as they stand, ready to use; every process of a sharded run must take part."""
        transformer, mask_head = self.transformer, self.network.mask_head
        if is_sharded(self.network):
            weights = {name: full_tensor(x).detach() for name, x in self.network.state_dict().items()}
            transformer = GenMaskTransformer.from_config(self.transformer.config).to(self.vae.device)
            if self.config.lora_rank:
                add_lora(transformer, self.config.lora_rank)
            transformer.load_state_dict(_under("transformer.", weights))
            if mask_head is not None:
                mask_head = LinearMaskHead.from_config(mask_head.config).to(self.vae.device)
                mask_head.load_state_dict(_under("mask_head.", weights))
        return GenMaskPipeline(
            transformer=transformer,
            vae=self.vae,
            vlm=self.vlm,
            processor=self.processor,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            describer=self.describer,
            mask_head=mask_head,
            resolution=self.config.resolution,
            shortcut=self.config.shortcut,
            prediction=self.config.prediction,
            noise=self.config.noise,
            picture_first=self.config.picture_first,
        )

    def evaluate(self, share: Share) -> Evaluation:
        """One-step segmentation of held-out samples, shared out among the processes: overall and mean IoU, and the
        share of empty answers; the first few as a picture.
        """
        with self._fetched():
            return self._evaluated(self.pipeline(), share)

    def _evaluated(self, pipeline: GenMaskPipeline, share: Share) -> Evaluation:
        scores, pictures = {}, {}
        for name, examples in self.validation.items():
            mine = examples[share.rank :: share.world_size]
            with torch.compiler.set_stance("force_eager"):
                answers = pipeline.segment([e.image for e in mine], [e.text for e in mine], batch_size=32)
            assert isinstance(answers, list)
            if share.rank == 0 and answers:
                pictures[name] = segmentation_grid(mine[:GRID_ROWS], answers[:GRID_ROWS])
            scores.update(_scores(name, gather_lists(map(_counted, mine, answers))))
        if share.rank == 0 and self.config.generation_batch:
            pictures["generated"] = self._generated(pipeline)
        return Evaluation(scores=scores, pictures=pictures)

    def _generated(self, pipeline: GenMaskPipeline) -> Image.Image:
        """Pictures drawn from the captions of the first samples of the training."""
        assert self._generation_turns is not None
        height, width = self.config.sizes[0]
        captions = []
        for index in range(GRID_ROWS):
            name, position = self._generation_turns.locate(index)
            captions.append(self.generation_sources[name].generation(position, height, width).text)
        with torch.compiler.set_stance("force_eager"):
            images = pipeline.generate(captions, height=height, width=width, batch_size=GRID_ROWS)
        return generation_grid(captions, images)

    def save(self, folder: Path) -> None:
        """A pipeline folder in bfloat16, the parts that must stay float32 excepted; every process of a sharded run must
        take part, and the first one writes.
        """
        pipeline = self.pipeline()
        if is_main_process():
            if self.config.lora_rank:
                pipeline.transformer = merge_lora(pipeline.transformer)
            if self.original_vlm is not None:
                pipeline.vlm = self.original_vlm()
            for module in (
                pipeline.transformer,
                pipeline.vlm,
                pipeline.describer,
                pipeline.vae,
                pipeline.mask_head,
            ):
                if module is not None:
                    module.to(torch.bfloat16)
            pipeline.save_pretrained(folder)


def join(samples: Sequence[EncodedSample], **labels: Any) -> Encoding:
    """Equal-sized samples of a cache as one batch; hidden states are padded to the longest."""
    conditions = [
        Condition(
            hidden_states=sample.hidden_states.unsqueeze(0),
            attention_mask=torch.ones(1, len(sample.hidden_states), dtype=torch.bool),
        )
        for sample in samples
    ]
    pictures = [sample.picture for sample in samples if sample.picture is not None]
    return Encoding(
        x0=torch.stack([sample.x0 for sample in samples]),
        picture=torch.stack(pictures) if pictures else None,
        condition=concatenate(conditions),
        **labels,
    )


def split(encoding: Encoding) -> list[EncodedSample]:
    """The samples of a batch, for a cache."""
    lengths = encoding.condition.attention_mask.sum(dim=1).tolist()
    return [
        EncodedSample(
            picture=None if encoding.picture is None else encoding.picture[row],
            x0=encoding.x0[row],
            hidden_states=encoding.condition.hidden_states[row, :length],
        )
        for row, length in enumerate(lengths)
    ]


def _interleaving(
    task: str, config: MaskConfig, sources: Mapping[str, SegmentationSource | GenerationSource]
) -> Interleaving:
    shares = dict(config.segmentation_sources if task == "segmentation" else config.generation_sources)
    if unknown := sources.keys() - shares.keys():
        raise ValueError(
            f"Got {task} source {min(unknown)!r} without a share in {task}_sources: give it one."
        )
    if not sources:
        raise ValueError(
            f"Got no {task} source, expected one of {', '.join(shares) or 'those with a share'}."
        )
    return Interleaving({name: weight for name, weight in shares.items() if name in sources}, config.seed)


def _counted(example: Example, answer: Segmentation) -> Counts:
    assert example.mask is not None
    return count_pixels(answer.mask, example.mask, example.ignore)


def _scores(name: str, counts: Iterable[Counts]) -> dict[str, float]:
    """Of counted samples; 0 where there are none of a sort."""
    present, absent = IoUTotals(), IoUTotals()
    for each in counts:
        (present if each.target else absent).add_counts(each)
    return {
        f"{name}_oiou": present.overall_iou() if present.num_samples else 0.0,
        f"{name}_miou": present.mean_iou() if present.num_samples else 0.0,
        f"{name}_present_empty": present.empty_answers() / max(1, present.num_samples),
        f"{name}_absent_empty": absent.empty_answers() / max(1, absent.num_samples),
    }


def _asked(example: Example) -> Drawn:
    """A mask to be drawn; the picture goes with it."""
    assert example.mask is not None
    mask = example.mask if example.ignore is None else example.mask & ~example.ignore
    return Drawn(_id(example), segmentation_prompt(example.text), example.image, mask)


def _id(example: Example) -> str:
    return f"{example.source}/{example.id}"


def _under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}


def _key(*parts: Any) -> int:
    """A seed of 64 bits for a tuple of numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
