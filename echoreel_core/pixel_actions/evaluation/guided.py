"""The base model alone, guided by a clip: what motion without an adapter does in this world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...guide.course import Course, Fade
from ...guide.gradient import MotionLoss, moving_region
from ...lvdm.ddim import alphas_cumprod, ddim_sample
from ..model.base_model import BaseModel
from ..world.words import ids


@dataclass(frozen=True)
class Guidance:
    """One setting.

    Attributes:
        strength: how far each latent value moves in all, at a deviation of 1.
        end: where in the schedule it has faded out.
        keeps_mean: whether what does not change over time is followed as well.
        moving_only: whether only places at which the reference moves are guided.
        place, change: weights of the loss.
    """

    strength: float = 1.6
    end: float = 0.33
    keeps_mean: bool = False
    moving_only: bool = True
    place: float = 20.0
    change: float = 5.0


@torch.inference_mode()
def generate_guided(
    base: BaseModel,
    captions: list[str],
    noise: Tensor,
    reference: Tensor,
    setting: Guidance,
    steps: int = 25,
    guidance: float = 2.0,
) -> Tensor:
    """Latents as `noise` [batch, 4, frames, 8, 8], by DDIM, following the reference's latents of that shape."""
    text = base.text(ids([*captions, *[""] * len(captions)]).to(noise.device))
    alphas = alphas_cumprod()
    sigmas = ((1 - alphas) / alphas).sqrt()
    course = Course(
        reference,
        MotionLoss(setting.place, setting.change, keeps_mean=setting.keeps_mean),
        setting.strength,
        Fade(0.0, setting.end),
        place=lambda sigma: 1 - int((sigmas - sigma).abs().argmin()) / (len(sigmas) - 1),
        deviation=lambda sigma: (1 + sigma**2) ** 0.5,
        region=moving_region(reference) if setting.moving_only else None,
    )

    def predict(x: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = alphas[timesteps[0].item()].item(), sigmas[timesteps[0].item()].item()
        x = course.moved(x / alpha**0.5, sigma) * alpha**0.5
        positive, negative = base.unet(x.repeat(2, 1, 1, 1, 1), timesteps.repeat(2), text).chunk(2)
        found = negative + guidance * (positive - negative)
        course.observe((x - (1 - alpha) ** 0.5 * found) / alpha**0.5, sigma)
        return found if course.noise is None else found - course.noise

    latents = ddim_sample(predict, noise, steps)
    rest = course.rest(sigmas[0].item())
    return latents if rest is None else latents + rest * alphas[0].item() ** 0.5
