"""Everything that is trained with the transformer, as one module with a forward: what DDP and FSDP2 wrap."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from genmask.conditioning import Condition
from genmask.denoiser import GenMaskTransformer
from genmask.frames import arrange_frames
from genmask.mask_head import LinearMaskHead
from genmask.objectives import predict_x0
from genmask.presence_head import PresenceHead, frame_means
from genmask.training.recognition import RecognitionHead


class Prediction(NamedTuple):
    """Of the noised frame; of the picture's, where that is the only one."""

    output: Tensor
    """(B, C, h, w), the transformer's: velocity, x0_hat or features of the picture, as the run's `prediction` says."""
    x0_hat: Tensor
    """(B, C, h, w); the features, where there is nothing to draw."""
    mask_logits: Tensor | None = None
    """(B, 8h, 8w), where there is a mask head."""
    concept_logits: Tensor | None = None
    """(B, S, K) of the picture's patches, where there is a recognition head."""
    presence_logits: Tensor | None = None
    """(B,), where there is a presence head."""


class MaskNetwork(nn.Module):
    """The transformer, and the heads of a run: at most a linear mask head, a recognition head and a presence head.

    Args:
        recognition_block: the block whose output the recognition head reads.
        prediction, picture_first: as `MaskConfig` says.
    """

    def __init__(
        self,
        transformer: GenMaskTransformer,
        mask_head: LinearMaskHead | None = None,
        recognition: RecognitionHead | None = None,
        recognition_block: int = 0,
        presence_head: PresenceHead | None = None,
        *,
        prediction: str = "velocity",
        picture_first: bool = True,
    ) -> None:
        super().__init__()
        self.transformer, self.mask_head, self.recognition = transformer, mask_head, recognition
        self.presence_head = presence_head
        self.prediction, self.picture_first = prediction, picture_first
        self._tokens: Tensor | None = None
        if recognition is not None:
            transformer.blocks[recognition_block].register_forward_hook(self._remember)

    def _remember(self, block: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> None:
        self._tokens = tokens

    def forward(
        self, x_t: Tensor | None, t: Tensor, condition: Condition, picture: Tensor | None = None
    ) -> Prediction:
        """Predict from x_t (B, C, h, w) at t (B,) in [0, 1].

        With a `picture` (B, C, h, w) this is segmentation: the picture is a frame of its own, at t = 0; it is the only
        one where x_t is None.
        """
        frames = arrange_frames(picture, x_t, t, picture_first=self.picture_first)
        found = self.transformer(
            hidden_states=frames.latents,
            timestep=1000 * frames.times,
            encoder_hidden_states=condition.hidden_states,
            encoder_attention_mask=condition.attention_mask,
        )
        output = found.sample[:, :, frames.answer]
        x0_hat = output.float()
        if x_t is not None and self.prediction == "velocity":
            x0_hat = predict_x0(x_t, x0_hat, t)
        mask_logits = concept_logits = presence_logits = None
        if picture is not None and self.mask_head is not None:
            mask_logits = self.mask_head(x0_hat)
        if picture is not None and self.recognition is not None:
            assert self._tokens is not None
            by_frame = self._tokens.chunk(frames.latents.shape[2], dim=1)
            concept_logits = self.recognition(by_frame[frames.picture])
        if picture is not None and self.presence_head is not None:
            presence_logits = self.presence_head(frame_means(found.tokens))
        self._tokens = None
        return Prediction(output, x0_hat, mask_logits, concept_logits, presence_logits)
