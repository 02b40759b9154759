"""Train the small Wan VAE on clips of the seen actions, drawn as they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..world.actions import SEEN
from ..world.clips import backgrounds, draw_clips, paint
from .clock import Every, factor, graphed, steps
from .latents import FRAMES, MEAN, RESOLUTION, STD
from .optimize import Optimizer
from .vae import WanVAE, standardise


@dataclass(frozen=True)
class VAESettings:
    """`width` of the first level; `frames` a step, in the first `short` of the time as pieces of 9 frames, then as
    whole clips; `divergence` is the weight of the latents' KL divergence from a normal distribution."""

    minutes: float
    width: int = 24
    frames: int = 8 * FRAMES
    seed: int = 11
    rate: float = 6e-3
    short: float = 0.6
    divergence: float = 5e-4
    clips: int = 32768  # from which all are drawn


def loss(vae: WanVAE, x: Tensor, subject: Tensor, dtype: torch.dtype, divergence: float) -> tuple[Tensor, ...]:
    """The loss, the mean squared error and the divergence, scalars, of pixels `[batch, 3, frames, 64, 64]`, -1 to 1,
    and where they show a subject `[batch, 1, frames, 64, 64]`."""
    mean, log_variance = vae.moments(x.to(dtype, memory_format=torch.channels_last_3d))
    mean, log_variance = mean.float(), log_variance.float().clamp(-30, 20)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    error = vae.decode(z.to(dtype, memory_format=torch.channels_last_3d)).float() - x
    # The subject fills a tenth of a picture and is what matters in it.
    reconstruction = ((error.abs() + error.square()) * (1 + 4 * subject)).mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return reconstruction + divergence * kl, error.detach().square().mean(), kl.detach()


class VAETraining:
    """VAE, world and optimizer, and a step that reads nothing back from the device."""

    def __init__(self, settings: VAESettings, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae = WanVAE(settings.width).to(device)
        plain = ("gamma", "encoder.conv1.", "decoder.head.2.")
        self.optimizer = Optimizer(self.vae.named_parameters(), settings.rate, plain)
        self.clips = draw_clips(settings.clips, settings.seed * 100_000, tuple(SEEN)).to(device)
        self.poses = self.clips.poses(FRAMES)
        self.empty = backgrounds(RESOLUTION).to(device)
        self.last = torch.zeros(3, device=device)  # of the last step: loss, squared error, divergence

    def pictures(self, count: int, frames: int) -> tuple[Tensor, Tensor]:
        """Random pieces of clips, as `loss` takes them."""
        device = self.device
        rows = torch.randint(len(self.clips), (count,), device=device)
        first = torch.randint(FRAMES - frames + 1, (count, 1), device=device)
        poses = self.poses[rows[:, None], first + torch.arange(frames, device=device)]
        clips = self.clips[rows]
        pixels = paint(clips, poses, RESOLUTION)
        subject = (pixels - self.empty[clips.background][:, None]).abs().amax(2, keepdim=True) > 0.02
        return pixels.transpose(1, 2) * 2 - 1, subject.transpose(1, 2).float()

    def step(self, frames: int) -> None:
        x, subject = self.pictures(self.settings.frames // frames, frames)
        told = loss(self.vae, x, subject, self.dtype, self.settings.divergence)
        self.optimizer.step(torch.autograd.grad(told[0], self.optimizer.parameters))
        self.last.copy_(torch.stack([value.detach() for value in told]))

    @torch.no_grad()
    def standardise(self) -> Tensor:
        """Gives the latents the family's statistics, and tells their standard deviations before, `[16]`."""
        batch = self.settings.frames // FRAMES
        parts = []
        for _ in range(32):
            x, _ = self.pictures(batch, FRAMES)
            parts.append(self.vae.encode(x.to(self.dtype, memory_format=torch.channels_last_3d)).float())
        latents = torch.cat(parts).transpose(0, 1).flatten(1)
        deviation = latents.std(1)
        standardise(self.vae, latents.mean(1), deviation, MEAN.to(self.device), STD.to(self.device))
        return deviation


def train(settings: VAESettings, device: torch.device, log: Callable[..., None], graphs: bool = True) -> WanVAE:
    """The trained VAE, float32 and frozen, its latents with the family's mean and deviation per channel."""
    training = VAETraining(settings, device)
    optimizer, every, number = training.optimizer, Every(3), 0
    start = 0.0
    for frames, until in ((9, settings.short), (FRAMES, 1.0)):
        optimizer.factor.fill_(factor(number, start))
        step = graphed(partial(training.step, frames), device, log, graphs)
        for done, part in steps(settings.minutes * (until - start), device, number):
            number, share = done, start + (until - start) * part
            optimizer.factor.fill_(factor(number, share))
            step()
            if every():
                value, squared, divergence = training.last.tolist()
                psnr = -10 * math.log10(squared / 4)
                log(stage="vae", step=number, share=share, loss=value, divergence=divergence, psnr=psnr)
        start = until
        del step
    training.vae.requires_grad_(False).eval()
    log(stage="vae", steps=number + 1, deviation=training.standardise().tolist())
    return training.vae
