"""The denoiser: Wan-2.1's diffusion transformer with one noise level per frame and a mask over the text.

Architecture and parameters are diffusers' `WanTransformer3DModel`: a genuine Wan folder loads, strictly,
but for the width of the text. What differs is how they are run:

* every frame has its own timestep: the picture is a frame at t = 0, the mask one at t (the "VAE shortcut");
* padded text is masked out in cross-attention: a sample's output does not depend on its batch;
* whatever concerns time, the norms and RoPE stay float32, whatever the rest of the model runs in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import (
    WanTimeTextImageEmbedding,
    WanTransformer3DModel,
    WanTransformerBlock,
    _get_qkv_projections,
)
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

PAPER_CONFIG: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 3584,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
"""Wan-2.1-T2V-1.3B with the text width of Qwen2.5-VL-7B: 1,418,210,368 parameters."""

MASKED_ATTENTION_BACKENDS = ("native", "_native_cudnn", "_native_efficient", "_native_math")
"""The attention backends of diffusers that take a boolean mask: PyTorch's own, and its kernels by name."""


class GenMaskAttnProcessor:
    """Wan's attention with a mask over the keys; the norms of query and key and RoPE run in float32."""

    _attention_backend = None  # set by diffusers' set_attention_backend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend from hidden_states (B, T, dim) to itself, or to encoder_hidden_states (B, N, dim).

        attention_mask: (B, N) bool, True where a key counts. rotary_emb: cosine, sine, (1, T, 1, head_dim).
        """
        query, key, value = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        query = attn.norm_q(query.float()).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(key.float()).unflatten(2, (attn.heads, -1))
        value = value.unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        query, key = query.type_as(value), key.type_as(value)
        if attention_mask is not None:
            refuse_maskless_backend(self._attention_backend)
            attention_mask = attention_mask[:, None, None, :]

        if self._attention_backend is None and value.device.type == "cpu" and value.dtype == torch.bfloat16:
            attended = attend_by_products(query, key, value, attention_mask)
        else:
            attended = dispatch_attention_fn(
                query, key, value, attn_mask=attention_mask, backend=self._attention_backend
            )
        return attn.to_out[1](attn.to_out[0](attended.flatten(2, 3)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on pairs of channels. x: (B, T, heads, head_dim) float32; cos and sin hold each value twice."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-odd, even), dim=-1).flatten(-2) * sin


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V with query, key and value (B, tokens, heads, d), as the two products it is.

    For bf16 on CPU: the fused kernel of torch 2.13 takes twice as long there in the forward, and with the
    backward 2.5 times as long for 128 queries and keys, seven times for 48 keys. mask: (B, 1, 1, keys) bool.
    """
    query, key, value = (x.transpose(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = query @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


def refuse_maskless_backend(backend: str | None) -> None:
    """Raise ValueError if the attention backend in force would reject, misread or drop a mask of the keys."""
    name = AttentionBackendName(backend or _AttentionBackendRegistry.get_active_backend()[0]).value
    if name not in MASKED_ATTENTION_BACKENDS:
        raise ValueError(
            f"Got attention backend {name!r}, which cannot take encoder_attention_mask; "
            f"expected one of {', '.join(MASKED_ATTENTION_BACKENDS)}. Call set_attention_backend('native') "
            "on the transformer, or on the attn2 of every block to keep the other for self-attention."
        )


class PatchEmbedding(nn.Conv3d):
    """Wan's patch embedding as the matrix product that it is, since kernel equals stride.

    The backward of Conv3d in bf16 on CPU gives NaN gradients, silently, at widths of 1280 and up.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, C, F, h, w) -> (B, dim, F / p_t, h / p_h, w / p_w)."""
        p_t, p_h, p_w = self.kernel_size
        patches = hidden_states.unflatten(4, (-1, p_w)).unflatten(3, (-1, p_h)).unflatten(2, (-1, p_t))
        patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        return F.linear(patches.type_as(self.weight), self.weight.flatten(1), self.bias).permute(
            0, 4, 1, 2, 3
        )


class GenMaskTimeTextEmbedding(WanTimeTextImageEmbedding):
    """Wan's embedding of time and text; time in float32, whatever autocast or the dtype of the text say."""

    def forward(self, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, F), (B, N, text_dim) -> time (B, F, dim), modulation (B, F, 6, dim), text (B, N, dim)."""
        with torch.autocast(device_type=timestep.device.type, enabled=False):
            features = self.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
            temb = self.time_embedder(features)
            modulation = self.time_proj(self.act_fn(temb)).unflatten(-1, (6, -1))
        return temb, modulation, self.text_embedder(encoder_hidden_states)


class GenMaskBlock(WanTransformerBlock):
    """Wan's transformer block with AdaLN per frame: one modulation, broadcast over the tokens of a frame."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attn1.set_processor(GenMaskAttnProcessor())
        self.attn2.set_processor(GenMaskAttnProcessor())

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: tuple[Tensor, Tensor],
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Self-attention, cross-attention, feed-forward: (B, F * S, dim) -> the same, S tokens to a frame.

        encoder_hidden_states: (B, N, dim), its mask (B, N) bool; temb: modulation, (B, F, 6, dim) float32.
        """
        modulation = self.scale_shift_table + temb
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation.chunk(6, dim=2)  # each (B, F, 1, dim)

        normed = modulate(self.norm1(hidden_states.float()), shift, scale).type_as(hidden_states)
        hidden_states = add_gated(hidden_states, self.attn1(normed, rotary_emb=rotary_emb), gate)

        normed = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(normed, encoder_hidden_states, encoder_attention_mask)

        normed = modulate(self.norm3(hidden_states.float()), ffn_shift, ffn_scale).type_as(hidden_states)
        return add_gated(hidden_states, self.ffn(normed), ffn_gate)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift per frame. x: (B, F * S, dim); shift, scale: (B, F, 1, dim); all float32."""
    return (x.unflatten(1, (shift.shape[1], -1)) * (1 + scale) + shift).flatten(1, 2)


def add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """x + update * gate in each frame, in float32. x, update: (B, F * S, dim); gate: (B, F, 1, dim)."""
    gated = update.unflatten(1, (gate.shape[1], -1)) * gate
    return (x.float() + gated.flatten(1, 2)).type_as(x)


@dataclass
class GenMaskTransformerOutput(Transformer2DModelOutput):
    """Velocities, and what they were read from."""

    tokens: Tensor | None = None
    """(B, F, S, dim): the last block's, S of each frame."""


class GenMaskTransformer(WanTransformer3DModel):
    """The velocity network f(x_t, t, condition) of Eq. 2, with Wan's configuration and state-dict keys.

    Cast to bf16 or fp16 (`.to`, `from_pretrained(torch_dtype=...)`), what `_keep_in_fp32_modules` names stays
    float32. Raises ValueError for the configuration of an image-to-video Wan.
    """

    _no_split_modules: ClassVar[list[str]] = ["GenMaskBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["GenMaskBlock"]
    _keep_in_fp32_modules: ClassVar[list[str]] = [
        "rope", "time_embedder", "time_proj", "scale_shift_table",
        "norm1", "norm2", "norm3", "norm_q", "norm_k",
    ]  # fmt: skip
    _cp_plan = None  # Wan's context parallelism splits tokens between devices: it would cut through frames

    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
    ) -> None:
        if patch_size[0] != 1:
            raise ValueError(
                f"Got patch_size {tuple(patch_size)}, expected (1, h, w): a timestep belongs to one frame."
            )
        if any(option is not None for option in (image_dim, added_kv_proj_dim, pos_embed_seq_len)):
            raise ValueError(
                f"Got {image_dim=}, {added_kv_proj_dim=}, {pos_embed_seq_len=}, expected None for all: the "
                "picture enters as a frame. Take a text-to-video Wan, not an image-to-video one."
            )
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,  # the blocks are made below, of our class
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            rope_max_seq_len=rope_max_seq_len,
        )
        self.register_to_config(num_layers=num_layers)
        dim = num_attention_heads * attention_head_dim
        self.patch_embedding = PatchEmbedding(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = GenMaskTimeTextEmbedding(dim, freq_dim, 6 * dim, text_dim)
        self.blocks = nn.ModuleList(
            GenMaskBlock(dim, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps)
            for _ in range(num_layers)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GenMaskTransformer:
        """What `.to`, `.bfloat16`, `.half`, `.cuda` call: move and cast, but round nothing kept float32."""
        tensors = [*self.named_parameters(), *self.named_buffers()]
        kept = {x for name, x in tensors if not set(name.split(".")).isdisjoint(self._keep_in_fp32_modules)}
        kept |= {x.grad for x in kept if x.grad is not None}

        def fn_keeping_float32(x: Tensor) -> Tensor:
            result = fn(x)
            rounds = x in kept and result.is_floating_point() and result.itemsize < torch.float32.itemsize
            return x.to(result.device, torch.float32) if rounds else result

        return super()._apply(fn_keeping_float32, recurse)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> GenMaskTransformerOutput | tuple[Tensor]:
        """Predict the velocity eps - x0 of every frame.

        Args:
            hidden_states: (B, C, F, h, w) noised latents; h and w multiples of the patch size.
            timestep: (B, F) float32 in [0, 1000], 0 for a frame without noise; (B,) holds for all frames.
            encoder_hidden_states: (B, N, text_dim), the condition.
            encoder_attention_mask: (B, N) bool, True on real tokens, at least one each; None: all are real.
            return_dict: True for an object with `.sample` and `.tokens`, False for a tuple of the first.
            attention_kwargs: {"scale": float} scales the LoRA adapters in this call.

        Returns:
            `.sample` (B, out_channels, F, h, w), in the dtype of hidden_states; `.tokens` (B, F, S, dim).

        Raises:
            ValueError: shapes or dtypes other than these, or an attention backend that cannot take the mask.
        """
        batch, _, frames, height, width = hidden_states.shape
        timestep = self._check_inputs(hidden_states, timestep, encoder_hidden_states, encoder_attention_mask)

        rotary_emb = self.rope(hidden_states)
        tokens = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2)  # (B, F * S, dim)
        temb, modulation, text = self.condition_embedder(timestep, encoder_hidden_states.type_as(tokens))

        for block in self.blocks:
            inputs = (tokens, text, modulation, rotary_emb, encoder_attention_mask)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, *inputs)
            else:
                tokens = block(*inputs)

        shift, scale = (self.scale_shift_table + temb.unsqueeze(2)).chunk(2, dim=2)
        patches = self.proj_out(modulate(self.norm_out(tokens.float()), shift, scale).type_as(tokens))

        _, p_h, p_w = self.config.patch_size
        patches = patches.reshape(batch, frames, height // p_h, width // p_w, p_h, p_w, -1)
        sample = patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4).type_as(hidden_states)
        if not return_dict:
            return (sample,)
        return GenMaskTransformerOutput(sample=sample, tokens=tokens.unflatten(1, (frames, -1)))

    def _check_inputs(
        self, hidden_states: Tensor, timestep: Tensor, text: Tensor, text_mask: Tensor | None
    ) -> Tensor:
        """The timestep as (B, F) float32; ValueError for anything that `forward` cannot take."""
        batch, channels, frames, height, width = hidden_states.shape
        _, p_h, p_w = self.config.patch_size
        rows, columns, limit = height // p_h, width // p_w, self.config.rope_max_seq_len
        if channels != self.config.in_channels:
            raise ValueError(f"Got {channels} latent channels, expected {self.config.in_channels}.")
        if height % p_h or width % p_w:
            raise ValueError(f"Got latents of {height} x {width}, expected multiples of {p_h} x {p_w}.")
        if max(frames, rows, columns) > limit:
            raise ValueError(
                f"Got {frames} frames of {rows} x {columns} patches, expected at most {limit} of each. "
                "Make the picture smaller."
            )
        if timestep.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(f"Got a {timestep.dtype} timestep, expected float32: bf16 makes 1000 of 999.4.")
        if timestep.shape not in ((batch,), (batch, frames)):
            raise ValueError(f"Got timestep {tuple(timestep.shape)}, expected {(batch, frames)}.")
        if text.ndim != 3 or (text.shape[0], text.shape[2]) != (batch, self.config.text_dim):
            raise ValueError(
                f"Got encoder_hidden_states {tuple(text.shape)}, "
                f"expected ({batch}, N, {self.config.text_dim})."
            )
        if text_mask is not None and (text_mask.dtype != torch.bool or text_mask.shape != text.shape[:2]):
            raise ValueError(
                f"Got encoder_attention_mask {tuple(text_mask.shape)} {text_mask.dtype}, "
                f"expected {tuple(text.shape[:2])} torch.bool."
            )
        return timestep.float().reshape(batch, -1).expand(batch, frames)
