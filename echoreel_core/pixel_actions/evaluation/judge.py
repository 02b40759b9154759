"""A small network, trained separately, that names the action and the subject of a clip. It knows all 24 actions."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..world.actions import NAMES
from ..world.sprites import SUBJECTS

WIDTH = 160  # of what is kept of a frame


class Judge(nn.Module):
    """Pixels `[batch, frames, 3, 32, 32]` in 0 to 1 → scores of the actions `[batch, 24]` and subjects `[batch, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.halve = nn.ModuleList([nn.Conv2d(3, 32, 5, 2, 2), nn.Conv2d(32, 64, 3, 2, 1), nn.Conv2d(64, 96, 3, 2, 1)])
        self.look = nn.ModuleList([nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(96, 96, 3, 1, 1)])
        self.place = nn.Linear(96 * 16, WIDTH)  # keeps where things are: 4 × 4 cells
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.follow = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 5, padding=2) for _ in range(4))
        self.action = nn.Linear(2 * WIDTH, len(NAMES))
        self.shape = nn.Sequential(nn.Linear(96, 96), nn.GELU(), nn.Linear(96, len(SUBJECTS)))  # wherever it is

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen, shapes = self.frames(pixels)
        return self.follows(seen), shapes.mean(1)

    def frames(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What each frame shows on its own: features `[batch, frames, WIDTH]` and subjects `[batch, frames, 8]`."""
        x = pixels.flatten(0, 1) * 2 - 1
        for halve, look in zip(self.halve, self.look, strict=True):
            x = F.gelu(halve(x))
            x = x + F.gelu(look(x))
        count = pixels.shape[:2]
        return F.gelu(self.place(x.flatten(1))).unflatten(0, count), self.shape(x.amax((2, 3))).unflatten(0, count)

    def follows(self, seen: Tensor) -> Tensor:
        """Features of the frames → scores of the actions."""
        for norm, layer in zip(self.norms, self.follow, strict=True):
            seen = seen + F.gelu(layer(norm(seen).transpose(1, 2))).transpose(1, 2)
        return self.action(torch.cat([seen.mean(1), seen.amax(1)], 1))


JUDGE_FILE = Path(__file__).with_name("judge.safetensors")


def load_judge(path: Path) -> Judge:
    """A trained judge, in float32 and evaluation mode."""
    judge = Judge()
    judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return judge.requires_grad_(False).eval()
