"""What a training step costs, before it is run: tokens, floating-point operations, and memory on each GPU.

One multiplication and one addition are two operations (FLOP).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from genmask.denoiser import GenMaskTransformer, PatchEmbedding
from genmask.latents import COMPRESSION, LatentCodec

INSTRUCTION_TOKENS = 40
"""Text tokens of a segmentation prompt, about: chat template, instruction and target."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A step of training, and the machine's share of it. Samples are those of one micro-batch of one process."""

    transformer: Mapping[str, Any]
    """Arguments of `GenMaskTransformer`, such as `denoiser.PAPER_CONFIG`."""
    size: tuple[int, int]
    """(height, width) of the pictures, pixels; the largest, where there are several."""
    segmentation_samples: int
    generation_samples: int
    prompt_tokens: int
    """Of a segmentation prompt (see `segmentation_prompt_tokens`)."""
    caption_tokens: int
    segmentation_frames: int = 2
    """Picture and mask; 1 without the VAE shortcut."""
    accumulation: int = 1
    """Micro-batches of a step in each process."""
    processes: int = 1
    sharded: bool = False
    """FSDP2 shares out weights, gradients and optimizer among the processes; gathers a block at a time in float32."""
    gradient_checkpointing: bool = False
    compute_bytes: int = 2
    """Of a number: 2 for bfloat16 under autocast, 4 for float32."""
    trainable: int | None = None
    """Trained parameters; None for all of the transformer. Fewer are adapters (LoRA) beside frozen weights."""
    ema: bool = False
    optimizer_bytes: int = 8
    """Per trained parameter: 8 for AdamW, 2 for AdamW in 8 bits."""
    vae: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `AutoencoderKLWan`; by default Wan's own."""
    vae_bytes: int = 4
    """Per parameter."""
    vlm_parameters: int = 0
    vlm_bytes: float = 2
    """Per parameter."""
    cached: bool = False
    """Latents and hidden states come from disk: neither the VLM nor the VAE's encoder is there."""
    offloaded: bool = False
    """VAE and VLM wait on the CPU while the transformer trains."""
    pixel_supervision: bool = False
    """The loss of the masks goes through the VAE's decoder."""

    def __post_init__(self) -> None:
        counts = (self.segmentation_samples, self.generation_samples)
        if min(counts) < 0 or max(counts) == 0:
            raise ValueError(f"Got {counts} samples, expected at least one: raise the batch size.")
        if min(self.accumulation, self.processes) < 1:
            raise ValueError(
                f"Got accumulation={self.accumulation} and processes={self.processes}, expected 1 or more of each."
            )

    @property
    def encoded(self) -> tuple[int, int]:
        """Pictures and masks that the VAE encodes for segmentation, and for generation."""
        return (0, 0) if self.cached else (2 * self.segmentation_samples, self.generation_samples)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each GPU at the fullest moment of a step; VAE and VLM have done their work before the transformer's."""

    weights: int
    """float32, and what FSDP2 gathers of the others' shares."""
    compute_weights: int
    """Copies of the weights in the compute dtype, which autocast makes."""
    gradients: int
    """float32; twice under DDP, whose communication buckets are a copy."""
    optimizer: int
    ema: int
    frozen: int
    """Weights of VAE and VLM."""
    encoding: int
    """What the VAE's encoder works on, when there are no gradients and activations."""
    activations: int
    """Kept for the backward of the larger pass."""
    total: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Tokens and FLOP are those of a step, in all processes together."""

    parameters: int
    """Of the transformer."""
    trainable: int
    picture_tokens: int
    """Patches of pictures and masks that the transformer takes."""
    text_tokens: int
    """Hidden states that it attends to."""
    transformer_flop: int
    """Forward and backward; what MFU counts."""
    recomputed_flop: int
    """Done again because of gradient checkpointing; MFU leaves it out."""
    vae_flop: int
    vlm_flop: int
    memory: Memory

    def table(self) -> list[tuple[str, str]]:
        """Labels and values for people ("memory per GPU", "38.2 GiB"); parts indented, zeros left out."""
        memory = self.memory
        counts = {
            "parameters": self.parameters,
            "trainable parameters": self.trainable,
            "picture and mask tokens per step": self.picture_tokens,
            "text tokens per step": self.text_tokens,
        }
        flop = {
            "transformer, forward and backward, per step": self.transformer_flop,
            "transformer, recomputed, per step": self.recomputed_flop,
            "VAE per step": self.vae_flop,
            "VLM per step": self.vlm_flop,
        }
        parts = {
            "memory per GPU": memory.total,
            "  weights": memory.weights,
            "  weights in the compute dtype": memory.compute_weights,
            "  gradients": memory.gradients,
            "  optimizer": memory.optimizer,
            "  moving average": memory.ema,
            "  VAE and VLM": memory.frozen,
            "  the VAE at work, before the gradients": memory.encoding,
            "  activations": memory.activations,
        }
        return [
            *((label, _scaled(count, 1000, ("", " k", " M", " B", " T"))) for label, count in counts.items()),
            *((label, _scaled(n, 1000, _FLOP_UNITS)) for label, n in flop.items() if n),
            *((label, _scaled(n, 1024, _BYTE_UNITS)) for label, n in parts.items() if n),
        ]


_FLOP_UNITS = (" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP", " EFLOP", " ZFLOP")
_BYTE_UNITS = (" B", " KiB", " MiB", " GiB", " TiB")


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    """Three digits and the largest unit that leaves something before the point."""
    rank = 0
    while value >= base and rank < len(units) - 1:
        value, rank = value / base, rank + 1
    decimals = 0 if rank == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f}{units[rank]}"


def segmentation_prompt_tokens(
    height: int, width: int, token_side: int = 28, max_pixels: int | None = None
) -> int:
    """Of a picture of so many pixels, at most `max_pixels` of which the VLM reads in tokens of `token_side` squared,
    and the words.
    """
    pixels = height * width if max_pixels is None else min(height * width, max_pixels)
    return pixels // token_side**2 + INSTRUCTION_TOKENS


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A batch that goes through the transformer, forward and backward."""

    samples: int
    frames: int
    patches: int
    """Of a frame."""
    text: int
    """Tokens of a prompt, padding included."""

    @property
    def tokens(self) -> int:
        """Of pictures and masks, in all samples."""
        return self.samples * self.frames * self.patches

    @property
    def text_tokens(self) -> int:
        """In all samples."""
        return self.samples * self.text


