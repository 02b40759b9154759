"""Train the embedded text-to-video model on the seen actions, from scratch."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from ...files import whole_file
from ...lvdm.ddim import alphas_cumprod
from ...training.optimizer import Optimizer
from ..model.base_model import BaseModel
from ..world.words import dropped
from .log import Log
from .optimize import descend
from .pairs import Pairs


def noised(latents: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents, and the weight `[batch]` that turns the noise's error into that of v: 1 + 1 / SNR.

    Motion is decided where nearly all is noise, and there a wrong motion costs next to no noise-prediction error.
    """
    alpha = alphas_cumprod().float()[timesteps]
    shape = (-1, 1, 1, 1, 1)
    return alpha.sqrt().view(shape) * latents + (1 - alpha).sqrt().view(shape) * noise, 1 / alpha


def noise_like(latents: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Noise for training, `[batch, channels, frames, height, width]`: normal, and each channel `offset` (standard
    deviation) lighter or darker all over.

    Even the noisiest timestep leaves 7 % of the signal, enough to read a background off the mean of 1,024 values. A
    model that learns to do so takes the mean of a sampler's noise for one, against the prompt; the offset hides it
    (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
    """
    noise = torch.randn(latents.shape, generator=generator)
    return noise + offset * torch.randn(*latents.shape[:2], 1, 1, 1, generator=generator)


def averaged(average: nn.Module, model: nn.Module, step: int, decay: float = 0.995) -> None:
    """Exponential moving average of the weights, shorter at the start."""
    decay = min(decay, (step + 1) / (step + 10))
    with torch.no_grad():
        for old, new in zip(average.parameters(), model.parameters(), strict=True):
            old.lerp_(new, 1 - decay)


def save(state: dict, path: Path) -> None:
    with whole_file(path) as temporary:
        torch.save(state, temporary)


def load_base(path: Path) -> BaseModel:
    """The averaged weights of a checkpoint, frozen."""
    model = BaseModel()
    model.load_state_dict(torch.load(path, weights_only=True)["average"])
    return model.requires_grad_(False).eval()


def train(
    folder: Path,
    text: Path,
    pairs: Path,
    steps: int,
    batch: int = 16,
    seed: int = 2,
    rate: float = 3e-3,
    offset: float = 0.1,
    turning: float = 3.0,
    fast: bool = True,
    until: int | None = None,
) -> None:
    """Write `base.pt` and `base.jsonl` into `folder`; goes on from `base.pt` where that exists, exactly as if
    it had never stopped. `until` stops it earlier than after all `steps`, from which the learning rate follows.

    `text` is what `pretrain_text` wrote. Text encoder and UNet are trained together. `turning`: see `Pairs.batch`.
    """
    torch.manual_seed(seed)
    model = BaseModel()
    model.text.load_state_dict(torch.load(text, weights_only=True))
    average = copy.deepcopy(model)
    optimizer = Optimizer(model.named_parameters(), "muon", rate, plain=("unet.input_blocks.0.", "unet.out."))
    start = 0
    if (path := folder / "base.pt").exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load(optimizer.checked(state["optimizer"]))
        start = state["step"]
    log, data = Log(folder / "base.jsonl"), Pairs(pairs)
    forward = torch.compile(model) if fast else model
    last = steps if until is None else min(until, steps)
    for step in range(start, last):
        factor = min(1.0, (step + 1) / 100, max(0.03, (steps - step) / (0.3 * steps)))  # level, then down
        generator = torch.Generator().manual_seed(seed * 1_000_000 + step)
        (clips, _), (latents, _) = data.batch(batch, generator, turning)
        ids = dropped(clips, generator, empty=0.1, action=0.25, words=0.1)
        # One timestep from each of `batch` equal parts of the schedule: every step sees every level of noise.
        timesteps = ((torch.arange(batch) + torch.rand(batch, generator=generator)) * (1000 / batch)).long()
        noise = noise_like(latents, offset, generator)
        x, weight = noised(latents, timesteps, noise)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = forward(x, timesteps, ids)
        error = (predicted.float() - noise).square().mean((1, 2, 3, 4)) * weight
        loss = error.mean()
        norm = descend(optimizer, loss, factor)
        averaged(average, model, step)
        if step % 10 == 0:
            low, middle, high = (part.mean().item() for part in error.detach().tensor_split(3))
            log(step=step, loss=loss.item(), norm=norm, loss_low=low, loss_middle=middle, loss_high=high)
        if step % 200 == 199 or step == last - 1:
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state()}
            save({**state, "step": step + 1}, path)
