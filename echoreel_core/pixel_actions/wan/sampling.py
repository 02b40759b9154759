"""Sampling the second base: Euler's method on the family's shifted noise levels, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .latents import products
from .model import WanModel
from .train_base import SHIFT, shifted

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents [B, 16, T, H, W], noise levels [B] from 0 to 1) → noise minus clean latents, as the latents."""


@torch.inference_mode()
def euler(velocity: Velocity, noise: Tensor, steps: int, shift: float = SHIFT) -> Tensor:
    """Latents from noise, as a host's sampler "euler" with the scheduler "simple" makes them."""
    levels = shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()
    x = noise
    for level, following in zip(levels, levels[1:], strict=False):
        x = x + (following - level) * velocity(x, torch.full((len(x),), level, device=x.device))
    return x


def velocity_of(model: WanModel, text: Tensor, guidance: float) -> Velocity:
    """What the model predicts under classifier-free guidance, its products in bfloat16 wherever that is quick.

    Args:
        text: tokens `[2 · B, 77, text_width]` of B prompts and of as many empty ones.
    """

    def velocity(x: Tensor, level: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=products(x.device) == torch.bfloat16):
            both = model(x.repeat(2, 1, 1, 1, 1), level.repeat(2) * 1000, text)
        positive, negative = both.float().chunk(2)
        return negative + guidance * (positive - negative)

    return velocity
