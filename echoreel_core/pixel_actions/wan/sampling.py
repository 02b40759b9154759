"""Sampling the second base: Euler's method on the family's shifted noise levels, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...lvdm.text_encoder import CLIPTextEncoder
from ..world.words import ids
from .latents import SHAPE
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


@torch.inference_mode()
def generate(
    model: WanModel,
    text: CLIPTextEncoder,
    captions: list[str],
    noise: Tensor,
    steps: int = 25,
    guidance: float = 2.0,
    shift: float = SHIFT,
) -> Tensor:
    """Latents `[batch, 16, 9, 8, 8]` of these prompts, from `noise`, on its device; bfloat16 products on CUDA."""
    device = noise.device
    told = text(ids(captions + [""] * len(captions)).to(device))

    def velocity(x: Tensor, level: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            both = model(x.repeat(2, 1, 1, 1, 1), level.repeat(2) * 1000, told)
        positive, negative = both.float().chunk(2)
        return negative + guidance * (positive - negative)

    return euler(velocity, noise, steps, shift)


def noise_for(count: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Noise `[count, 16, 9, 8, 8]`; each clip's depends on its own seed alone."""
    each = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
    return torch.stack(each).to(device)
