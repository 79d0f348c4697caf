"""The frozen half of a step: what VAE and VLM make of its samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.conditioning import Condition, InstructionEncoder, concatenate
from genmask.latents import LatentCodec, images_to_pixels, mask_to_pixels
from genmask.processor import GenMaskProcessor
from genmask.prompt_batch import PromptBatch
from genmask.training.cache import EncodedSample, EncodingCache, sample_key
from genmask.training.mask_samples import Drawn
from genmask.training.offload import lent
from genmask.training.samples import Encoding, Samples


class SampleEncoder:
    """VAE and instruction encoder, frozen, or a cache of what they made of the samples before.

    Args:
        vae, vlm, processor: as they stay.
        cache: read in their place.
        identity: of the three (`cache.model_identity`), in the keys of the cache.
        on_device: which of "vae" and "vlm" stay where the network is; the others wait on the CPU (`fetched`).
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        vlm: Qwen2_5_VLForConditionalGeneration,
        processor: GenMaskProcessor,
        *,
        cache: EncodingCache | None = None,
        identity: str = "",
        on_device: Iterable[str] = ("vae", "vlm"),
    ) -> None:
        self.vae, self.vlm, self.processor = vae.requires_grad_(False), vlm.requires_grad_(False), processor
        self.cache, self.identity = cache, identity
        self.codec, self.instructions = LatentCodec(vae), InstructionEncoder(vlm, processor)
        parts: dict[str, nn.Module] = {"vae": vae, "vlm": vlm}
        self.resident = nn.ModuleDict({name: part for name, part in parts.items() if name in on_device})
        self._waiting = [part for name, part in parts.items() if name not in on_device]

    @contextmanager
    def fetched(self, device: torch.device) -> Iterator[None]:
        """The parts that wait on the CPU are on the device, for a while."""
        with ExitStack() as stack:
            for part in self._waiting:
                stack.enter_context(lent(part, device))
            yield

    def key(self, sample: Drawn) -> str:
        """Of a sample in a cache."""
        return sample_key(self.identity, sample.prompt, sample.image, sample.mask)

    def assemble(self, drawn: Sequence[Drawn], **labels: Tensor) -> Samples | Encoding:
        """Equal-sized samples as a batch; with a cache, what VAE and VLM made of it."""
        ids = tuple(sample.id for sample in drawn)
        masks = [sample.mask for sample in drawn if sample.mask is not None]
        if masks:
            labels["masks"] = torch.from_numpy(np.stack(masks))
        if self.cache is not None:
            return join([self.cache.get(self.key(sample)) for sample in drawn], ids=ids, **labels)
        images = torch.from_numpy(np.stack([sample.image for sample in drawn]))
        prompts = self.processor.prepare([sample.prompt for sample in drawn], images if masks else None)
        return Samples(ids=ids, images=images, prompts=prompts, **labels)

    @torch.no_grad()
    def encode(self, samples: Samples | Encoding) -> Encoding:
        """A batch as the transformer takes it; one of a cache is returned as it is."""
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

    def encode_each(self, drawn: Sequence[Drawn]) -> list[EncodedSample]:
        """Samples of any sizes and tasks, for a cache."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for row, sample in enumerate(drawn):
            groups.setdefault((*sample.image.shape, sample.mask is None), []).append(row)
        encoded: dict[int, EncodedSample] = {}
        for rows in groups.values():
            batch = self.assemble([drawn[row] for row in rows]).to(self.vae.device)
            encoded.update(zip(rows, split(self.encode(batch)), strict=True))
        return [encoded[row] for row in range(len(drawn))]

    def _condition(self, prompts: PromptBatch) -> Condition:
        """In the precision that the transformer takes it in."""
        condition = self.instructions.encode(prompts)
        device = condition.hidden_states.device.type
        return (
            condition.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else condition
        )


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
