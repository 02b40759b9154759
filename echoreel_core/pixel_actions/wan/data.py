"""Clips of the seen actions as latents, on the device that trains or in files."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from ..world.actions import CHANNELS
from ..world.clips import Clips, render
from .latents import FRAMES, RESOLUTION, encode, products
from .vae import WanVAE

FEW_AT_ONCE = 4
"""Clips through the VAE on a CPU, whose cache more of them do not fit into."""


def parts(clips: Clips, count: int) -> list[Clips]:
    """The clips, so many at a time."""
    return [clips[start : start + count] for start in range(0, len(clips), count)]


def joined(parts: list[Clips]) -> Clips:
    """The clips of all parts."""
    return Clips(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Clips)))


def turns(clips: Clips) -> Tensor:
    """Whether the figure turns about itself, `[batch]`."""
    return clips.poses()[..., CHANNELS.index("angle")].abs().amax(1) > 0


@torch.no_grad()
def latents_of(vae: WanVAE, clips: Clips) -> Tensor:
    """Latents `[batch, 16, 9, 8, 8]` of clips, bfloat16, on the VAE's device."""
    device = next(vae.parameters()).device
    each = parts(clips, FEW_AT_ONCE if device.type == "cpu" else 64)
    made = [encode(vae, render(part.to(device), RESOLUTION, FRAMES), products(device)).bfloat16() for part in each]
    return torch.cat(made)
