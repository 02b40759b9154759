"""The embedded model's latents: pixels through its autoencoder, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from ...lvdm.autoencoder import Autoencoder

SCALE = 0.18215  # of Stable Diffusion's latents, which the released model takes too


@torch.inference_mode()
def encode(autoencoder: Autoencoder, pixels: Tensor) -> Tensor:
    """Pixels `[batch, frames, 3, H, W]` in 0 to 1 → scaled latents `[batch, 4, frames, H / 4, W / 4]`."""
    with torch.autocast("cpu", torch.bfloat16, enabled=pixels.device.type == "cpu"):
        latents = autoencoder.encode((pixels.flatten(0, 1) * 2 - 1).contiguous())
    return (latents.float() * SCALE).unflatten(0, pixels.shape[:2]).transpose(1, 2)


@torch.inference_mode()
def decode(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """The other way; the pixels are clamped."""
    with torch.autocast("cpu", torch.bfloat16, enabled=latents.device.type == "cpu"):
        pixels = autoencoder.decode((latents.transpose(1, 2).flatten(0, 1) / SCALE).contiguous())
    return (pixels.float() / 2 + 0.5).clamp(0, 1).unflatten(0, (latents.shape[0], latents.shape[2]))
