"""Train the judge on real clips of all 24 actions, and on what the autoencoder makes of them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...lvdm.autoencoder import load_autoencoder
from ...training.optimizer import Optimizer
from ..evaluation.judge import WIDTH, Judge
from ..model.latents import decode, encode
from ..world.actions import SEEN
from ..world.clips import Clips, draw_clips, render
from .log import Log
from .optimize import descend

_GRID = 8


def corrupt(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, brightness and noise such as a generated clip may have, differently strong for each clip."""
    count = len(pixels)

    def draw(high: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, 1, generator=generator) * high

    soft = F.avg_pool2d(pixels.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(pixels)
    mixed = pixels.lerp(soft, draw(1.0)) * (0.9 + draw(0.2))
    return (mixed + torch.randn(pixels.shape, generator=generator) * draw(0.06)).clamp(0, 1)


def pose_code(clips: Clips) -> Tensor:
    """The pose in each frame `[batch, frames, 69]`: the place as soft spots on a grid, the rest as numbers about 1."""
    pose = clips.poses()
    grid = torch.linspace(-1.15, 1.15, _GRID)
    across, down = (torch.exp(-0.5 * ((value[..., None] - grid) / 0.33).square()) for value in pose[..., :2].unbind(-1))
    width, height, angle, shear = pose[..., 2:].unbind(-1)
    numbers = torch.stack([2 * width, 2 * height, angle.cos(), angle.sin(), 2 * shear], -1)
    return torch.cat([(down[..., :, None] * across[..., None, :]).flatten(2), numbers], -1)


class PoseReader(nn.Module):
    """A linear layer from a frame's features to `pose_code`, and its loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        typical = pose_code(draw_clips(4096, 0, tuple(SEEN)))
        self.read = nn.Linear(width, typical.shape[-1])
        self.register_buffer("spread", typical.flatten(0, 1).var(0), persistent=False)

    def loss(self, features: Tensor, clips: Clips) -> tuple[Tensor, dict[str, float]]:
        """What features `[batch, frames, width]` do not tell, of place (twice), size, angle and shear (half); and the
        shares themselves."""
        error = (self.read(features.float()) - pose_code(clips)).square().mean((0, 1))
        parts = (_GRID**2, 2, 2, 1)
        place, size, angle, shear = (
            one.sum() / spread.sum() for one, spread in zip(error.split(parts), self.spread.split(parts), strict=True)
        )
        told = {"place": place.item(), "size": size.item(), "angle": angle.item(), "shear": shear.item()}
        return 2 * place + size + angle + 0.5 * shear, told


def train(folder: Path, autoencoder: Path, steps: int, batch: int = 48, seed: int = 3, rate: float = 3e-3) -> None:
    """Write `judge.safetensors` (half precision) and `judge.jsonl` into `folder`.

    Every frame's features must also predict the subject's exact pose, through a linear layer that is then thrown away:
    telling rocking from spinning starts with seeing an angle.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, reader, eyes = Judge(), PoseReader(WIDTH), load_autoencoder(load_file(autoencoder))
    plain = ("halve.0.", "model.action.", "shape.2.", "reader.")
    trained = nn.ModuleDict({"model": model, "reader": reader}).named_parameters()
    optimizer = Optimizer(trained, "muon", rate, plain=plain)
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
        descend(optimizer, named + 0.3 * told, factor)
        if step % 20 == 0 or step == steps - 1:
            right = (action.argmax(1) == clips.action).float().mean().item()
            known = (shape.argmax(1) == clips.subject).float().mean().item()
            log(step=step, loss=named.item(), action=right, subject=known, **parts)
        if step % 500 == 499 or step == steps - 1:
            save_file({key: value.half() for key, value in model.state_dict().items()}, folder / "judge.safetensors")
