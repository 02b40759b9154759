"""A start for the Action Prism that needs no video model and no labels: tell what changes in the reference.

Through the frozen video model the prism learns slowly: its tokens matter only once the added layers listen to them.
Here one linear layer, which is then thrown away, reads off each token how its frame of the reference differs from the
clip's mean frame. That takes a pass of the prism alone for each step.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

GRID = 8
"""Cells a side of the grid on which the change is told; fewer where the latents are smaller."""


def change(reference: Tensor) -> Tensor:
    """What differs from the clip's mean: [B, C, T, H, W] latents → [B, T, D], D values of each frame."""
    moving = reference - reference.mean(2, keepdim=True)
    size = [min(GRID, side) for side in moving.shape[-2:]]
    b, c, t = moving.shape[:3]
    pooled = F.adaptive_avg_pool2d(moving.transpose(1, 2).flatten(0, 1), size)
    return pooled.reshape(b, t, -1)


class ChangeReader(nn.Module):
    """The linear layer from action tokens to `change`, and its loss.

    Args:
        values: D of `change`.
    """

    def __init__(self, action_dim: int, values: int) -> None:
        super().__init__()
        self.read = nn.Linear(action_dim, values)

    def loss(self, tokens: Tensor, reference: Tensor) -> Tensor:
        """The share of the change [B, C, T, H, W] that tokens [B, T, action_dim] do not tell: 1 for nothing told."""
        wanted = change(reference.float())
        error = (self.read(tokens.float()) - wanted).square().mean()
        return error / wanted.square().mean().clamp(min=1e-6)
