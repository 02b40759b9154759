"""Clips of the seen actions as latents, on the device that trains or in files."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from ..world.actions import CHANNELS
from ..world.clips import Clips, render
from .latents import FRAMES, RESOLUTION, SHAPE, encode, products
from .vae import WanVAE


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
    at_once = 4 if device.type == "cpu" else 64  # more does not fit into a CPU's cache
    out = torch.empty(len(clips), *SHAPE, dtype=torch.bfloat16, device=device)
    for rows in torch.arange(len(clips)).split(at_once):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        out[part] = encode(vae, render(clips[part].to(device), RESOLUTION, FRAMES), products(device))
    return out