def estimate(workload: Workload) -> Estimate:
    """Count what a step of `workload` takes.

    Parameters, tokens and FLOP of transformer and VAE are exact; the VLM takes two FLOP for each parameter and token.
    Memory is that of PyTorch's eager kernels on a GPU, fused attention and fused RMSNorm among them. It leaves out what
    an operator needs for itself (up to a tenth of the activations), the VLM's activations and the allocator's gaps.
    Adapters are taken to keep the activations of full training, up to half too much; compiled blocks, which choose for
    themselves what they keep, those of eager ones.

    Raises:
        ValueError: a picture that cannot be cut into patches.
    """
    with torch.device("meta"):
        transformer = GenMaskTransformer(**workload.transformer)
        vae = AutoencoderKLWan(**workload.vae).requires_grad_(False)
    config, passes = transformer.config, _passes(workload, transformer)
    parameters = _count(transformer)
    trainable = parameters if workload.trainable is None else workload.trainable
    adapters = trainable if trainable < parameters else 0

    decoder_flop, decoder_bytes = _decoder(workload, vae)
    vae_flop = sum(workload.encoded) * _encoder_flop(workload, vae) + decoder_flop
    vlm_tokens = 0 if workload.cached else sum(batch.text_tokens for batch in passes)
    recomputed = sum(config.num_layers * _block_flop(config, batch) for batch in passes)
    repeats = workload.accumulation * workload.processes
    return Estimate(
        parameters=parameters,
        trainable=trainable,
        picture_tokens=repeats * sum(batch.tokens for batch in passes),
        text_tokens=repeats * sum(batch.text_tokens for batch in passes),
        transformer_flop=repeats * sum(training_flop(config, batch, adapters) for batch in passes),
        recomputed_flop=repeats * recomputed * workload.gradient_checkpointing,
        vae_flop=repeats * vae_flop,
        vlm_flop=repeats * 2 * workload.vlm_parameters * vlm_tokens,
        memory=_memory(workload, transformer, vae, passes, trainable, adapters, decoder_bytes),
    )


