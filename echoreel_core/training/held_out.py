"""The loss on pairs that are not trained on, at fixed noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .data.batches import PairSource, micro_batches, same_shape
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

    Each pair is measured at as many of the levels as `PASSES` allows, in turn, and its action is made once. Nothing is
    dropped. Each process takes its share of the pairs.
    """
    count, total = min(limit, len(pairs)), len(levels)
    each = min(total, max(PASSES // count, -(-total // count)))
    sums = torch.zeros(2, total, device=process_group.device)
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    own = batches[process_group.rank :: process_group.count]
    for indices in ([some[place] for place in places] for some in own for places in same_shape(pairs, some)):
        batch = pairs.batch(indices, [seed_of("held out pair", index) for index in indices])
        drawn = draw(seed_of("held out"), indices, batch.target.shape[1:])
        drawn = replace(
            drawn, u=torch.tensor(indices)
        )  # a sample's number stays with it, whatever micro-batch it is in
        for together in micro_batches(
            batch, drawn, pairs.empty_text, process_group.device, objective.trainable.micro_batch_limit
        ):
            action = objective.action(together)
            with objective.trainable.gradient_context(), objective.attached(action, together.target.shape[2]):
                for turn in range(each):
                    place = (together.draws.u + turn * total // each) % total
                    u = torch.tensor(levels, dtype=torch.float64)[place]
                    error = objective.errors(together, action, u)
                    place = place.to(error.device)
                    sums[0].index_add_(0, place, error)
                    sums[1].index_add_(0, place, torch.ones_like(error))
    process_group.mean_([sums])
    return (sums[0] / sums[1]).tolist()
