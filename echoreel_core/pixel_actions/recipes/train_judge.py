"""Train the judge on real clips of all 24 actions, and on what the autoencoder makes of them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...lvdm.autoencoder import load_autoencoder
from ..evaluation.judge import WIDTH, Judge
from ..model.latents import decode, encode
from ..world.clips import draw_clips, render
from .log import Log
from .optimize import Optimizer
from .pretrain_prism import PoseReader


def corrupt(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, brightness and noise such as a generated clip may have, differently strong for each clip."""
    count = len(pixels)

    def draw(high: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, 1, generator=generator) * high

    soft = F.avg_pool2d(pixels.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(pixels)
    mixed = pixels.lerp(soft, draw(1.0)) * (0.9 + draw(0.2))
    return (mixed + torch.randn(pixels.shape, generator=generator) * draw(0.06)).clamp(0, 1)


def train(folder: Path, autoencoder: Path, steps: int, batch: int = 48, seed: int = 3, rate: float = 3e-3) -> None:
    """Write `judge.safetensors` (half precision) and `judge.jsonl` into `folder`.

    Every frame's features must also predict the subject's exact pose, through a linear layer that is then thrown away:
    telling rocking from spinning starts with seeing an angle.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, reader, eyes = Judge(), PoseReader(WIDTH), load_autoencoder(load_file(autoencoder))
    plain = ("halve.0.", "model.action.", "shape.2.", "reader.")
    optimizer = Optimizer(nn.ModuleDict({"model": model, "reader": reader}).named_parameters(), rate, plain)
    log = Log(folder / "judge.jsonl")
    for step in range(steps):
        factor = min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        clips = draw_clips(batch, seed * 1_000_000 + step)
        pixels = render(clips)
        # Some as the autoencoder shows them, with latents a little off, as a sampler leaves them.
        some = batch // 12
        latents = encode(eyes, pixels[:some])
        latents = latents + 0.2 * torch.rand(some, 1, 1, 1, 1, generator=generator) * torch.randn_like(latents)
        pixels = corrupt(torch.cat([decode(eyes, latents), pixels[some:]]), generator)
        with torch.autocast("cpu", torch.bfloat16):
            seen, shapes = model.frames(pixels)
            action, shape = model.follows(seen), shapes.mean(1)
        named = F.cross_entropy(action.float(), clips.action, label_smoothing=0.02)
        named = named + 0.5 * F.cross_entropy(shape.float(), clips.subject, label_smoothing=0.02)
        told, parts = reader.loss(seen, clips)
        optimizer.step(named + 0.3 * told, factor)
        if step % 20 == 0 or step == steps - 1:
            right = (action.argmax(1) == clips.action).float().mean().item()
            known = (shape.argmax(1) == clips.subject).float().mean().item()
            log(step=step, loss=named.item(), action=right, subject=known, **parts)
        if step % 500 == 499 or step == steps - 1:
            save_file({key: value.half() for key, value in model.state_dict().items()}, folder / "judge.safetensors")