def _passes(workload: Workload, transformer: GenMaskTransformer) -> list[Pass]:
    """Segmentation and generation, those that there are."""
    _, p_h, p_w = transformer.config.patch_size
    (height, width), sides = workload.size, (COMPRESSION * p_h, COMPRESSION * p_w)
    if height % sides[0] or width % sides[1]:
        raise ValueError(
            f"Got pictures of {height} x {width}, expected multiples of {sides[0]} x {sides[1]}: round them."
        )
    patches = (height // sides[0]) * (width // sides[1])
    batches = (
        (workload.segmentation_samples, workload.segmentation_frames, workload.prompt_tokens),
        (workload.generation_samples, 1, workload.caption_tokens),
    )
    return [Pass(samples=n, frames=f, patches=patches, text=text) for n, f, text in batches if n]


def training_flop(config: Mapping[str, Any], batch: Pass, adapters: int = 0) -> int:
    """Of the transformer's forward and backward on a batch, without what checkpointing computes again.

    Matrix products alone. A backward takes twice its forward, but once where the input needs no gradient (the first
    layers) or the weight needs none (beside adapters).

    Args:
        config: the transformer's.
        batch: what it is given.
        adapters: their parameters, where they alone are trained; each is taken to act on all picture tokens.
    """
    width, patch = _width(config), math.prod(config["patch_size"])
    times, text = batch.samples * batch.frames, batch.text_tokens
    first = 2 * width * (times * config["freq_dim"] + text * config["text_dim"])
    first += 2 * width * batch.tokens * config["in_channels"] * patch
    outputs = batch.tokens * config["out_channels"] * patch
    linear = 2 * width * ((7 * times + text) * width + outputs)  # time, its modulation, text; the last layer
    attention = config["num_layers"] * _attention_flop(config, batch)
    linear += config["num_layers"] * _block_flop(config, batch) - attention
    if adapters:
        return first + 2 * linear + 3 * attention + 6 * adapters * batch.tokens
    return 2 * first + 3 * (linear + attention)


def _block_flop(config: Mapping[str, Any], batch: Pass) -> int:
    """Forward of a block: six squares of the width for each token, two for each text token, feed-forward, attention."""
    width = _width(config)
    linear = batch.tokens * (3 * width + config["ffn_dim"]) + batch.text_tokens * width
    return 4 * width * linear + _attention_flop(config, batch)


def _attention_flop(config: Mapping[str, Any], batch: Pass) -> int:
    """The two products of self-attention and of cross-attention in a block, forward."""
    return 4 * _width(config) * batch.tokens * (batch.frames * batch.patches + batch.text)


def _encoder_flop(workload: Workload, vae: AutoencoderKLWan) -> int:
    """Of one picture."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        LatentCodec(vae).encode(torch.empty(1, 3, *workload.size, device="meta"))
    return counter.get_total_flops()


def _decoder(workload: Workload, vae: AutoencoderKLWan) -> tuple[int, int]:
    """FLOP, forward and backward, and bytes kept in between, of the masks of a micro-batch."""
    if not (workload.pixel_supervision and workload.segmentation_samples):
        return 0, 0
    latents = torch.empty(
        workload.segmentation_samples,
        vae.config.z_dim,
        *(side // COMPRESSION for side in workload.size),
        device="meta",
        requires_grad=True,
    )
    dtype = torch.float32 if workload.compute_bytes == 4 else torch.bfloat16
    own = {parameter.untyped_storage()._cdata for parameter in vae.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            pixels = LatentCodec(vae, decode_dtype=dtype).decode(latents, clamp=False)
        pixels.sum().backward()
    return counter.get_total_flops(), sum(kept.values())


def _memory(
    workload: Workload,
    transformer: GenMaskTransformer,
    vae: AutoencoderKLWan,
    passes: Sequence[Pass],
    trainable: int,
    adapters: int,
    decoder_bytes: int,
) -> Memory:
    layers, block = len(transformer.blocks), transformer.blocks[0]
    whole = _count(transformer)
    shards = workload.processes if workload.sharded else 1
    # FSDP2 holds what is outside the blocks, the block at work and the next one, and the gradients of one.
    gathered = whole - max(0, layers - 2) * _count(block) if workload.sharded else 0
    ungathered = min(trainable, _count(block)) if workload.sharded else 0
    copies = 2 if workload.processes > 1 and not workload.sharded else 1
    weights = 4 * ((whole + adapters) // shards + gathered)
    gradients = 4 * (copies * trainable // shards + ungathered)
    optimizer = workload.optimizer_bytes * trainable // shards
    ema = 4 * trainable // shards if workload.ema else 0

    needs_vae = workload.pixel_supervision or not workload.cached
    frozen = workload.vae_bytes * _count(vae) if needs_vae else 0
    frozen += 0 if workload.cached else int(workload.vlm_bytes * workload.vlm_parameters)
    # In a residual block at full resolution: three maps of its own, its input and, from the second on, the first's.
    maps = 3 + min(2, vae.config.num_res_blocks)
    encoding = 4 * maps * vae.config.base_dim * max(workload.encoded) * math.prod(workload.size)

    cast, cast_block = (workload.compute_bytes % 4 * _count_cast(part) for part in (transformer, block))
    moments = []  # copies of the weights and activations: at the end of a forward, and in the backward of a block
    for batch, decoder in zip(passes, (decoder_bytes, 0), strict=False):  # segmentation comes first
        kept, inside = _activations(workload, transformer.config, batch)
        # Copies of trained weights last until the forward's end, those of frozen ones until their block's.
        lasting = cast_block if adapters and workload.gradient_checkpointing else cast
        moments += [(lasting, kept + decoder), (cast_block, kept + inside)]
    compute_weights, activations = max(moments, key=sum)

    training = compute_weights + gradients + activations + (0 if workload.offloaded else frozen)
    return Memory(
        weights=weights,
        compute_weights=compute_weights,
        gradients=gradients,
        optimizer=optimizer,
        ema=ema,
        frozen=frozen,
        encoding=encoding,
        activations=activations,
        total=weights + optimizer + ema + max(frozen + encoding, training),
    )


def _activations(workload: Workload, config: Mapping[str, Any], batch: Pass) -> tuple[int, int]:
    """Bytes kept for the backward of a pass, and those that checkpointing makes again, a block at a time.

    A block keeps, of each token, in float32 what enters its norms (three of the width; two of query and key in
    self-attention, one of the query in cross-attention) and what its two modulated norms make of it; in the compute
    dtype the inputs of self-attention, cross-attention and feed-forward, query, key, value and what is attended to,
    the query and what is attended to in cross-attention, both gated updates, and the feed-forward's hidden layer before
    and after its activation. Of a text token: the key before its norm in float32, key and value.
    """
    width, b, patch = _width(config), workload.compute_bytes, math.prod(config["patch_size"])
    norms = 8 if config["cross_attn_norm"] else 7
    token = (4 * norms + 11 * b) * width + 2 * b * config["ffn_dim"]
    block = batch.tokens * token + batch.text_tokens * (4 + 2 * b) * width
    # Before the blocks: patches, and the text through its two layers. After: the last norm, the last layer, the error.
    outside = batch.text_tokens * b * (config["text_dim"] + 3 * width) + batch.tokens * (
        b * config["in_channels"] * patch + (8 + b) * width + 8 * config["out_channels"] * patch
    )
    layers = config["num_layers"]
    if workload.gradient_checkpointing:
        return outside + layers * batch.tokens * b * width, block
    return outside + layers * block, 0


def _width(config: Mapping[str, Any]) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count_cast(module: nn.Module) -> int:
    """Parameters of the layers that autocast computes in the compute dtype: all but norms, modulation and time."""
    return sum(
        _count(layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | PatchEmbedding) and ".time_" not in name
    )


def matmul_ceiling(device: torch.device | str, dtype: torch.dtype) -> float:
    """FLOP per second of a square matrix product: what the device can reach, the ceiling of MFU.

    Takes well under a second: the side is doubled until a product takes 5 ms, or is 8192.
    """
    side, seconds = 256, 0.0
    while seconds < 0.005 and side < 8192:
        side *= 2
        a = torch.randn(side, side, device=device, dtype=dtype)
        seconds = min(_product_seconds(a) for _ in range(3))
    return 2 * side**3 / seconds


def _product_seconds(a: Tensor) -> float:
    start = time.perf_counter()
    (a @ a)[0, 0].item()  # waits for the device
    return time.perf_counter() - start
