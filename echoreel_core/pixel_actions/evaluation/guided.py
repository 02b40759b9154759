"""The base model alone, guided by a clip: what motion without an adapter does in this world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...guide.course import Course, Fade
from ...guide.gradient import MotionLoss, moving_region
from ...lvdm.autoencoder import Autoencoder
from ...lvdm.ddim import alphas_cumprod, ddim_sample, ddim_timesteps
from ...video.place import BLURRED, Placement, place
from ..model.adapted_model import noise_for
from ..model.base_model import BaseModel
from ..model.latents import decode, encode
from ..world.actions import SEEN, UNSEEN
from ..world.clips import RESOLUTION
from ..world.words import ids
from .judge import Judge
from .table import MEASURES, SEED, balanced, interval, measure, references, row

AT_ONCE = 4  # clips: a CPU takes a third of the time for each that it takes in the batches of the trained arms

CELLS = (
    "unseen/guided",
    "unseen/guided_wrong",
    "unseen/guided_still",
    "unseen/guided_shuffled",
    "unseen/guided_moved",
    "seen/guided",
)
"""Splits and arms of the table, all by the default setting: none that costs more did better."""


@dataclass(frozen=True)
class Guidance:
    """One setting.

    Attributes:
        strength: how far each latent value moves in all, at a deviation of 1.
        end: where in the run it has faded out.
        keeps_mean: whether what does not change over time is followed as well.
        moving_only: whether only places at which the reference moves are guided.
        place, change: weights of the loss.
    """

    strength: float = 1.0
    end: float = 0.25
    keeps_mean: bool = False
    moving_only: bool = True
    place: float = 20.0
    change: float = 5.0


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
    course = Course(
        reference,
        MotionLoss(setting.place, setting.change, keeps_mean=setting.keeps_mean),
        setting.strength,
        Fade(0.0, setting.end),
        place=lambda sigma: 1 - int((sigmas - sigma).abs().argmin()) / first,
        deviation=lambda sigma: (1 + sigma**2) ** 0.5,
        region=moving_region(reference) if setting.moving_only else None,
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


@torch.inference_mode()
def evaluate_guided(
    base: BaseModel,
    autoencoder: Autoencoder,
    judge: Judge,
    count: int = 200,
    steps: int = 25,
    guidance: float = 2.0,
    cells: Sequence[str] = CELLS,
    each: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, dict]:
    """`{"unseen/guided": {measure: [mean, low, high], …, "clips": n}, …}`, on the clips and noise of the other arms.

    "guided_moved" has the mirrored reference before a blurred background, and the path that counts is the mirrored one.

    Args:
        each: so many clips of each action only, of the same ones.
    """
    result = {}
    for cell in cells:
        split, arm = cell.split("/")
        clips = balanced(tuple(UNSEEN if split == "unseen" else SEEN), count, SEED)
        kind = arm.removeprefix("guided_") if arm in ("guided_wrong", "guided_still", "guided_shuffled") else "echoreel"
        others, shown = references(kind, clips, torch.Generator().manual_seed(SEED))
        per_action = len(clips) // len(clips.action.unique())
        kept = torch.arange(len(clips)).unflatten(0, (-1, per_action))[:, :each].flatten()
        found = []
        for rows in kept.split(AT_ONCE):
            pixels = torch.stack([_mirrored(clip) for clip in shown[rows]]) if arm == "guided_moved" else shown[rows]
            noise = torch.cat([noise_for(1, SEED + int(row)) for row in rows])
            reference = encode(autoencoder, pixels)
            latents = generate_guided(base, clips[rows].captions(), noise, reference, Guidance(), steps, guidance)
            truth = clips[rows].track()
            if arm == "guided_moved":
                truth = truth * torch.tensor([-1, 1, 1, 1]) + torch.tensor([RESOLUTION, 0, 0, 0])
            found.append(measure(decode(autoencoder, latents), clips[rows], others[rows], judge, truth))
        means = {name: interval(torch.cat([part[name] for part in found])) for name in MEASURES}
        result[cell] = {**means, "clips": len(kept)}
        progress(row(cell, result[cell]))
    return result


def _mirrored(pixels: Tensor) -> Tensor:
    placed = place(pixels.movedim(1, -1), Placement(mirror=True, background=BLURRED))
    return placed.movedim(-1, 1)
