"""The second base, as the table asks for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ...action.adapter import EchoReelAdapter
from ...lvdm.text_encoder import CLIPTextEncoder
from ..evaluation.guidance import Guidance
from ..evaluation.pipeline import Reference
from ..world.clips import Clips, render
from ..world.words import ids
from .adapter import attached
from .data import FEW_AT_ONCE, parts
from .latents import FRAMES, RESOLUTION, SHAPE, decode, encode, products, seen, seen_frames
from .model import WanModel
from .sampling import euler, velocity_of
from .train_base import SHIFT, unshifted
from .vae import WanVAE


class WanPipeline:
    """A `Pipeline`, on the VAE's device; what it shows is on the CPU.

    Args:
        adapter: None where only the base is asked for.
        steps, guidance, shift: of sampling.
    """

    best_guidance = Guidance(strength=1.5, end=0.2)
    guided_at_once = 25

    def __init__(
        self,
        model: WanModel,
        text: CLIPTextEncoder,
        vae: WanVAE,
        adapter: EchoReelAdapter | None = None,
        steps: int = 25,
        guidance: float = 3.0,
        shift: float = SHIFT,
    ) -> None:
        self.model, self.text, self.vae, self.adapter = model, text, vae, adapter
        self.steps, self.guidance, self.shift = steps, guidance, shift
        self.device = next(vae.parameters()).device
        self._untouched = model if adapter is None else copy.deepcopy(model)

    def pixels(self, clips: Clips) -> Tensor:
        """See `Pipeline`."""
        return torch.cat([render(part, RESOLUTION, FRAMES) for part in parts(clips, FEW_AT_ONCE)])

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """See `Pipeline`."""
        each = pixels.split(self._at_once)
        return torch.cat([encode(self.vae, part.to(self.device), products(self.device)) for part in each])

    @torch.inference_mode()
    def show(self, latents: Tensor) -> Tensor:
        """See `Pipeline`."""
        each = latents.split(self._at_once)
        return torch.cat([seen(decode(self.vae, part, products(self.device))).cpu() for part in each])

    def truth(self, clips: Clips) -> Tensor:
        """See `Pipeline`."""
        return seen_frames(clips.track(FRAMES))

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """See `Pipeline`."""
        each = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(each).to(self.device)

    @torch.inference_mode()
    def base(self, captions: list[str], noise: Tensor) -> Tensor:
        """See `Pipeline`."""
        velocity = velocity_of(self._untouched, self._told(captions), self.guidance)
        return euler(velocity, noise, self.steps, self.shift)

    @torch.inference_mode()
    def generate(self, captions: list[str], noise: Tensor, *references: Reference) -> Tensor:
        """See `Pipeline`."""
        told, tokens = self._told(captions), []
        for latents, lines in references:
            caption = self.text(ids(lines).to(self.device)).repeat(2, 1, 1)
            tokens.append(self.adapter.prism(latents.float().repeat(2, 1, 1, 1, 1), torch.cat([told, caption], 1)))
        with attached(self.model, self.adapter, tokens) if tokens else nullcontext():
            return euler(velocity_of(self.model, told, self.guidance), noise, self.steps, self.shift)

    @torch.inference_mode()
    def guided(self, captions: list[str], noise: Tensor, reference: Tensor, setting: Guidance) -> Tensor:
        """See `Pipeline`."""
        velocity = velocity_of(self._untouched, self._told(captions), self.guidance)
        course = setting.course(
            reference, place=lambda level: 1 - unshifted(level, self.shift), deviation=lambda level: 1.0
        )

        def moved(x: Tensor, level: Tensor) -> Tensor:
            now = level[0].item()
            x = course.moved(x, now)
            found = velocity(x, level)
            course.observe(x - now * found, now)
            return found if course.noise is None else found - course.noise

        return euler(moved, noise, self.steps, self.shift)

    @property
    def _at_once(self) -> int:
        return FEW_AT_ONCE if self.device.type == "cpu" else 50

    def _told(self, captions: list[str]) -> Tensor:
        return self.text(ids(captions + [""] * len(captions)).to(self.device))
