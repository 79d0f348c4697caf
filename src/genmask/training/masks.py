"""Training the transformer on masks and pictures under one flow-matching objective (Eq. 2).

VAE and instruction encoder are frozen, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.data.example import Example
from genmask.denoiser import GenMaskTransformer
from genmask.evaluation.metrics import Counts, IoUTotals, count_pixels
from genmask.latents import COMPRESSION
from genmask.mask_head import LinearMaskHead
from genmask.objectives import WeightedSum
from genmask.pipeline import GenMaskPipeline
from genmask.presence_head import PresenceHead
from genmask.processor import GenMaskProcessor
from genmask.quantise import quantise
from genmask.segmentation import Segmentation
from genmask.training.adapters import add_lora, merge_lora
from genmask.training.batches import StepBatches
from genmask.training.cache import CacheWriter, EncodingCache, FillCounts, fill
from genmask.training.estimate import Pass, training_flop
from genmask.training.grid import generation_grid, segmentation_grid
from genmask.training.loop import Evaluation
from genmask.training.mask_config import MaskConfig
from genmask.training.mask_objective import MaskObjective
from genmask.training.mask_samples import MaskSamples, asked_for
from genmask.training.network import MaskNetwork
from genmask.training.parallel import Share, full_tensor, gather_lists, is_main_process, is_sharded
from genmask.training.recognition import RecognitionHead, label_patches
from genmask.training.sample_encoder import SampleEncoder
from genmask.training.samples import Encoding, MicroBatch, Samples
from genmask.training.sources import GenerationSource, SegmentationSource

_Head = TypeVar("_Head", LinearMaskHead, PresenceHead)
CACHE_BATCH = 32
"""Samples that are encoded together for a cache."""
GRID_ROWS = 8
"""Held-out samples, and captions, that an evaluation shows."""


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
        presence_head: to go on from, where one is trained; None for a new one.
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
        presence_head: PresenceHead | None = None,
        cache: EncodingCache | None = None,
        identity: str = "",
        original_vlm: Callable[[], Qwen2_5_VLForConditionalGeneration] | None = None,
    ) -> None:
        if config.lora_rank:
            add_lora(transformer, config.lora_rank)
        self.original_vlm = original_vlm if config.vlm_precision == "int8" else None
        if config.vlm_precision == "int8":
            quantise(vlm)
        if config.vlm_max_pixels is not None:
            processor.vlm_max_pixels = config.vlm_max_pixels
        self.config = config
        self.samples = MaskSamples(config, segmentation_sources, generation_sources)
        self.validation = validation
        self.describer = describer
        decodes = config.supervision == "bce-pixels"
        runs = {"vae": cache is None or decodes, "vlm": cache is None and not config.offload}
        self.encoder = SampleEncoder(
            vae,
            vlm,
            processor,
            cache=cache,
            identity=identity,
            on_device=[name for name, is_run in runs.items() if is_run],
        )
        self.objective = MaskObjective(config, partial(self.encoder.codec.decode, clamp=False))
        self.transformer = transformer
        if config.supervision == "bce-linear":
            mask_head = mask_head or LinearMaskHead(vae.config.z_dim)
        elif mask_head is not None:
            raise ValueError(
                f"Got a model with a mask head, which supervision {config.supervision!r} does not train: "
                "take 'bce-linear'."
            )
        presence_head = _presence_head(config, transformer, presence_head)
        recognition = None
        if config.recognition_weight:
            recognition = RecognitionHead.for_sources(transformer, segmentation_sources)
        self.recognition = recognition
        self.network = MaskNetwork(
            transformer,
            mask_head,
            recognition,
            config.recognition_block,
            presence_head,
            prediction=config.prediction,
            picture_first=config.picture_first,
        )
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        if config.compile:
            transformer.compile_repeated_blocks(dynamic=True)

    @property
    def frozen(self) -> nn.Module:
        """VAE and VLM, as far as they are run where the network is."""
        return self.encoder.resident

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

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
        size = self.samples.size(step)
        return MicroBatch(
            segmentation=self._labelled(masks, *size),
            generation=self.encoder.assemble(self.samples.pictures(pictures, *size))
            if len(pictures)
            else None,
        )

    def _labelled(self, indices: Iterable[int], height: int, width: int) -> Samples | Encoding:
        """Masks to be drawn, with all that is known of them."""
        found = self.samples.masks(indices, height, width)
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
        return self.encoder.assemble([asked_for(e) for _, e in found], **labels)

    def fill(
        self,
        writer: CacheWriter,
        steps: Iterable[int],
        mixed_precision: str,
        advance: Callable[[int], None],
        device: torch.device | None = None,
    ) -> FillCounts:
        """Encode the samples of some steps into a cache, by default on a GPU if there is one; `advance` is told how
        many.
        """
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.frozen.to(device)
        drawn = ((self.encoder.key(sample), sample) for step in steps for sample in self.samples.drawn(step))
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision == "bf16"), torch.no_grad():
            return fill(drawn, self.encoder.encode_each, writer, CACHE_BATCH, advance)

    def prepare(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """The frozen half of a step."""
        if self.encoder.cache is not None:
            return list(batches)
        with self.encoder.fetched(self._device):
            return [
                MicroBatch(
                    segmentation=self.encoder.encode(batch.segmentation),
                    generation=None if batch.generation is None else self.encoder.encode(batch.generation),
                )
                for batch in batches
            ]

    def weights(self, batch: MicroBatch) -> dict[str, float]:
        """What the losses of `batch` are to be divided by, before they are known: `WeightedSum.weight`, summed."""
        assert isinstance(batch.segmentation, Encoding)
        weights = self.objective.segmentation_weights(batch.segmentation)
        if self.config.generation_batch:
            generation = batch.generation
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
            total, weight = self.objective.generation(network, batch.generation, indices)
            # A sample counts alike in both tasks; a small share of pictures would drown the masks otherwise.
            ratio = self.config.generation_batch / self.config.segmentation_batch
            return {"generation": WeightedSum(ratio * total, weight)}
        assert isinstance(batch.segmentation, Encoding)
        indices = share.samples(step, self.config.segmentation_batch, micro)
        return self.objective.segmentation(network, batch.segmentation, indices)

    def pipeline(self) -> GenMaskPipeline:
        """The modules as they stand, ready to use; every process of a sharded run must take part."""
        transformer, mask_head = self.transformer, self.network.mask_head
        presence_head = self.network.presence_head
        if is_sharded(self.network):
            weights = {name: full_tensor(x).detach() for name, x in self.network.state_dict().items()}
            transformer = GenMaskTransformer.from_config(self.transformer.config).to(self.encoder.vae.device)
            if self.config.lora_rank:
                add_lora(transformer, self.config.lora_rank)
            transformer.load_state_dict(_under("transformer.", weights))
            if mask_head is not None:
                mask_head = _whole(mask_head, _under("mask_head.", weights), transformer.device)
            if presence_head is not None:
                presence_head = _whole(presence_head, _under("presence_head.", weights), transformer.device)
        return GenMaskPipeline(
            transformer=transformer,
            vae=self.encoder.vae,
            vlm=self.encoder.vlm,
            processor=self.encoder.processor,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            describer=self.describer,
            mask_head=mask_head,
            presence_head=presence_head,
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
        with self.encoder.fetched(self._device):
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
        captions = self.samples.captions(GRID_ROWS)
        height, width = self.samples.size(0)
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


def _presence_head(
    config: MaskConfig, transformer: GenMaskTransformer, given: PresenceHead | None
) -> PresenceHead | None:
    """The one that is trained, if any; a new one starts at even odds."""
    if not config.presence_weight:
        return None
    if given is not None:
        return given
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    head = PresenceHead(config.segmentation_frames * width)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


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


def _whole(head: _Head, weights: dict[str, Tensor], device: torch.device) -> _Head:
    """Of a sharded head, with the gathered weights."""
    whole: _Head = type(head).from_config(head.config).to(device)
    whole.load_state_dict(weights)
    return whole


def _under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}
