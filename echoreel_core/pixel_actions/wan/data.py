"""Clips of the seen actions as latents on the device that trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from ..world.actions import CHANNELS, SEEN
from ..world.clips import Clips, draw_clips, render
from .latents import FRAMES, RESOLUTION, SHAPE, encode
from .vae import WanVAE

CHUNK = 1024
_SEED = 31_000  # of the first chunk; each next one has the next


def joined(parts: list[Clips]) -> Clips:
    """The clips of all parts."""
    return Clips(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Clips)))


def turns(clips: Clips) -> Tensor:
    """Whether the figure turns about itself, `[batch]`."""
    return clips.poses()[..., CHANNELS.index("angle")].abs().amax(1) > 0


@torch.no_grad()
def latents_of(vae: WanVAE, clips: Clips, at_once: int = 64) -> Tensor:
    """Latents `[batch, 16, 9, 8, 8]` of clips, in half precision, on the VAE's device."""
    device = next(vae.parameters()).device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    out = torch.empty(len(clips), *SHAPE, dtype=torch.float16, device=device)
    for rows in torch.arange(len(clips)).split(at_once):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        out[part] = encode(vae, render(clips[part].to(device), RESOLUTION, FRAMES), dtype)
    return out


def make(
    vae: WanVAE, minutes: float, least: int, most: int, log: Callable[..., None], chunk: int = CHUNK
) -> tuple[Clips, Tensor]:
    """Clips of the seen actions, on the CPU, and their latents, on the VAE's device.

    Chunks of `chunk` clips each, as many as fit into the minutes but at least `least` and at most `most`. Chunk by
    chunk the clips are those of the seeds from 31,000 on, so their number tells all that they are.
    """
    start, clips, latents = time.monotonic(), [], []
    while len(clips) < least or (len(clips) < most and time.monotonic() - start < 60 * minutes):
        clips.append(draw_clips(chunk, _SEED + len(clips), tuple(SEEN)))
        latents.append(latents_of(vae, clips[-1]))
        if latents[-1].device.type == "cuda":
            torch.cuda.synchronize()
    log(stage="latents", chunks=len(clips), chunk=chunk, seconds=time.monotonic() - start)
    return joined(clips), torch.cat(latents)
