"""Train the tiny image autoencoder of the embedded world: 32 × 32 pixels ↔ 8 × 8 latents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...lvdm.autoencoder import Autoencoder, AutoencoderConfig, standardise
from ..model.latents import SCALE
from ..world.actions import SEEN
from ..world.clips import backgrounds, draw_clips, render
from .log import Log

CONFIG = AutoencoderConfig(channels=32, multipliers=(1, 1, 2), blocks=1, latent_channels=4)


def _pictures(batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled frames `[batch, 3, 32, 32]` in 0 to 1, and where they show a subject `[batch, 1, 32, 32]`."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        clips = draw_clips(96, seed := seed + 1, tuple(SEEN))
        frames = render(clips)
        empty = backgrounds()[clips.background][:, None]
        subject = ((frames - empty).abs().amax(2, keepdim=True) > 0.02).float()
        frames, subject = frames.flatten(0, 1), subject.flatten(0, 1)
        for rows in torch.randperm(len(frames), generator=generator).split(batch):
            if len(rows) == batch:
                yield frames[rows], subject[rows]


def train(folder: Path, steps: int, batch: int = 64, seed: int = 1, rate: float = 2e-3) -> None:
    """Write `autoencoder.safetensors` and `autoencoder.jsonl` into `folder`."""
    torch.manual_seed(seed)
    model = Autoencoder(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    log = Log(folder / "autoencoder.jsonl")
    for step, (frames, subject) in zip(range(steps), _pictures(batch, seed * 100_000), strict=False):
        x = (frames * 2 - 1).contiguous()
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = model.moments(x)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            y = model.decode(z)
        error = y.float() - x
        # The subject fills a tenth of a picture and is what matters in it.
        reconstruction = ((error.abs() + error.square()) * (1 + 4 * subject)).mean()
        mean, log_variance = mean.float(), log_variance.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = reconstruction + 2e-3 * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            psnr = -10 * math.log10(error.square().mean().item() / 4)
            log(step=step, loss=loss.item(), divergence=divergence.item(), psnr=psnr)
        if step == steps - 1:
            standardise(model, next(_pictures(1024, seed * 100_000 + 50_000))[0] * 2 - 1, 1 / SCALE)
        if step % 200 == 199 or step == steps - 1:
            weights = {key: value.contiguous() for key, value in model.state_dict().items()}
            save_file(weights, folder / "autoencoder.safetensors")
