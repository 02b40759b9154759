"""The base model alone, guided by a clip: what motion without an adapter does in this world."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...video.place import BLURRED, Placement, place
from ..world.actions import SEEN, UNSEEN
from ..world.clips import RESOLUTION
from .guidance import Guidance
from .judge import Judge
from .pipeline import Pipeline
from .table import MEASURES, SEED, balanced, interval, measure, references, row

CELLS = (
    "unseen/guided",
    "unseen/guided_wrong",
    "unseen/guided_still",
    "unseen/guided_shuffled",
    "unseen/guided_moved",
    "seen/guided",
)
"""Splits and arms of the table. "guided" is by the default setting, the others by the pipeline's best one."""

BEST = "unseen/guided_best"
"""For a pipeline whose best setting is not the default one."""


@torch.inference_mode()
def evaluate_guided(
    pipeline: Pipeline,
    judge: Judge,
    count: int = 200,
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
        setting = Guidance() if arm == "guided" else pipeline.best_guidance
        clips = balanced(tuple(UNSEEN if split == "unseen" else SEEN), count, SEED)
        kind = arm.removeprefix("guided_") if arm in ("guided_wrong", "guided_still", "guided_shuffled") else "echoreel"
        others, shown = references(kind, clips, torch.Generator().manual_seed(SEED), pipeline.pixels)
        per_action = len(clips) // len(clips.action.unique())
        kept = torch.arange(len(clips)).unflatten(0, (-1, per_action))[:, :each].flatten()
        found = []
        for rows in kept.split(pipeline.guided_at_once):
            pixels = torch.stack([_mirrored(clip) for clip in shown[rows]]) if arm == "guided_moved" else shown[rows]
            noise = pipeline.noise((SEED + rows).tolist())
            latents = pipeline.guided(clips[rows].captions(), noise, pipeline.encode(pixels), setting)
            truth = pipeline.truth(clips[rows])
            if arm == "guided_moved":
                truth = truth * torch.tensor([-1, 1, 1, 1]) + torch.tensor([RESOLUTION, 0, 0, 0])
            found.append(measure(pipeline.show(latents), clips[rows], others[rows], judge, truth))
        means = {name: interval(torch.cat([part[name] for part in found])) for name in MEASURES}
        result[cell] = {**means, "clips": len(kept)}
        progress(row(cell, result[cell]))
    return result


def _mirrored(pixels: Tensor) -> Tensor:
    placed = place(pixels.movedim(1, -1), Placement(mirror=True, background=BLURRED))
    return placed.movedim(-1, 1)
