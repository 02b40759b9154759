"""DDIM sampling with classifier-free guidance, as the released model is sampled (reference: lvdm/samplers/ddim.py)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import EchoReelError

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents [B, C, T, H, W], timesteps [B]) → predicted noise, as the latents."""


def alphas_cumprod(start: float = 0.00085, end: float = 0.012, timesteps: int = 1000) -> Tensor:
    """[timesteps] products of 1 - beta, float64; beta's square root runs linearly from start to end."""
    betas = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def ddim_timesteps(steps: int, timesteps: int = 1000) -> list[int]:
    """The visited timesteps, noisiest first: 1, 1 + c, 1 + 2c, … with c = timesteps // steps, backwards.

    Raises: EchoReelError if steps is not within 1 … timesteps.
    """
    if not 1 <= steps <= timesteps:
        raise EchoReelError(f"The number of sampling steps is {steps}: choose 1 to {timesteps}.")
    return list(range(1, timesteps, timesteps // steps))[::-1]


def guided(positive: NoisePredictor, negative: NoisePredictor, guidance: float) -> NoisePredictor:
    """eps_u + guidance · (eps_c - eps_u), each from its own conditioning and action."""

    def predict(x: Tensor, timesteps: Tensor) -> Tensor:
        unconditional = negative(x, timesteps)
        return unconditional + guidance * (positive(x, timesteps) - unconditional)

    return predict


@torch.inference_mode()
def ddim_sample(
    predict_noise: NoisePredictor,
    x: Tensor,
    steps: int,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoises x [B, C, T, H, W] from pure noise.

    The last step ends at the first entry of the schedule, not at a noise-free latent, as the reference's does.

    Args:
        eta: 0 is deterministic; 1 adds as much noise per step as DDPM, drawn from `generator`.
        progress: called with (steps done, steps).

    Returns: latents as x.
    """
    schedule = alphas_cumprod()
    visited = ddim_timesteps(steps)
    for done, timestep in enumerate(visited, start=1):
        alpha = schedule[timestep].item()
        alpha_next = schedule[visited[done]].item() if done < len(visited) else schedule[0].item()
        sigma = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)) ** 0.5
        noise = predict_noise(x, torch.full((x.shape[0],), timestep, device=x.device))
        clean = (x - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        x = alpha_next**0.5 * clean + (1 - alpha_next - sigma**2) ** 0.5 * noise
        if sigma > 0:
            x = x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        if progress is not None:
            progress(done, len(visited))
    return x
