"""What a transformer is trained on, and how: the numbers and choices of a run on masks and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

from genmask.pipeline import PREDICTIONS
from genmask.timesteps import LogitNormal, PowerLaw, TimestepDensity
from genmask.training.new_transformer import TransformerShape

PRECISIONS = ("float32", "bf16", "int8")
SUPERVISIONS = ("mse", "bce-pixels", "bce-linear")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What a transformer is trained on, and how."""

    shape: TransformerShape | None = None
    """None: the shape, and the weights, of the model that the run starts from."""
    resolution: int = 512
    """Pictures have about this side, squared, in pixels."""
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    """(height, width) of the pictures of a step, in turn; sides are multiples of 16."""
    segmentation_sources: tuple[tuple[str, float], ...] = ()
    """Shares of the samples by source; a source that is not given leaves its share to the others."""
    generation_sources: tuple[tuple[str, float], ...] = ()
    segmentation_batch: int = 512
    """Masks per step, in all processes and micro-batches together."""
    generation_batch: int = 512
    """Pictures per step to be drawn from their captions; 0 for no generation data (Table 5)."""
    segmentation_density: TimestepDensity = field(default_factory=PowerLaw)
    generation_density: TimestepDensity = field(default_factory=LogitNormal)
    supervision: str = "mse"
    """"mse", "bce-pixels" or "bce-linear" (Table 4)."""
    prediction: str = "velocity"
    """What the transformer's output means: "velocity"; "x0", the target itself; or "mask": no diffusion, the picture is
    the only frame, and its output goes through the linear mask head."""
    noise: bool = True
    """Whether masks start from noise; False: from zeros, in training and inference. Pictures always have noise."""
    shortcut: bool = True
    """Whether the picture's latents are a frame of the input (Table 6); without it the VLM alone sees the picture."""
    picture_first: bool = True
    """Whether they are the first frame, or the second."""
    condition_dropout: float = 0.1
    """Share of captions left empty, for guidance."""
    recognition_weight: float = 0.0
    """Weight of telling what each patch of the picture shows: for a transformer that has not been pretrained."""
    recognition_block: int = 4
    """The block from whose output it is told."""
    presence_weight: float = 0.0
    """Weight of telling whether the target is there at all, from the last block's output: trains the presence head."""
    epoch_steps: int = 0
    """Steps after which the same samples come again, with other noise; 0 for samples without end."""
    lora_rank: int = 0
    """Train adapters of this rank in place of the weights; they are merged into the result."""
    vlm_precision: str = "bf16"
    """"float32", "bf16" or "int8": of the frozen VLM's weights."""
    vlm_max_pixels: int | None = None
    """Scale pictures down to so many pixels for the VLM, in training and inference; None: as the model does that the
    run starts from."""
    offload: bool = False
    """Keep the VLM on the CPU but for the moment in which a step's prompts are encoded."""
    gradient_checkpointing: bool = False
    """Compute every block's forward twice, and keep only its input in memory."""
    compile: bool = False
    """Compile the transformer's blocks: a minute or two at the start, a quarter off each step."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.supervision not in SUPERVISIONS:
            raise ValueError(
                f"Got supervision {self.supervision!r}, expected one of {', '.join(SUPERVISIONS)}."
            )
        if self.vlm_precision not in PRECISIONS:
            raise ValueError(
                f"Got vlm_precision {self.vlm_precision!r}, expected one of {', '.join(PRECISIONS)}."
            )
        needs_picture = self.supervision == "bce-linear" or self.recognition_weight or self.presence_weight
        if not self.shortcut and needs_picture:
            raise ValueError(
                "Got no shortcut with a head that needs one: take supervision 'mse' or 'bce-pixels', and "
                "recognition_weight 0 and presence_weight 0."
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"Got prediction {self.prediction!r}, expected one of {', '.join(PREDICTIONS)}.")
        if not self.shortcut and not self.picture_first:
            raise ValueError(
                "Got picture_first=False without a shortcut, whose frame it places: leave it True."
            )
        if not self.noise and self.segmentation_density != PowerLaw(0.0):
            raise ValueError(
                f"Got noise=False with segmentation_density {self.segmentation_density}, where x_t = (1 - t) x0 shows "
                "the answer: take PowerLaw(0.0), which is t = 1 always."
            )
        if self.prediction == "mask":
            self._check_discriminative()

    def _check_discriminative(self) -> None:
        """Without diffusion there is one loss, one task and one frame."""
        wanted = {
            "supervision": "bce-linear", "generation_batch": 0, "shortcut": True, "picture_first": True, "noise": True,
        }  # fmt: skip
        for name, value in wanted.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"Got prediction 'mask', without diffusion, with {name}={getattr(self, name)!r}: take {value!r}."
                )

    @property
    def segmentation_frames(self) -> int:
        """Frames that the transformer sees: the picture and the noised mask, or one of them."""
        return 2 if self.shortcut and self.prediction != "mask" else 1
