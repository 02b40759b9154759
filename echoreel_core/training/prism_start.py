"""A start for the Action Prism that needs no video model: tell what the reference does.

Through the frozen video model the prism learns slowly: its tokens matter only once the added layers listen to them.
Here linear layers, which are then thrown away, read off each token how its frame differs from the clip's mean frame
and, where that is known, where the figure's joints are. That takes a pass of the prism alone for each step.
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


def maps(keypoints: Tensor) -> Tensor:
    """Where each keypoint is, as a soft spot on a grid: [B, T, P, 2] from -1 to 1 → [B, T, P, GRID · GRID].

    To the added layers such a map is of more use than two numbers: a part of the picture can tell that it is meant.
    """
    cells = (torch.arange(GRID, device=keypoints.device) + 0.5) * (2 / GRID) - 1
    across, down = ((keypoints[..., axis, None] - cells).square() for axis in (0, 1))
    return torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * (2 / GRID) ** 2)).flatten(-2)


class MotionReader(nn.Module):
    """Linear layers from action tokens to what the reference does, and their loss.

    Args:
        reference: any reference latents [B, C, T, H, W] of the data.
    """

    def __init__(self, action_dim: int, reference: Tensor) -> None:
        super().__init__()
        self.change = nn.Linear(action_dim, change(reference).shape[-1])
        self.place = nn.Linear(action_dim, 2)
        self.pose = nn.Linear(action_dim, POINTS * 2)
        self.maps = nn.Linear(action_dim, POINTS * GRID**2)

    def loss(self, tokens: Tensor, reference: Tensor, keypoints: Tensor | None) -> Tensor:
        """The share that tokens [B, T, action_dim] do not tell: 1 for nothing told.

        Of clips whose keypoints are known it is the mean of the change, the figure and its maps; of others, the change.

        Args:
            reference: [B, C, T, H, W] latents.
            keypoints: [B, T, POINTS, 2], NaN for what is not known; None if nothing is.
        """
        tokens = tokens.float()
        untold = self._change_untold(tokens, reference.float())
        if keypoints is None:
            return untold
        known = ~keypoints.isnan().flatten(1).all(1)
        weight = known.float().mean() * 2 / 3
        return (1 - weight) * untold + weight * self._figure_untold(tokens, keypoints)

    def _change_untold(self, tokens: Tensor, reference: Tensor) -> Tensor:
        wanted = change(reference)
        error = (self.change(tokens) - wanted).square().mean()
        return error / wanted.square().mean().clamp(min=1e-6)

    def _figure_untold(self, tokens: Tensor, keypoints: Tensor) -> Tensor:
        """Of its place, its pose about that place (in one, what turns would hardly count), and, as much, its maps."""
        seen = ~keypoints.isnan().any(-1, keepdim=True)
        points = keypoints.nan_to_num() * seen
        count = seen.sum(2)
        place = points.sum(2) / count.clamp(min=1)
        pose, spots = points - place[:, :, None], maps(points)
        told = (layer(tokens).view_as(wanted) for layer, wanted in ((self.pose, pose), (self.maps, spots)))
        of_pose, of_maps = (_untold(guess, wanted, seen) for guess, wanted in zip(told, (pose, spots), strict=True))
        return (_untold(self.place(tokens), place, count > 0) + of_pose) / 4 + of_maps / 2


def _untold(told: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """The squared error of what is known [B, T, …], as a share of the variance about each value's mean."""
    known = known.expand_as(wanted).float()
    mean = (wanted * known).sum((0, 1)) / known.sum((0, 1)).clamp(min=1)
    error, variance = (((guess - wanted).square() * known).sum() for guess in (told, mean))
    return error / torch.maximum(variance, STILL * known.sum()).clamp(min=STILL)
