"""A start for the Action Prism that needs no video model: tell what the reference does.

Through the frozen video model the prism learns slowly: its tokens matter only once the added layers listen to them.
Here one linear layer, which is then thrown away, reads off each token where the figure's joints are, where that is
known, and otherwise how the frame differs from the clip's mean frame. That takes a pass of the prism alone for each
step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..video.keypoints import POINTS

GRID = 8
"""Cells a side of the grid on which the change is told; fewer where the latents are smaller."""

STILL = 0.01
"""Variance of keypoints that is taken for the least: figures that hardly move have little to tell."""


def change(reference: Tensor) -> Tensor:
    """What differs from the clip's mean: [B, C, T, H, W] latents → [B, T, D], D values of each frame."""
    moving = reference - reference.mean(2, keepdim=True)
    size = [min(GRID, side) for side in moving.shape[-2:]]
    b, c, t = moving.shape[:3]
    pooled = F.adaptive_avg_pool2d(moving.transpose(1, 2).flatten(0, 1), size)
    return pooled.reshape(b, t, -1)


class MotionReader(nn.Module):
    """The linear layer from action tokens to what the reference does, and its loss.

    Args:
        reference: any reference latents [B, C, T, H, W] of the data.
    """

    def __init__(self, action_dim: int, reference: Tensor) -> None:
        super().__init__()
        self.change = nn.Linear(action_dim, change(reference).shape[-1])
        self.place = nn.Linear(action_dim, 2)
        self.pose = nn.Linear(action_dim, 2 * POINTS)

    def loss(self, tokens: Tensor, reference: Tensor, keypoints: Tensor | None) -> Tensor:
        """The share that tokens [B, T, action_dim] do not tell: 1 for nothing told.

        Args:
            reference: [B, C, T, H, W] latents.
            keypoints: [B, T, POINTS, 2], NaN for what is not known; None if nothing is.
        """
        tokens, reference = tokens.float(), reference.float()
        if keypoints is None:
            return self._change_untold(tokens, reference)
        known = ~keypoints.isnan().flatten(1).all(1)
        share = known.float().mean()
        untold = tokens.new_zeros(())
        if known.any():
            untold = untold + share * self._figure_untold(tokens[known], keypoints[known])
        if not known.all():
            untold = untold + (1 - share) * self._change_untold(tokens[~known], reference[~known])
        return untold

    def _change_untold(self, tokens: Tensor, reference: Tensor) -> Tensor:
        wanted = change(reference)
        error = (self.change(tokens) - wanted).square().mean()
        return error / wanted.square().mean().clamp(min=1e-6)

    def _figure_untold(self, tokens: Tensor, keypoints: Tensor) -> Tensor:
        """Half of the figure's place, half of its pose about it: in one, what turns would hardly count."""
        seen = ~keypoints.isnan().any(-1, keepdim=True)
        points = keypoints.nan_to_num() * seen
        count = seen.sum(2)
        place = points.sum(2) / count.clamp(min=1)
        pose = points - place[:, :, None]
        told = self.pose(tokens).view_as(pose)
        return (_untold(self.place(tokens), place, count > 0) + _untold(told, pose, seen)) / 2


def _untold(told: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """The squared error of what is known [B, T, …, 2], as a share of the variance about each value's mean."""
    known = known.expand_as(wanted).float()
    mean = (wanted * known).sum((0, 1)) / known.sum((0, 1)).clamp(min=1)
    error, variance = (((guess - wanted).square() * known).sum() for guess in (told, mean))
    return error / torch.maximum(variance, STILL * known.sum()).clamp(min=STILL)
