"""A small network that names the action and the subject of a clip. It knows all 24 actions, and is trained apart."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .actions import NAMES
from .sprites import SUBJECTS


class Judge(nn.Module):
    """Pixels `[batch, frames, 3, 32, 32]` in 0 to 1 → scores of the actions `[batch, 24]` and subjects `[batch, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.ModuleList([nn.Conv2d(3, 24, 5, 2, 2), nn.Conv2d(24, 48, 3, 2, 1), nn.Conv2d(48, 64, 3, 2, 1)])
        self.place = nn.Linear(64 * 16, 112)  # keeps where things are: 4 × 4 cells
        self.follow = nn.ModuleList(nn.Conv1d(112, 112, 5, padding=2) for _ in range(4))
        self.action = nn.Linear(2 * 112, len(NAMES))
        self.shape = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, len(SUBJECTS)))  # wherever it is

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels.flatten(0, 1) * 2 - 1
        for layer in self.look:
            x = F.gelu(layer(x))
        shape = self.shape(x.amax((2, 3))).unflatten(0, pixels.shape[:2])
        frames = F.gelu(self.place(x.flatten(1))).unflatten(0, pixels.shape[:2])
        x = frames.transpose(1, 2)
        for layer in self.follow:
            x = x + F.gelu(layer(x))
        return self.action(torch.cat([x.mean(2), x.amax(2)], 1)), shape.mean(1)


def load_judge(path: Path) -> Judge:
    """A trained judge, in float32 and evaluation mode."""
    judge = Judge()
    judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return judge.requires_grad_(False).eval()
