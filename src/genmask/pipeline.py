"""A picture and a sentence -> a mask, in one forward pass; a sentence -> a picture, by guided Euler steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin
from diffusers.loaders import WanLoraLoaderMixin
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.conditioning import Condition, Description, InstructionEncoder
from genmask.denoiser import GenMaskTransformer
from genmask.frames import Frames, arrange_frames
from genmask.images import ImageSource, open_image, processing_size, resize_to_area
from genmask.instances import Box
from genmask.latents import COMPRESSION, LatentCodec, pixels_to_soft_mask, resize_soft_masks
from genmask.loading import load_model, read_json
from genmask.mask_head import LinearMaskHead
from genmask.model_folder import MODEL_INDEX, load_processor, read_model_index, resolve_model
from genmask.presence_head import PresenceHead, frame_means
from genmask.processor import GenMaskProcessor
from genmask.quantise import is_quantised, quantise
from genmask.sampling import (
    check_scheduler,
    count_calls,
    integrate,
    load_scheduler,
    seeded_noise,
    velocity_to,
)
from genmask.segmentation import Segmentation
from genmask.stages import stage
from genmask.thresholds import best_threshold
from genmask.zoom import Zoom, blend

StepCallback = Callable[["GenMaskPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""Pipeline, number of the step, timestep, {"latents": ...} -> what of these to change."""
Found = Iterator[tuple[list[int], Tensor, list[float | None]]]
"""Batch by batch: indices of targets, their soft masks at the processing size, and presences."""
Find = Callable[[list[Image.Image], list[str]], Found]
"""Pictures at their processing size, and targets."""
Cut = Callable[[np.ndarray, float | None], float]
"""Soft mask and presence -> threshold."""
DECODERS = ("vae", "linear")
"""Ways from latents to a mask: the VAE's decoder, or the linear head of the third supervision."""
PREDICTIONS = ("velocity", "x0", "mask")
"""What the transformer's output means; "mask": it is trained without diffusion, as a discriminative model."""
COMPILED_TEXT_MULTIPLE = 16
"""Compiled blocks see conditions padded to multiples of so many tokens, as attention kernels want their masks."""


class Prediction(NamedTuple):
    """What the transformer makes of the answer's frame."""

    sample: Tensor
    """(B, 16, h, w)"""
    features: Tensor
    """(B, F * dim) float32, what a `PresenceHead` takes: the last block's tokens, averaged over each frame."""


class GenMaskPipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Text-prompted segmentation, and text-to-image with the same network.

    A diffusers pipeline: `to`, `enable_model_cpu_offload`, `load_lora_weights`, `push_to_hub` are its own.

    Args:
        transformer: predicts velocities, or what `prediction` says.
        vae: Wan-2.1's; pictures and masks <-> latents.
        vlm: reads picture and sentence.
        processor: makes the VLM's inputs.
        scheduler: the noise levels of an inference of several steps; any flow-matching one of diffusers
            (`sampling.make_scheduler`), also put in later: `pipe.scheduler = ...`.
        describer: with the same processor, writes the descriptions of `reason`; None: the VLM does.
        mask_head: latents -> mask without the VAE: of models trained with the third supervision, or fitted.
        presence_head: how likely it is that a target is there at all; fitted.
        resolution: pictures are processed at `resolution ** 2` pixels, in their own aspect ratio.
        shortcut: whether the picture's latents are a frame of the transformer's input; False for models trained
            without (Table 6), to which the VLM alone tells what the picture shows.
        prediction: what the transformer's output means: "velocity"; "x0", the sample itself; "mask", features of the
            picture that the mask head makes a mask of, without noise: such a model can only segment.
        noise: whether masks start from noise; False for models trained from zeros.
        picture_first: whether the picture is the first of the two frames, or the second.
        decoder: that `segment` takes where it is asked for none.
        threshold: likewise, of that decoder's masks; "auto" suits probabilities, such as a fitted linear decoder's.
    """

    model_cpu_offload_seq = "describer->vlm->transformer->vae"
    _optional_components: ClassVar[list[str]] = ["describer", "mask_head", "presence_head"]
    # Sequential offload hooks every layer, but LatentCodec reads the VAE's parameters itself.
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["vae"]
    _lora_loadable_modules: ClassVar[list[str]] = ["transformer"]

    transformer: GenMaskTransformer
    vae: AutoencoderKLWan
    vlm: Qwen2_5_VLForConditionalGeneration
    processor: GenMaskProcessor
    scheduler: SchedulerMixin
    describer: Qwen2_5_VLForConditionalGeneration | None
    mask_head: LinearMaskHead | None
    presence_head: PresenceHead | None

    def __init__(
        self,
        transformer: GenMaskTransformer,
        vae: AutoencoderKLWan,
        vlm: Qwen2_5_VLForConditionalGeneration,
        processor: GenMaskProcessor,
        scheduler: SchedulerMixin,
        describer: Qwen2_5_VLForConditionalGeneration | None = None,
        mask_head: LinearMaskHead | None = None,
        presence_head: PresenceHead | None = None,
        resolution: int = 512,
        shortcut: bool = True,
        prediction: str = "velocity",
        noise: bool = True,
        picture_first: bool = True,
        decoder: str = "vae",
        threshold: float | Literal["auto"] = 0.5,
    ) -> None:
        super().__init__()
        self._interrupt = False
        self._text_multiple = 1
        LatentCodec(vae)  # refuses a VAE of another layout
        for ours, theirs, what in (
            (transformer.config.text_dim, vlm.config.get_text_config().hidden_size, "the VLM's width"),
            (transformer.config.in_channels, vae.config.z_dim, "the VAE's latent channels"),
        ):
            if ours != theirs:
                raise ValueError(
                    f"Got a transformer for {ours} as {what}, which is {theirs}: take all parts of one model."
                )
        cell = COMPRESSION * transformer.config.patch_size[-1]
        if resolution < cell:
            raise ValueError(f"Got resolution {resolution}, expected at least one patch, {cell} pixels.")
        if prediction not in PREDICTIONS:
            raise ValueError(f"Got prediction {prediction!r}, expected one of {', '.join(PREDICTIONS)}.")
        if prediction == "mask" and mask_head is None:
            raise ValueError(
                "Got prediction 'mask' without a mask_head, expected the one it was trained with."
            )
        frames = 2 if shortcut and prediction != "mask" else 1
        features = frames * transformer.config.num_attention_heads * transformer.config.attention_head_dim
        if presence_head is not None and presence_head.config.features != features:
            raise ValueError(
                f"Got a presence_head for {presence_head.config.features} features of the transformer, which has "
                f"{features}: take the one that was fitted to this model, or none."
            )
        _check_threshold(threshold)
        self.register_modules(
            transformer=transformer,
            vae=vae,
            vlm=vlm,
            processor=processor,
            scheduler=scheduler,
            describer=describer,
            mask_head=mask_head,
            presence_head=presence_head,
        )
        self.register_to_config(
            resolution=resolution,
            shortcut=shortcut,
            prediction=prediction,
            noise=noise,
            picture_first=picture_first,
            decoder="linear" if prediction == "mask" else decoder,
            threshold=threshold,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | None = torch.float32,
        vlm_precision: Literal["int8"] | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> GenMaskPipeline:
        """Load a model, every key of every network accounted for.

        Args:
            pretrained_model_name_or_path: an existing folder, else a bundled name ("tiny"), else a hub id.
            torch_dtype: of transformer and VLM; None keeps the stored one. Time and norms in the transformer
                stay float32, and so do the presence head and the VAE, which decodes in the transformer's.
            vlm_precision: "int8" keeps the linear layers of VLM and describer in eight bits, half the memory of
                bfloat16; products are still computed in `torch_dtype`. Such a model cannot be saved.
            device: where to put it; None is the CPU.
            revision, cache_dir, token, local_files_only: of a hub id, as in huggingface_hub.

        Raises:
            ModelFolderError: unknown name, half-written folder, another pipeline's folder, or any missing or
                unexpected key, which is named.
            ValueError: another precision, or int8 without torchao.
        """
        if vlm_precision not in (None, "int8"):
            raise ValueError(f"Got vlm_precision {vlm_precision!r}, expected None or 'int8'.")
        # Not diffusers' loader: it only warns about wrong keys, and refuses classes of other packages.
        folder = resolve_model(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        index = read_model_index(folder, cls.__name__)
        exact = None if torch_dtype is None else torch.float32
        describer = mask_head = presence_head = None
        if index.get("describer", [None])[0] is not None:
            describer = load_model(
                Qwen2_5_VLForConditionalGeneration, folder / "describer", dtype=torch_dtype
            )
        if index.get("mask_head", [None])[0] is not None:
            mask_head = load_model(LinearMaskHead, folder / "mask_head", dtype=torch_dtype)
        if index.get("presence_head", [None])[0] is not None:
            presence_head = load_model(PresenceHead, folder / "presence_head", dtype=exact)
        pipeline = cls(
            transformer=load_model(GenMaskTransformer, folder / "transformer", dtype=torch_dtype),
            vae=load_model(AutoencoderKLWan, folder / "vae", dtype=exact),
            vlm=load_model(Qwen2_5_VLForConditionalGeneration, folder / "vlm", dtype=torch_dtype),
            processor=load_processor(folder / "processor"),
            scheduler=load_scheduler(read_json(folder / "scheduler" / "scheduler_config.json")),
            describer=describer,
            mask_head=mask_head,
            presence_head=presence_head,
            resolution=index.get("resolution", 512),
            shortcut=index.get("shortcut", True),
            prediction=index.get("prediction", "velocity"),
            noise=index.get("noise", True),
            picture_first=index.get("picture_first", True),
            decoder=index.get("decoder", "vae"),
            threshold=index.get("threshold", 0.5),
        )
        if vlm_precision == "int8":
            for vlm in filter(None, (pipeline.vlm, pipeline.describer)):
                quantise(vlm)
        return pipeline if device is None else pipeline.to(device)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the model as a folder that `from_pretrained` reads back to the bit.

        Args:
            save_directory: made if need be; the model that it holds is replaced.
            kwargs: as in `DiffusionPipeline.save_pretrained`.

        Raises:
            ValueError: a LoRA is loaded, or the VLM is quantised.
            OSError: the folder cannot be written.
        """
        if getattr(self.transformer, "peft_config", None):
            raise ValueError(
                "Got a model with a LoRA loaded, which a model folder cannot hold: call fuse_lora() and then "
                "unload_lora_weights() to keep its effect, unload_lora_weights() alone to drop it."
            )
        if any(is_quantised(vlm) for vlm in (self.vlm, self.describer) if vlm is not None):
            raise ValueError(
                "Got a model with an int8 VLM, whose lost digits a model folder cannot hold: load it without "
                "vlm_precision to save it."
            )
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        # It comes back last: until then, what is in the folder is half-written, and refused.
        (folder / MODEL_INDEX).unlink(missing_ok=True)
        super().save_pretrained(folder, **kwargs)

    def compile_blocks(self, batch_size: int = 8) -> float:
        """Compile the transformer's blocks (`torch.compile`), for many pictures to come.

        Twice, for single pairs and for batches; pictures of any size and texts of any length then use what is
        compiled. `generate`, which has a frame less, compiles in its first call. Masks change by rounding alone.
        Call it once the pipeline is where it runs, with its LoRA if it has one.

        Args:
            batch_size: of most batches to come; others are taken as well.

        Returns:
            The seconds it took; a minute is usual.

        Raises:
            ValueError: there is no compiler here; the pipeline then works as before.
        """
        from torch._dynamo.exc import BackendCompilerFailed
        from torch._inductor.exc import TritonMissing
        from torch.fx.experimental import _config as shapes

        _check_counts(batch_size=batch_size)
        began = time.perf_counter()
        blank = Image.new("RGB", (self.config.resolution, self.config.resolution))
        self.transformer.compile_repeated_blocks(dynamic=True)
        self._text_multiple = COMPILED_TEXT_MULTIPLE
        try:
            # Else sizes that happen to be equal here, such as rows and columns, would be compiled as one.
            with shapes.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                for count in (1, max(2, batch_size)):
                    self.segment(blank, ["warm-up"] * count, batch_size=count)
        except (BackendCompilerFailed, TritonMissing) as error:
            self._text_multiple = 1
            for block in self.transformer.blocks:
                block._compiled_call_impl = None
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"Got blocks that cannot be compiled here ({reason}), expected a C++ compiler, such as g++, and on "
                "a GPU Triton: install it, or go on without compile_blocks()."
            ) from error
        return time.perf_counter() - began

    @property
    def cell(self) -> int:
        """Pixels of a patch along each side; sides of what is processed are multiples of it."""
        return COMPRESSION * self.transformer.config.patch_size[-1]

    @property
    def codec(self) -> LatentCodec:
        """Pictures <-> latents: encodes in float32, decodes in bfloat16 where the transformer runs in it."""
        decode_dtype = torch.bfloat16 if self.transformer.dtype == torch.bfloat16 else torch.float32
        # Under model offload the VAE is fetched here, as diffusers' own `vae.encode` would fetch it.
        if (hook := getattr(self.vae, "_hf_hook", None)) is not None:
            hook.pre_forward(self.vae)
        return LatentCodec(self.vae, decode_dtype)

    @property
    def encoder(self) -> InstructionEncoder:
        """Picture and sentence -> condition."""
        return InstructionEncoder(self.vlm, self.processor, self._execution_device)

    def describe(self, image: ImageSource, instruction: str) -> Description:
        """What a question or a roundabout description means in a picture: reasoning segmentation's first stage.

        Raises:
            ValueError: an unusable picture; an empty or endless instruction.
        """
        (instruction,) = _checked_texts(instruction)
        picture = resize_to_area(open_image(image), self.config.resolution**2, self.cell)
        return self._describe(picture, instruction)

    def _describe(self, picture: Image.Image, instruction: str) -> Description:
        vlm = self.vlm if self.describer is None else self.describer
        return InstructionEncoder(vlm, self.processor, self._execution_device).describe(picture, instruction)

    @torch.no_grad()
    def segment(
        self,
        image: ImageSource | Sequence[ImageSource],
        text: str | Sequence[str],
        *,
        threshold: float | Literal["auto"] | None = None,
        num_inference_steps: int = 1,
        num_noises: int = 1,
        decoder: str | None = None,
        batch_size: int = 8,
        seed: int = 0,
        reason: bool = False,
        zoom: bool | Zoom = False,
    ) -> Segmentation | list[Segmentation]:
        """Find what a sentence asks for: x0_hat = eps - f(eps, t = 1, condition), decoded (Eq. 8).

        Args:
            image: a picture (path, PIL image or (H, W, 3) uint8 array), or a list of them.
            text: what to find. One picture takes one text or a list, and is encoded once; a list of pictures
                takes a list of equal length, or one text for all.
            threshold: a pixel is in the mask if its soft mask is greater; in [0, 1). "auto" is for each mask the one
                that promises the best IoU (`thresholds.best_threshold`). None is the model's own with its own
                decoder, 0.5 with another.
            num_inference_steps: Euler steps from noise to mask; 1 is the paper's.
            num_noises: x0_hat is averaged over this many noises; each costs a forward pass.
            decoder: "vae", or "linear" for models with a mask head; None is the model's own.
            batch_size: pairs in a forward pass; pictures of one processing size share it.
            seed: in [0, 2**63). The same seed and processing size give the same noise, whatever the batch.
            reason: let the VLM first describe what the text means; that description is then found.
            zoom: look again at what was found small, in a crop of the source picture around it, and blend that answer
                into the first; True is `Zoom()`. A second pass for these alone.

        Returns:
            One `Segmentation` for one picture and one text, else a list in the order of the input.

        Raises:
            ValueError: an unusable picture, an empty or endless text, unequal lengths, a wrong option.
        """
        _check_counts(num_inference_steps=num_inference_steps, num_noises=num_noises, batch_size=batch_size)
        _check_seed(seed)
        self._check_discriminative(decoder, num_inference_steps)
        decoder = decoder or self.config.decoder
        if threshold is None:
            threshold = self.config.threshold if decoder == self.config.decoder else 0.5
        _check_threshold(threshold)
        if decoder not in DECODERS:
            raise ValueError(f"Got decoder {decoder!r}, expected one of {', '.join(DECODERS)}.")
        if decoder == "linear" and self.mask_head is None:
            raise ValueError("Got decoder 'linear', but this model has no mask_head: use decoder='vae'.")
        texts = _checked_texts(text)
        if isinstance(image, list | tuple):
            with stage("decode and resize"):
                sources = [open_image(source) for source in image]
            texts = texts * len(sources) if isinstance(text, str) else texts
            owners = list(range(len(sources)))  # text i is about picture owners[i]
            if len(sources) != len(texts):
                raise ValueError(
                    f"Got {len(sources)} pictures and {len(texts)} texts, expected equally many, or one text for "
                    "all; for several texts on one picture give the picture itself, not a list."
                )
        else:
            with stage("decode and resize"):
                sources = [open_image(cast(ImageSource, image))]
            owners = [0] * len(texts)
        if not texts:
            return []

        with stage("decode and resize"):
            pictures = [resize_to_area(source, self.config.resolution**2, self.cell) for source in sources]
        targets, fallbacks = texts, [False] * len(texts)
        if reason:
            pairs = zip(owners, texts, strict=True)
            described = [self._describe(pictures[owner], asked) for owner, asked in pairs]
            targets, fallbacks = [d.target for d in described], [d.is_fallback for d in described]

        wanted = threshold

        def cut(soft_mask: np.ndarray, presence: float | None) -> float:
            return best_threshold(soft_mask, presence) if wanted == "auto" else wanted

        def find(pictures: list[Image.Image], targets: list[str]) -> Found:
            for indices, latents, condition in self.batches(pictures, targets, batch_size):
                noises = seeded_noise(seed, latents.shape[1:], num_noises).to(latents.device)
                found = self.predict_mask(latents, condition, noises, num_inference_steps)
                yield indices, self._decode_mask(found.sample, decoder), self.presences(found.features)

        results: dict[int, Segmentation] = {}
        for indices, soft_masks, presences in find(pictures, targets):
            with stage("resize back"):
                for i, soft_mask, presence in zip(indices, soft_masks, presences, strict=True):
                    source = sources[owners[i]]
                    results[i] = Segmentation(
                        image=source,
                        text=texts[i],
                        target=targets[i],
                        soft_mask=resize_soft_masks(soft_mask[None], source.height, source.width)[0].numpy(),
                        threshold=cut(soft_mask.numpy(), presence),
                        presence=presence,
                        is_fallback=fallbacks[i],
                    )
        answers = [results[i] for i in range(len(texts))]
        if zoom:
            self._look_again(answers, zoom if isinstance(zoom, Zoom) else Zoom(), find, cut)
        self.maybe_free_model_hooks()
        if isinstance(text, str) and not isinstance(image, list | tuple):
            return answers[0]
        return answers

    def _look_again(self, answers: list[Segmentation], how: Zoom, find: Find, cut: Cut) -> None:
        """Blend second answers into those first ones that they agree with."""
        boxes: dict[int, Box] = {}
        crops = []
        with stage("decode and resize"):
            for i, first in enumerate(answers):
                source = first.image
                if (box := how.crop_box(first.box, source.width, source.height)) is not None:
                    size = processing_size(source.height, source.width, self.config.resolution**2, self.cell)
                    boxes[i] = box
                    # Out of the source, which has more to show than the first pass saw.
                    crops.append(source.resize(size[::-1], Image.Resampling.LANCZOS, box=box))
        small = list(boxes)
        for indices, soft_masks, presences in find(crops, [answers[i].target for i in small]):
            with stage("resize back"):
                for number, soft_mask, presence in zip(indices, soft_masks, presences, strict=True):
                    i = small[number]
                    first, (left, top, right, bottom) = answers[i], boxes[i]
                    second = resize_soft_masks(soft_mask[None], bottom - top, right - left)[0].numpy()
                    if how.agrees(first.mask, boxes[i], second > cut(soft_mask.numpy(), presence)):
                        blended = blend(first.soft_mask, boxes[i], second)
                        answers[i] = replace(first, soft_mask=blended, threshold=cut(blended, first.presence))

    def batches(
        self, pictures: list[Image.Image], targets: list[str], batch_size: int
    ) -> Iterator[tuple[list[int], Tensor, Condition]]:
        """Indices of targets, their pictures' latents (B, 16, h, w), their condition: what `predict_mask` takes.

        Either one picture for all targets, or a picture for each, batched by size; resized for processing.
        """
        if len(pictures) == 1:
            with stage("VLM"):
                condition = self.encoder.encode_prompts(pictures[0], targets, batch_size)
            latents = self._encode_pictures(pictures)
            for indices in _chunks(list(range(len(targets))), batch_size):
                rows = condition[indices[0] : indices[-1] + 1]
                yield indices, latents.expand(len(indices), -1, -1, -1), rows
            return
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, picture in enumerate(pictures):
            by_size.setdefault(picture.size, []).append(i)
        for same_size in by_size.values():
            for indices in _chunks(same_size, batch_size):
                batch = [pictures[i] for i in indices]
                with stage("VLM"):
                    condition = self.encoder.encode_segmentation(batch, [targets[i] for i in indices])
                yield indices, self._encode_pictures(batch), condition

    def _encode_pictures(self, pictures: list[Image.Image]) -> Tensor:
        """B pictures of one size -> latents (B, 16, h, w)."""
        with stage("VAE encode"):
            levels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # (B, H, W, 3)
            pixels = levels.to(self._execution_device).permute(0, 3, 1, 2).float() / 127.5 - 1
            return self.codec.encode(pixels)

    def predict_mask(
        self, picture: Tensor, condition: Condition, noises: Tensor, num_steps: int
    ) -> Prediction:
        """x0_hat, the mean over noises (n, 16, h, w), and the features at t = 1; of a discriminative model, in place of
        x0_hat the features of the picture that its mask head takes.

        picture: its latents, a frame at t = 0.
        """

        if self.config.prediction == "mask":
            frames = arrange_frames(picture, None, torch.zeros(len(picture), device=picture.device))
            return self._output(frames, condition)
        shown = picture if self.config.shortcut else None
        if not self.config.noise:
            noises = torch.zeros_like(noises[:1])

        def from_noise(eps: Tensor) -> Prediction:
            calls: list[Prediction] = []

            def velocity(x_t: Tensor, timestep: Tensor) -> Tensor:
                times = timestep.expand(len(x_t))
                frames = arrange_frames(shown, x_t, times, picture_first=self.config.picture_first)
                calls.append(self._velocity(frames, condition))
                return calls[-1].sample

            x0_hat = integrate(self.scheduler, eps.expand_as(picture), velocity, num_steps)
            return Prediction(x0_hat, calls[0].features)

        found = [from_noise(eps) for eps in noises]
        return Prediction(*(torch.stack(parts).mean(dim=0) for parts in zip(*found, strict=True)))

    def _check_discriminative(self, decoder: str | None, num_steps: int) -> None:
        """ValueError if what is asked for needs a diffusion that the model does not have."""
        if self.config.prediction != "mask":
            return
        without = "this model, which is trained without diffusion"
        if decoder == "vae":
            raise ValueError(f"Got decoder 'vae' for {without}, expected 'linear', or none.")
        if num_steps > 1:
            raise ValueError(f"Got {num_steps} steps for {without}, expected num_inference_steps=1.")

    def _decode_mask(self, x0_hat: Tensor, decoder: str) -> Tensor:
        """(B, 16, h, w) -> soft masks (B, 8h, 8w) in [0, 1], on the CPU."""
        with stage("decode"):
            if decoder == "vae":
                return pixels_to_soft_mask(self.codec.decode(x0_hat)).cpu()
            assert self.mask_head is not None
            return self.mask_head(x0_hat).float().sigmoid().cpu()

    def presences(self, features: Tensor) -> list[float | None]:
        """Of each sample the probability that its target is there; None for a model that has no head for it."""
        if self.presence_head is None:
            return [None] * len(features)
        return self.presence_head(features).sigmoid().tolist()

    def _velocity(self, frames: Frames, condition: Condition) -> Prediction:
        """v of the answer's frame; times in [0, 1000]."""
        found = self._output(frames, condition)
        if self.config.prediction == "x0":
            t = frames.times[:, frames.answer] / 1000
            return found._replace(sample=velocity_to(found.sample, frames.latents[:, :, frames.answer], t))
        return found

    def _output(self, frames: Frames, condition: Condition) -> Prediction:
        """As the transformer gives it; times in [0, 1000]."""
        with stage("DiT"):
            if self._text_multiple > 1:
                condition = condition.padded(self._text_multiple)
            output = self.transformer(
                hidden_states=frames.latents,
                timestep=frames.times,
                encoder_hidden_states=condition.hidden_states,
                encoder_attention_mask=condition.attention_mask,
            )
            return Prediction(output.sample[:, :, frames.answer], frame_means(output.tokens))

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked `generate` to stop, as in diffusers' pipelines: by `_interrupt = True`."""
        return self._interrupt

    @torch.no_grad()
    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 5.0,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        batch_size: int = 8,
        callback_on_step_end: StepCallback | None = None,
    ) -> list[Image.Image]:
        """Draw a picture from a caption, in steps of the scheduler, with classifier-free guidance.

        Args:
            prompt: a caption, or a list of them.
            negative_prompt: what guidance leads away from, one for all captions or one for each; None is the
                empty caption.
            num_inference_steps: of the scheduler.
            guidance_scale: v = v_null + guidance_scale * (v_prompt - v_null); 1 is none, in half the time.
            seed: of the first picture; picture i of the result has the seed `seed + i`.
            height, width: in pixels, multiples of a patch (16); None is the model's resolution.
            num_images_per_prompt: pictures of each caption, one after the other in the result.
            batch_size: pictures in a forward pass.
            callback_on_step_end: called after each step of each batch as diffusers' pipelines do it, (pipeline,
                number of the step, timestep in [0, 1000], {"latents": (B, 16, h, w)}); what it returns under
                "latents" is gone on with. `pipe._interrupt = True` ends the call with what there is.

        Returns:
            RGB pictures, in order; a list for a single caption, too. An interrupted call returns the pictures
            begun, unfinished.

        Raises:
            ValueError: an empty or endless caption, a wrong option.
        """
        _check_counts(
            num_inference_steps=num_inference_steps,
            num_images_per_prompt=num_images_per_prompt,
            batch_size=batch_size,
        )
        if self.config.prediction == "mask":
            raise ValueError(
                "Got generate for a model trained without diffusion, which can only segment: take another."
            )
        captions = [caption for caption in _checked_texts(prompt) for _ in range(num_images_per_prompt)]
        _check_seed(seed)
        _check_seed(seed + len(captions))
        if not 0 <= guidance_scale < float("inf"):
            raise ValueError(
                f"Got guidance_scale {guidance_scale}, expected at least 0: 1 is none, 5 is usual."
            )
        height = self.config.resolution if height is None else height
        width = self.config.resolution if width is None else width
        if min(height, width) < 1 or height % self.cell or width % self.cell:
            raise ValueError(
                f"Got {height} x {width} pixels to draw, expected positive multiples of {self.cell}."
            )

        check_scheduler(self.scheduler)
        shape = (self.vae.config.z_dim, height // COMPRESSION, width // COMPRESSION)
        negatives = _negatives(negative_prompt, len(captions), num_images_per_prompt)
        distinct = list(dict.fromkeys(negatives))
        nulls = None
        if guidance_scale != 1:
            with stage("VLM"):
                nulls = self.encoder.encode_captions(distinct)
        pictures: list[Image.Image] = []
        self._interrupt = False
        batches = _chunks(list(range(len(captions))), batch_size)
        calls = count_calls(self.scheduler, num_inference_steps)
        with self.progress_bar(total=calls * len(batches)) as progress:

            def on_step_end(step: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
                progress.update()
                if callback_on_step_end is not None:
                    changed = callback_on_step_end(self, step, timestep, {"latents": latents})
                    latents = changed.get("latents", latents)
                return None if self.interrupt else latents

            for indices in batches:
                with stage("VLM"):
                    condition = self.encoder.encode_captions([captions[i] for i in indices])
                null = (
                    None
                    if nulls is None
                    else nulls[torch.tensor([distinct.index(negatives[i]) for i in indices])]
                )

                def velocity(
                    x_t: Tensor,
                    timestep: Tensor,
                    condition: Condition = condition,
                    null: Condition | None = null,
                ) -> Tensor:
                    frame = arrange_frames(None, x_t, timestep.expand(len(x_t)))
                    v = self._velocity(frame, condition).sample
                    if null is not None:
                        v_null = self._velocity(frame, null).sample
                        v = v_null + guidance_scale * (v - v_null)
                    return v

                x0 = integrate(
                    self.scheduler,
                    torch.cat([seeded_noise(seed + i, shape) for i in indices]).to(self._execution_device),
                    velocity,
                    num_inference_steps,
                    generators=[torch.Generator().manual_seed(seed + i) for i in indices],
                    on_step_end=on_step_end,
                )
                with stage("decode"):
                    pictures += _to_pictures(self.codec.decode(x0))
                if self.interrupt:
                    break
        self.maybe_free_model_hooks()
        return pictures


def _chunks(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _negatives(negative_prompt: str | Sequence[str] | None, count: int, per_prompt: int) -> list[str]:
    """One for each of `count` pictures, `per_prompt` of each caption."""
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt or ""] * count
    negatives = [text for text in negative_prompt for _ in range(per_prompt)]
    if len(negatives) != count:
        raise ValueError(
            f"Got {len(negative_prompt)} negative prompts for {count // per_prompt} captions, expected as many, "
            "or one for all."
        )
    return negatives


def _to_pictures(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] -> RGB pictures."""
    levels = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(level) for level in levels]


def _checked_texts(text: str | Sequence[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    for one in texts:
        if not isinstance(one, str):
            raise ValueError(
                f"Got a text of type {type(one).__name__}, expected a string such as 'the red mug'."
            )
        if not one.strip():
            raise ValueError(f"Got the empty text {one!r}, expected words such as 'the red mug'.")
    return texts


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"Got {name}={count!r}, expected a whole number of at least 1.")


def _check_threshold(threshold: float | str) -> None:
    if isinstance(threshold, str):
        if threshold == "auto":
            return
    elif 0 <= threshold < 1:
        return
    raise ValueError(f"Got threshold {threshold!r}, expected a number in [0, 1), such as 0.5, or 'auto'.")


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"Got seed {seed!r}, expected a whole number in [0, 2**63).")
