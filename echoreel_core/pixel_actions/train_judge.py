"""Train the judge on real clips of all 24 actions, and on what the autoencoder makes of them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..autoencoder import load_autoencoder
from .judge import Judge
from .latents import decode, encode
from .log import Log
from .world import draw_clips, render


def spoil(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, brightness and noise such as a generated clip may have, differently strong for each clip."""
    count = len(pixels)

    def draw(high: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, 1, generator=generator) * high

    soft = F.avg_pool2d(pixels.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(pixels)
    mixed = pixels.lerp(soft, draw(1.0)) * (0.9 + draw(0.2))
    return (mixed + torch.randn(pixels.shape, generator=generator) * draw(0.06)).clamp(0, 1)


def train(folder: Path, autoencoder: Path, steps: int, batch: int = 48, seed: int = 3, rate: float = 2e-3) -> None:
    """Write `judge.safetensors` (half precision) and `judge.jsonl` into `folder`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, eyes = Judge(), load_autoencoder(load_file(autoencoder))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    log = Log(folder / "judge.jsonl")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                rate * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            )
        clips = draw_clips(batch, seed * 1_000_000 + step)
        pixels = render(clips)
        # Some as the autoencoder shows them, with latents a little off, as a sampler leaves them.
        some = batch // 12
        latents = encode(eyes, pixels[:some])
        latents = latents + 0.2 * torch.rand(some, 1, 1, 1, 1, generator=generator) * torch.randn_like(latents)
        pixels = spoil(torch.cat([decode(eyes, latents), pixels[some:]]), generator)
        with torch.autocast("cpu", torch.bfloat16):
            action, shape = model(pixels)
        loss = F.cross_entropy(action.float(), clips.action, label_smoothing=0.02)
        loss = loss + 0.5 * F.cross_entropy(shape.float(), clips.subject, label_smoothing=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            right = (action.argmax(1) == clips.action).float().mean().item()
            named = (shape.argmax(1) == clips.subject).float().mean().item()
            log(step=step, loss=loss.item(), action=right, subject=named)
        if step % 500 == 499 or step == steps - 1:
            save_file({key: value.half() for key, value in model.state_dict().items()}, folder / "judge.safetensors")
