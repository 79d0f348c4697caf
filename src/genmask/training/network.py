"""Everything that is trained with the transformer, as one module with a forward: what DDP and FSDP2 wrap."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genmask.conditioning import Condition
from genmask.denoiser import GenMaskTransformer
from genmask.mask_head import LinearMaskHead
from genmask.objectives import predict_x0
from genmask.training.recognition import RecognitionHead


class Prediction(NamedTuple):
    """Of the noised frame, the last one."""

    velocity: Tensor
    """(B, C, h, w)"""
    mask_logits: Tensor | None = None
    """(B, 8h, 8w), where there is a mask head."""
    concept_logits: Tensor | None = None
    """(B, S, K) of the picture's patches, where there is a recognition head."""


class MaskNetwork(nn.Module):
    """The transformer, and the heads of a run: at most a linear mask head and a recognition head.

    Args:
        recognition_block: the block whose output the recognition head reads.
    """

    def __init__(
        self,
        transformer: GenMaskTransformer,
        mask_head: LinearMaskHead | None = None,
        recognition: RecognitionHead | None = None,
        recognition_block: int = 0,
    ) -> None:
        super().__init__()
        self.transformer, self.mask_head, self.recognition = transformer, mask_head, recognition
        self._tokens: Tensor | None = None
        if recognition is not None:
            transformer.blocks[recognition_block].register_forward_hook(self._remember)

    def _remember(self, block: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> None:
        self._tokens = tokens

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition, picture: Tensor | None = None
    ) -> Prediction:
        """Predict the velocity of x_t (B, C, h, w) at t (B,) in [0, 1].

        With a `picture` (B, C, h, w) this is segmentation: the picture is a first frame, at t = 0.
        """
        frames, times = x_t.unsqueeze(2), t.unsqueeze(1)
        if picture is not None:
            frames, times = torch.stack([picture, x_t], dim=2), torch.stack([torch.zeros_like(t), t], dim=1)
        velocity = self.transformer(
            hidden_states=frames,
            timestep=1000 * times,
            encoder_hidden_states=condition.hidden_states,
            encoder_attention_mask=condition.attention_mask,
        ).sample[:, :, -1]
        mask_logits = concept_logits = None
        if picture is not None and self.mask_head is not None:
            mask_logits = self.mask_head(predict_x0(x_t, velocity.float(), t))
        if picture is not None and self.recognition is not None:
            assert self._tokens is not None
            concept_logits = self.recognition(self._tokens[:, : self._tokens.shape[1] // 2])
        self._tokens = None
        return Prediction(velocity, mask_logits, concept_logits)
