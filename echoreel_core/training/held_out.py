"""The loss on pairs that are not trained on, at fixed noise levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import torch

from .data.batches import MicroBatch, PairSource, micro_batches, same_shape
from .loss import draw, seed_of
from .objective import Objective
from .process_group import ProcessGroup

LEVELS = tuple(level / 10 for level in range(1, 10))
"""The noise levels u at which the held-out loss is measured."""

PASSES = 54
"""Passes of the model for one measurement, about: of 54 pairs each is measured at one level, of 6 each at all nine."""


@torch.no_grad()
def held_out_loss(
    objective: Objective,
    pairs: PairSource,
    limit: int,
    batch_size: int,
    process_group: ProcessGroup,
    levels: Sequence[float] = LEVELS,
) -> list[float]:
    """The loss at each level, over the first `limit` pairs, with noise of their own that never changes.

    Each pair is measured at as many of the levels as `PASSES` allows, in turn, and its action is made once for each
    expert: they take turns only once. Nothing is dropped. Each process takes its share of the pairs.
    """
    trainable, count, total = objective.trainable, min(limit, len(pairs)), len(levels)
    each = min(total, max(PASSES // count, -(-total // count)))
    sums = torch.zeros(2, total, device=process_group.device)
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    own = batches[process_group.rank :: process_group.count]
    alike = [[some[place] for place in places] for some in own for places in same_shape(pairs, some)]
    u = torch.tensor(levels, dtype=torch.float64)
    expert_of = trainable.expert_of(trainable.noise_level(u))
    for expert, indices in product(range(len(trainable.experts)), alike):
        for together in _undropped(pairs, indices, process_group, trainable.micro_batch_limit):
            places = (together.draws.u[:, None] + torch.arange(each) * total // each) % total
            mine = expert_of[places] == expert
            if not mine.any():
                continue
            action = objective.action(together)
            for place, chosen in zip(places.T, mine.T, strict=True):
                rows = chosen.nonzero().flatten().tolist()
                if rows:
                    place = place[rows]
                    with trainable.gradient_context(), objective.attached(action[rows], together.target.shape[2]):
                        error = objective.errors(together.of(rows), action[rows], u[place])
                    sums[0].index_add_(0, place.to(error.device), error)
                    sums[1].index_add_(0, place.to(error.device), torch.ones_like(error))
    process_group.mean_([sums])
    return (sums[0] / sums[1]).tolist()


def _undropped(
    pairs: PairSource, indices: Sequence[int], process_group: ProcessGroup, limit: int | None
) -> Iterator[MicroBatch]:
    """Pairs of one shape with their numbers in place of the noise levels that were drawn."""
    batch = pairs.batch(indices, [seed_of("held out pair", index) for index in indices])
    drawn = draw(seed_of("held out"), indices, batch.target.shape[1:])
    numbered = replace(drawn, u=torch.tensor(indices))
    return micro_batches(batch, numbered, pairs.empty_text, process_group.device, limit)
