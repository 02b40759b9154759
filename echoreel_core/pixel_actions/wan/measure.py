"""What the second base does by itself: action, path and looks of what it makes, by the judge and the tracker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...action.adapter import EchoReelAdapter
from ...lvdm.text_encoder import CLIPTextEncoder
from ..evaluation.judge import Judge
from ..evaluation.table import MEASURES, balanced, interval, measure
from ..world.actions import NAMES, SEEN, UNSEEN
from ..world.clips import Clips, render, with_other_subject
from .adapter import generate as generate_following
from .data import latents_of
from .latents import FRAMES, RESOLUTION, decode, products, seen, seen_frames
from .model import WanModel
from .sampling import generate, noise_for
from .train_base import SHIFT
from .vae import WanVAE

_SEED = 700_000  # far from every seed that training draws from, and the first base's
_AT_ONCE = 50


def shown(vae: WanVAE, latents: Tensor) -> Tensor:
    """Latents as judge and tracker look at them: `[batch, 16, 3, 32, 32]`."""
    dtype, at_once = products(latents.device), 4 if latents.device.type == "cpu" else _AT_ONCE
    return torch.cat([seen(decode(vae, part, dtype)) for part in latents.split(at_once)])


def cell(pixels: Tensor, clips: Clips, judge: Judge) -> dict[str, list[float] | int]:
    """Each measure's mean and interval, by what `shown` gives of the clips or of what was made in their place."""
    others = with_other_subject(clips, _SEED + 1).to(pixels.device)
    clips = clips.to(pixels.device)
    found = measure(pixels, clips, others, judge, seen_frames(clips.track(FRAMES)))
    return {**{name: interval(found[name].cpu()) for name in MEASURES}, "clips": len(clips)}


@torch.inference_mode()
def real(vae: WanVAE, judge: Judge, count: int, log: Callable[..., None]) -> dict[str, dict]:
    """What judge and tracker reach at best: on true clips of all 24 actions, as they are and through the VAE."""
    device = next(vae.parameters()).device
    clips = balanced(NAMES, count, _SEED)
    drawn = torch.cat([seen(render(part, RESOLUTION, FRAMES)) for part in _split(clips.to(device))])
    through = shown(vae, latents_of(vae, clips).float())
    result = {"real": cell(drawn, clips, judge), "real through the VAE": cell(through, clips, judge)}
    result["real through the VAE"]["psnr"] = -10 * (drawn - through).square().mean().log10().item()
    for name, row in result.items():
        log(stage="real", arm=name, **row)
    return result


@torch.inference_mode()
def base(
    model: WanModel,
    text: CLIPTextEncoder,
    vae: WanVAE,
    judge: Judge,
    count: int,
    log: Callable[..., None],
    steps: int = 25,
    guidance: float = 2.0,
    shift: float = SHIFT,
    splits: Sequence[str] = ("seen", "unseen"),
) -> tuple[dict[str, dict], dict[str, Tensor]]:
    """The base on its own, on prompts of seen and of unseen actions: cells, and what was shown."""
    device = next(vae.parameters()).device
    result, pixels = {}, {}
    for split in splits:
        actions = SEEN if split == "seen" else UNSEEN
        clips = balanced(tuple(actions), count, _SEED)
        latents = torch.cat(
            [
                generate(model, text, part.captions(), noise, steps, guidance, shift)
                for part, noise in zip(_split(clips), noise_for(len(clips), _SEED, device).split(_AT_ONCE), strict=True)
            ]
        )
        pixels[split] = shown(vae, latents)
        result[split] = cell(pixels[split], clips, judge)
        log(stage="measured", split=split, steps=steps, guidance=guidance, shift=shift, **result[split])
    return result, pixels


@torch.inference_mode()
def followed(
    model: WanModel,
    adapter: EchoReelAdapter,
    text: CLIPTextEncoder,
    vae: WanVAE,
    judge: Judge,
    count: int,
    log: Callable[..., None],
    **sampling: float,
) -> dict[str, dict]:
    """The base with an adapter, on references by another figure: cells."""
    device, result = next(vae.parameters()).device, {}
    for split, actions in (("unseen", UNSEEN), ("seen", SEEN)):
        clips = balanced(tuple(actions), count, _SEED)
        others = with_other_subject(clips, _SEED + 1)
        made = []
        for part, other, noise in zip(
            _split(clips), _split(others), noise_for(len(clips), _SEED, device).split(_AT_ONCE), strict=True
        ):
            reference = latents_of(vae, other).float(), other.captions()
            made.append(generate_following(model, adapter, text, part.captions(), noise, reference, **sampling))
        result[split] = cell(shown(vae, torch.cat(made)), clips, judge)
        log(stage="followed", split=split, **sampling, **result[split])
    return result


def _split(clips: Clips) -> list[Clips]:
    return [clips[start : start + _AT_ONCE] for start in range(0, len(clips), _AT_ONCE)]
