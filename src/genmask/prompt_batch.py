"""A batch of prompts as Qwen2.5-VL's forward takes it: token ids, labels, rotary positions, picture patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""Label of a token that the language-model loss skips."""


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts, with their pictures and perhaps their answers, padded on the right to a common length N.

    A causal model never looks to the right, so neither padding nor answer changes what a prompt's tokens
    become, and no attention mask is needed.
    """

    input_ids: Tensor
    """(B, N) int64."""
    position_ids: Tensor
    """(3, B, N) int64: time, height and width of the multimodal rotary embedding."""
    prompt_lengths: Tensor
    """(B,) int64: tokens of the prompt, template and picture included, answer excluded."""
    labels: Tensor | None = None
    """(B, N) int64: the token on answers and their end of turn, -100 elsewhere. None without answers."""
    pixel_values: Tensor | None = None
    """(patches of all pictures, 3 * temporal patch * patch * patch) float32; None without pictures."""
    image_grid_thw: Tensor | None = None
    """(pictures, 3) int64: time, rows and columns of each picture, in patches."""

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch on a device."""
        moved = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in vars(self).items()}
        return PromptBatch(**moved)

    @property
    def prompt_mask(self) -> Tensor:
        """(B, longest prompt) bool, True on tokens of the prompt."""
        columns = torch.arange(int(self.prompt_lengths.max()), device=self.prompt_lengths.device)
        return columns < self.prompt_lengths[:, None]


def rope_positions(length: int, image_at: int = 0, grid: tuple[int, int] | None = None) -> Tensor:
    """Positions of a sequence with at most one picture, (3, length): time, height, width (Qwen2-VL's M-RoPE).

    Text counts on equally in all three. The picture's tokens, `grid` rows by columns of them from index
    `image_at` on, share one time and count rows and columns; the text after it goes on from the larger of the two.
    """
    steps = torch.arange(length)
    if grid is None:
        return steps.expand(3, -1)
    rows, columns = grid
    cells = torch.stack(
        [torch.zeros(grid, dtype=torch.long), *torch.meshgrid(steps[:rows], steps[:columns], indexing="ij")]
    )
    text_after = steps[: length - image_at - rows * columns] + max(grid)
    return torch.cat(
        [steps[:image_at].expand(3, -1), image_at + cells.flatten(1), image_at + text_after.expand(3, -1)],
        dim=1,
    )


def padded(rows: list[list[int]], value: int) -> Tensor:
    """Rows of different lengths -> (rows, longest) int64, filled up on the right with `value`."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
