"""The embedded model, as the table asks for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ...lvdm.autoencoder import Autoencoder
from ...lvdm.ddim import alphas_cumprod, ddim_sample, ddim_timesteps
from ..model.adapted_model import AdaptedModel, generate, noise_for
from ..model.base_model import BaseModel
from ..model.latents import decode, encode
from ..world.clips import Clips, render
from ..world.words import ids
from .guidance import Guidance
from .pipeline import Reference


class LVDMPipeline:
    """A `Pipeline`.

    Args:
        steps, guidance: of DDIM sampling.
    """

    best_guidance = Guidance()  # none that costs more did better
    guided_at_once = 4  # a CPU takes a third of the time for each clip that it takes in the batches of the other arms

    def __init__(self, model: AdaptedModel, autoencoder: Autoencoder, steps: int = 25, guidance: float = 2.0) -> None:
        self.model, self.autoencoder = model, autoencoder
        self.sampling = {"steps": steps, "guidance": guidance}
        self._untouched = AdaptedModel(copy.deepcopy(model.base), model.adapter)

    def pixels(self, clips: Clips) -> Tensor:
        """See `Pipeline`."""
        return render(clips)

    def encode(self, pixels: Tensor) -> Tensor:
        """See `Pipeline`."""
        return encode(self.autoencoder, pixels)

    def show(self, latents: Tensor) -> Tensor:
        """See `Pipeline`."""
        return decode(self.autoencoder, latents)

    def truth(self, clips: Clips) -> Tensor:
        """See `Pipeline`."""
        return clips.track()

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """See `Pipeline`."""
        return torch.cat([noise_for(1, seed) for seed in seeds])

    def base(self, captions: list[str], noise: Tensor) -> Tensor:
        """See `Pipeline`."""
        return generate(self._untouched, captions, noise, **self.sampling)

    def generate(self, captions: list[str], noise: Tensor, *references: Reference) -> Tensor:
        """See `Pipeline`."""
        return generate(self.model, captions, noise, *references, **self.sampling)

    def guided(self, captions: list[str], noise: Tensor, reference: Tensor, setting: Guidance) -> Tensor:
        """See `Pipeline`."""
        return generate_guided(self.model.base, captions, noise, reference, setting, **self.sampling)


@torch.inference_mode()
def generate_guided(
    base: BaseModel,
    captions: list[str],
    noise: Tensor,
    reference: Tensor,
    setting: Guidance,
    steps: int = 25,
    guidance: float = 2.0,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Latents as `noise` [batch, 4, frames, 8, 8], by DDIM, following the reference's latents of that shape.

    `dtype` is that of the products, as for the trained arms.
    """
    text = base.text(ids([*captions, *[""] * len(captions)]).to(noise.device))
    alphas = alphas_cumprod()
    sigmas = ((1 - alphas) / alphas).sqrt()
    first = ddim_timesteps(steps)[0]
    course = setting.course(
        reference,
        place=lambda sigma: 1 - int((sigmas - sigma).abs().argmin()) / first,
        deviation=lambda sigma: (1 + sigma**2) ** 0.5,
    )

    def predict(x: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = alphas[timesteps[0].item()].item(), sigmas[timesteps[0].item()].item()
        x = course.moved(x / alpha**0.5, sigma) * alpha**0.5
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            both = base.unet(x.repeat(2, 1, 1, 1, 1), timesteps.repeat(2), text)
        positive, negative = both.float().chunk(2)
        found = negative + guidance * (positive - negative)
        course.observe((x - (1 - alpha) ** 0.5 * found) / alpha**0.5, sigma)
        return found if course.noise is None else found - course.noise

    latents = ddim_sample(predict, noise, steps)
    rest = course.rest(sigmas[0].item())
    return latents if rest is None else latents + rest * alphas[0].item() ** 0.5
