"""The denoiser: Wan-2.1's diffusion transformer with one noise level per frame and a mask over the text.

The architecture and the parameters are those of diffusers' `WanTransformer3DModel`, so a genuine Wan folder loads strictly
(but for the width of the text). What differs is how they are run:

* every frame has its own timestep: the picture is a frame at t = 0, the mask a frame at t (the paper's "VAE shortcut");
* padded text positions are masked out in cross-attention, so a sample's output does not depend on its batch;
* everything about time, the norms and RoPE stay float32 whatever the rest of the model runs in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

PAPER_CONFIG: dict[str, Any] = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=12,
    attention_head_dim=128,
    in_channels=16,
    out_channels=16,
    text_dim=3584,
    freq_dim=256,
    ffn_dim=8960,
    num_layers=30,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    eps=1e-6,
    rope_max_seq_len=1024,
)
"""Wan-2.1-T2V-1.3B with the text width of Qwen2.5-VL-7B: 1,418,210,368 parameters."""

MASKED_ATTENTION_BACKENDS = ("native", "_native_cudnn", "_native_efficient", "_native_math")
"""The diffusers attention backends that take a boolean mask: PyTorch's scaled dot product attention and its kernels."""


class GenMaskAttnProcessor:
    """Wan's attention, with a mask over the keys, and with the norm of queries and keys and RoPE in float32."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """hidden_states (B, T, dim) attends to itself, or to encoder_hidden_states (B, N, dim) where the mask is True.

        attention_mask: (B, N) bool. rotary_emb: cosine and sine, each (1, T, 1, head_dim) with every value twice.
        """
        query, key, value = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        query = attn.norm_q(query.float()).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(key.float()).unflatten(2, (attn.heads, -1))
        value = value.unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query = rotate(query, *rotary_emb)
            key = rotate(key, *rotary_emb)
        if attention_mask is not None:
            refuse_maskless_backend(self._attention_backend)
            attention_mask = attention_mask[:, None, None, :]
        attended = dispatch_attention_fn(
            query.type_as(value),
            key.type_as(value),
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return attn.to_out[1](attn.to_out[0](attended.flatten(2, 3)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on neighbouring pairs of channels. x: (B, T, heads, head_dim) float32."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-odd, even), dim=-1).flatten(-2) * sin


def refuse_maskless_backend(backend: Any) -> None:
    """Raise ValueError if the attention backend in force would reject, misread or drop a boolean mask of the keys."""
    name = AttentionBackendName(backend or _AttentionBackendRegistry.get_active_backend()[0]).value
    if name not in MASKED_ATTENTION_BACKENDS:
        raise ValueError(
            f"Got attention backend {name!r} and an encoder_attention_mask, which it cannot take; expected one of "
            f"{', '.join(MASKED_ATTENTION_BACKENDS)}. Call set_attention_backend('native'), at least on each block's attn2."
        )


class PatchEmbedding(nn.Conv3d):
    """Wan's patch embedding as the matrix product it is, since kernel equals stride.

    The bf16 backward of Conv3d on CPU gives silent NaN gradients at widths of 1280 and up; this does not, and is faster.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, C, F, h, w) -> (B, dim, F / p_t, h / p_h, w / p_w)."""
        p_t, p_h, p_w = self.kernel_size
        patches = hidden_states.unflatten(4, (-1, p_w)).unflatten(3, (-1, p_h)).unflatten(2, (-1, p_t))
        patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        embedded = F.linear(patches.type_as(self.weight), self.weight.flatten(1), self.bias)
        return embedded.permute(0, 4, 1, 2, 3)


class GenMaskTimeTextEmbedding(WanTimeTextImageEmbedding):
    """Wan's condition embedder: time in float32, whatever autocast or the dtype of the text say."""

    def forward(self, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """timestep (B, F), text (B, N, text_dim) -> time (B, F, dim), modulation (B, F, 6, dim), text (B, N, dim)."""
        with torch.autocast(device_type=timestep.device.type, enabled=False):
            features = self.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
            temb = self.time_embedder(features)
            modulation = self.time_proj(self.act_fn(temb)).unflatten(-1, (6, -1))
        return temb, modulation, self.text_embedder(encoder_hidden_states)


class GenMaskBlock(WanTransformerBlock):
    """Wan's transformer block with AdaLN per frame: one modulation for all tokens of a frame, broadcast over them."""

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
        """hidden_states (B, F * S, dim), frame after frame; temb (B, F, 6, dim) float32; text (B, N, dim), mask (B, N)."""
        modulation = self.scale_shift_table + temb
        shift_1, scale_1, gate_1, shift_3, scale_3, gate_3 = modulation.chunk(6, dim=2)  # each (B, F, 1, dim)

        normed = modulate(self.norm1(hidden_states.float()), shift_1, scale_1).type_as(hidden_states)
        hidden_states = add_gated(hidden_states, self.attn1(normed, rotary_emb=rotary_emb), gate_1)

        normed = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(normed, encoder_hidden_states, encoder_attention_mask)

        normed = modulate(self.norm3(hidden_states.float()), shift_3, scale_3).type_as(hidden_states)
        return add_gated(hidden_states, self.ffn(normed), gate_3)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift per frame. x: (B, F * S, dim) float32; shift, scale: (B, F, 1, dim) float32."""
    return (x.unflatten(1, (shift.shape[1], -1)) * (1 + scale) + shift).flatten(1, 2)


def add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """x + gate * update per frame, computed in float32. x, update: (B, F * S, dim); gate: (B, F, 1, dim) float32."""
    gated = update.unflatten(1, (gate.shape[1], -1)) * gate
    return (x.float() + gated.flatten(1, 2)).type_as(x)


class GenMaskTransformer(WanTransformer3DModel):
    """The velocity network f(x_t, t, condition) of Eq. 2, with Wan's own configuration and state-dict keys."""

    _no_split_modules = ["GenMaskBlock"]
    _repeated_blocks = ["GenMaskBlock"]
    _keep_in_fp32_modules = [
        "rope", "time_embedder", "time_proj", "scale_shift_table", "norm1", "norm2", "norm3", "norm_q", "norm_k",
    ]  # fmt: skip
    _cp_plan = None  # Wan's plan splits tokens between devices, which would cut through frames

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
                f"Got image_dim={image_dim}, added_kv_proj_dim={added_kv_proj_dim}, pos_embed_seq_len={pos_embed_seq_len}, "
                "expected None: the picture enters as a frame, so take a Wan text-to-video model, not an image-to-video one."
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
        """Move or cast all tensors, as `.to`, `.bfloat16`, `.half`, `.cuda` do, but never round those kept in float32."""
        kept = {id(tensor) for tensor in self._float32_tensors()}

        def fn_keeping_float32(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if id(tensor) in kept and result.is_floating_point() and result.itemsize < 4:
                return tensor.to(result.device, torch.float32)
            return result

        return super()._apply(fn_keeping_float32, recurse)

    def _float32_tensors(self) -> list[Tensor]:
        """The parameters, their gradients, and the buffers whose name has a part in `_keep_in_fp32_modules`."""
        named = [*self.named_parameters(), *self.named_buffers()]
        kept = [
            tensor
            for name, tensor in named
            if not set(self._keep_in_fp32_modules).isdisjoint(name.split("."))
        ]
        return kept + [tensor.grad for tensor in kept if tensor.grad is not None]

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity eps - x0 of every frame.

        Args:
            hidden_states: (B, C, F, h, w) noised latents; h and w multiples of the patch size.
            timestep: (B, F) float32 in [0, 1000], one per frame, 0 for a frame without noise; (B,) gives all frames the same.
            encoder_hidden_states: (B, N, text_dim), the condition.
            encoder_attention_mask: (B, N) bool, True on real tokens, at least one per sample; None: all are real.
            return_dict: True for an object with `.sample`, False for a tuple of one.
            attention_kwargs: {"scale": float} scales the LoRA adapters for this call.

        Returns:
            `.sample` (B, out_channels, F, h, w), in the dtype of hidden_states.

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
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _check_inputs(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
    ) -> Tensor:
        """The timestep as (B, F) float32; ValueError for anything `forward` cannot take."""
        batch, channels, frames, height, width = hidden_states.shape
        _, p_h, p_w = self.config.patch_size
        limit = self.config.rope_max_seq_len
        if channels != self.config.in_channels:
            raise ValueError(
                f"Got hidden_states with {channels} channels, expected {self.config.in_channels}."
            )
        if height % p_h or width % p_w:
            raise ValueError(
                f"Got latents of {height} x {width}, expected multiples of the patch size {p_h} x {p_w}."
            )
        if max(frames, height // p_h, width // p_w) > limit:
            raise ValueError(
                f"Got {frames} frames of {height // p_h} x {width // p_w} patches, expected at most {limit} of each: "
                "resize the picture, or configure a larger rope_max_seq_len."
            )
        if timestep.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"Got a timestep in {timestep.dtype}, expected float32: bfloat16 rounds 999.4 to 1000."
            )
        if timestep.shape not in ((batch,), (batch, frames)):
            raise ValueError(
                f"Got timestep {tuple(timestep.shape)}, expected {(batch, frames)} or {(batch,)}."
            )
        if encoder_attention_mask is not None and (
            encoder_attention_mask.dtype != torch.bool
            or encoder_attention_mask.shape != encoder_hidden_states.shape[:2]
        ):
            raise ValueError(
                f"Got encoder_attention_mask {tuple(encoder_attention_mask.shape)} {encoder_attention_mask.dtype}, "
                f"expected {tuple(encoder_hidden_states.shape[:2])} torch.bool."
            )
        timestep = timestep.float()
        return timestep[:, None].expand(batch, frames) if timestep.ndim == 1 else timestep
