"""Sample videos of a run: the reference, what the model makes without it, and with it, side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..action.action import Role
from ..video.write import write_video
from .data.batches import PairSource, micro_batches
from .loss import draw, seed_of
from .trainer import Trainer

GAP = 8
"""Width of the white stripes between the pictures, pixels."""


@torch.no_grad()
def sample(trainer: Trainer, pairs: PairSource, index: int, *, steps: int, guidance: float) -> tuple[Tensor, ...]:
    """Latents [C, T, H, W] of pair `index`: its reference, generated without the adapter, and with its average.

    Both start from the same noise, which depends on the index alone.
    """
    device = trainer.process_group.device
    batch = pairs.batch([index], [seed_of("sample", index)])
    draws = draw(seed_of("sample noise", index), [index], batch.target.shape[1:])
    prompt, empty = (
        next(micro_batches(batch, replace(draws, drop_text=torch.tensor([drop])), pairs.empty_text, device))
        for drop in (False, True)
    )
    halves = {"positive": prompt, "negative": empty}
    noise = draws.noise.to(device)
    trainer.adapter.eval()
    try:

        @contextmanager
        def attach(role: Role) -> Iterator[None]:
            objective = trainer.objective
            with objective.autocast(), objective.attached(actions[role], noise.shape[2]):
                yield

        def generate(with_adapter: Callable[[Role], AbstractContextManager[None]]) -> Tensor:
            return trainer.trainable.sample(
                noise,
                prompt.conditionings[0],
                empty.conditionings[0],
                steps=steps,
                guidance=guidance,
                attach=with_adapter,
            )[0]

        with trainer.average.in_place():
            actions = {role: trainer.objective.action(half) for role, half in halves.items()}
            return prompt.reference[0], generate(lambda _: nullcontext()), generate(attach)
    finally:
        trainer.adapter.train()


def write_sample(
    path: str | os.PathLike, clips: tuple[Tensor, ...], decode: Callable[[Tensor], Tensor], fps: float
) -> None:
    """Decodes latents [C, T, H, W] to frames and writes them side by side as one mp4, in the size of the last."""
    frames = [decode(latents) for latents in clips]
    count, height, width, _ = frames[-1].shape
    columns = []
    for clip in frames:
        clip = F.interpolate(clip.movedim(-1, 1), (height, width), mode="bilinear", antialias=True).movedim(1, -1)
        repeated = clip[-1:].expand(max(0, count - len(clip)), -1, -1, -1)
        columns += [torch.cat((clip[:count], repeated)), torch.ones(count, height, GAP, 3)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_video(path, torch.cat(columns[:-1], dim=2), fps)
