"""A start for the Action Prism: read motion off reference latents, before any video model is in the loop.

Learning the prism through the frozen video model alone is slow. Here its tokens, through one linear layer that is then
thrown away, have to tell the exact pose of the reference's subject in every frame: cheap, and blind to who moves where.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .world import Clips

_GRID = 8
POSE_WIDTH = _GRID * _GRID + 5


def pose_code(clips: Clips) -> Tensor:
    """The pose per frame `[batch, frames, POSE_WIDTH]`: the place as bumps on a grid, the rest as numbers about 1."""
    pose = clips.poses()
    grid = torch.linspace(-1.15, 1.15, _GRID)
    near_x, near_y = (torch.exp(-0.5 * ((value[..., None] - grid) / 0.33).square()) for value in pose[..., :2].unbind(-1))
    place = (near_y[..., :, None] * near_x[..., None, :]).flatten(2)
    width, height, angle, shear = pose[..., 2:].unbind(-1)
    return torch.cat([place, torch.stack([2 * width, 2 * height, angle.cos(), angle.sin(), 2 * shear], -1)], -1)


class PoseReader(nn.Module):
    """The linear layer from action tokens to `pose_code`, and its loss."""

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        self.read = nn.Linear(action_dim, POSE_WIDTH)

    def loss(self, tokens: Tensor, clips: Clips) -> tuple[Tensor, dict[str, float]]:
        """Squared error as a share of what is to be told, place, size, angle and shear counting alike."""
        truth = pose_code(clips)
        error = (self.read(tokens.float()) - truth).square().mean((0, 1))
        spread = truth.flatten(0, 1).var(0)
        place = error[:-5].sum() / spread[:-5].sum()
        size, angle, shear = (error[i].sum() / spread[i].sum() for i in (slice(-5, -3), slice(-3, -1), slice(-1, None)))
        parts = {"place": place.item(), "size": size.item(), "angle": angle.item(), "shear": shear.item()}
        return 2 * place + size + angle + 0.5 * shear, parts
