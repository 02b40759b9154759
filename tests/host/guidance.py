"""Sampling runs for the tests of guidance: tiny families through the host's guider, and a VAE of known latents."""

from __future__ import annotations

import copy
from typing import Any

import comfy.nested_tensor
import comfy.samplers
import comfy.utils
import torch
from tiny_families import Tiny


class KnownLatents:
    """A VAE as far as encoding goes: latents of the size asked for, the same for the same frames.

    What stands still in the frames does in the latents. `encoded` counts how often it was asked.
    """

    def __init__(self, channels: int, factor: int = 8, per_latent: int | None = 4) -> None:
        self.channels, self.factor, self.per_latent = channels, factor, per_latent
        self.encoded = 0

    def spacial_compression_encode(self) -> int:
        return self.factor

    def temporal_compression_decode(self) -> int | None:
        return self.per_latent

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        self.encoded += 1
        small = torch.nn.functional.avg_pool2d(frames.movedim(-1, 1), self.factor)[:: self.per_latent or 1]
        mix = torch.randn(self.channels, 3, generator=torch.Generator().manual_seed(5))
        latents = torch.einsum("kc,tchw->tkhw", mix, small * 4 - 2)
        return latents if self.per_latent is None else latents.movedim(0, 1)[None]


class TinyGuider(comfy.samplers.CFGGuider):
    """The host's guider, with the inputs of a tiny model in place of encoded prompts."""

    def __init__(self, tiny: Tiny, model: Any) -> None:
        super().__init__(model)
        self.tiny = tiny

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        options = {**model_options["transformer_options"], **copy.deepcopy(self.tiny.options)}
        options |= {"cond_or_uncond": [1, 0] if x.shape[0] > 1 else [0], "sigmas": timestep}
        conds = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in self.tiny.conds.items()}
        return self.inner_model.apply_model(x, timestep.expand(x.shape[0]), transformer_options=options, **conds)

    def run(self, sampler: str = "euler", steps: int = 4, seed: int = 0) -> torch.Tensor:
        """The denoised latents of the video."""
        shapes = self.tiny.conds.get("latent_shapes")
        noise = torch.randn(self.tiny.x.shape, generator=torch.Generator().manual_seed(seed))
        if shapes is not None:
            noise = comfy.nested_tensor.NestedTensor(comfy.utils.unpack_latents(noise, shapes))
        sigmas = comfy.samplers.calculate_sigmas(self.model_patcher.get_model_object("model_sampling"), "simple", steps)
        empty = noise * 0 if shapes is None else comfy.nested_tensor.NestedTensor([t * 0 for t in noise.unbind()])
        sampler = comfy.samplers.sampler_object(sampler)
        made = self.sample(noise, empty, sampler, sigmas, disable_pbar=True, seed=seed)
        return list(made.unbind()) if shapes is not None else [made]


def passing_square(frames: int = 9, size: tuple[int, int] = (64, 48)) -> torch.Tensor:
    """[frames, H, W, 3]: a bright square goes from left to right over a dark picture."""
    clip = torch.full((frames, *size, 3), 0.2)
    for i in range(frames):
        left = round((size[1] - 16) * i / (frames - 1))
        clip[i, 24:40, left : left + 16] = torch.tensor([0.9, 0.8, 0.4])
    return clip
