"""Pretrains the Action Prism: it reads motion from reference latents, without a video model in the loop.

Learning the prism through the frozen video model alone is slow. Here its tokens, through one linear layer that is then
thrown away, must predict the exact pose of the reference's subject in every frame. It is cheap and ignores who moves.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ..model.adapted_model import new_adapter
from ..world.actions import SEEN
from ..world.clips import Clips, draw_clips
from ..world.words import dropped
from .log import Log
from .optimize import Optimizer
from .pairs import Pairs
from .train_base import load_base

_GRID = 8
POSE_WIDTH = _GRID * _GRID + 5


def pose_code(clips: Clips) -> Tensor:
    """The pose per frame `[batch, frames, POSE_WIDTH]`: the place as bumps on a grid, the rest as numbers about 1."""
    pose = clips.poses()
    grid = torch.linspace(-1.15, 1.15, _GRID)
    near_x, near_y = (
        torch.exp(-0.5 * ((value[..., None] - grid) / 0.33).square()) for value in pose[..., :2].unbind(-1)
    )
    place = (near_y[..., :, None] * near_x[..., None, :]).flatten(2)
    width, height, angle, shear = pose[..., 2:].unbind(-1)
    return torch.cat([place, torch.stack([2 * width, 2 * height, angle.cos(), angle.sin(), 2 * shear], -1)], -1)


class PoseReader(nn.Module):
    """The linear layer from action tokens to `pose_code`, and its loss."""

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        self.read = nn.Linear(action_dim, POSE_WIDTH)
        typical = pose_code(draw_clips(4096, 0, tuple(SEEN)))
        self.register_buffer("spread", typical.flatten(0, 1).var(0), persistent=False)

    def loss(self, tokens: Tensor, clips: Clips) -> tuple[Tensor, dict[str, float]]:
        """Squared error as a share of the variance, with place, size, angle and shear weighted equally."""
        truth = pose_code(clips)
        error = (self.read(tokens.float()) - truth).square().mean((0, 1))
        spread = self.spread
        place = error[:-5].sum() / spread[:-5].sum()
        size, angle, shear = (error[i].sum() / spread[i].sum() for i in (slice(-5, -3), slice(-3, -1), slice(-1, None)))
        parts = {"place": place.item(), "size": size.item(), "angle": angle.item(), "shear": shear.item()}
        return 2 * place + size + angle + 0.5 * shear, parts


def train(
    folder: Path, base: Path, pairs: Path, steps: int, batch: int = 64, seed: int = 4, rate: float = 3e-3
) -> None:
    """Write `prism.pt` (prism and reader) and `prism.jsonl` into `folder`; `base` is the base model's checkpoint."""
    torch.manual_seed(seed)
    model = load_base(base)
    adapter = new_adapter(model)
    prism, reader = adapter.prism, PoseReader(adapter.config.prism.action_dim)
    optimizer = Optimizer(nn.ModuleDict({"prism": prism, "reader": reader}).named_parameters(), rate)
    log, data = Log(folder / "prism.jsonl"), Pairs(pairs)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        factor = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        (clips, others), (_, reference) = data.batch(batch, generator)
        with torch.no_grad():
            drop = {"empty": 0.1, "action": 0.4, "words": 0.05}
            text = torch.cat([model.text(dropped(which, generator, **drop)) for which in (clips, others)], 1)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = prism(reference, text)
        loss, parts = reader.loss(tokens, others)
        optimizer.step(loss, factor)
        if step % 20 == 0:
            log(step=step, loss=loss.item(), **parts)
        if step % 200 == 199 or step == steps - 1:
            torch.save({"prism": prism.state_dict(), "reader": reader.state_dict()}, folder / "prism.pt")
