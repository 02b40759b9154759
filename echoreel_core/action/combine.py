"""One action from several: attended to together, blended, or one after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Literal

from ..errors import EchoReelError, counted
from .action import Action, Segment

Combination = Literal["attend to all", "blend", "one after another"]


def combine(actions: Sequence[Action], how: Combination, weights: Sequence[float], crossfade: float = 0.0) -> Action:
    """One action from several.

    "attend to all" concatenates the references' tokens, so that every query attends to all of them, a reference's
    attention multiplied by its weight (paper, figure 2). "blend" attends to each action by itself and adds the results
    in the proportion of the weights. "one after another" plays them in turn, each as long as its weight says beside
    the others'. Actions of weight 0 are left out.

    Args:
        crossfade: how long the change to the next action takes, as a fraction of the whole (0 … 1), half of it
            before the border between them; at most as long as the shorter of the two.

    Raises: EchoReelError if there are none, weights are negative or all zero, the actions are of different adapters
        or batch sizes, or a blend or sequence would be attended to as one.
    """
    if len(actions) != len(weights):
        raise EchoReelError(
            f"Got {counted(len(weights), 'weight')} for {counted(len(actions), 'action')}: give one weight for each "
            "action."
        )
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise EchoReelError(f"An action's weight is {weight}: use 0 or more.")
    kept = [(action, weight) for action, weight in zip(actions, weights, strict=True) if weight > 0]
    if not kept:
        raise EchoReelError("No action has a weight above 0: connect an action, or raise a weight.")
    first = max((action for action, _ in kept), key=lambda action: len(action.adapter_ids))  # the one that says most
    for action, _ in kept:
        if not action.adapter_ids & first.adapter_ids:
            raise EchoReelError(
                f"The actions were made by different EchoReel adapters ({first.adapter_id} and {action.adapter_id}): "
                "encode all references with the same one."
            )
        sizes = {reference.positive.shape[0] for reference in (*first.references, *action.references)}
        if len(sizes) > 1:
            raise EchoReelError(
                f"The actions have different batch sizes ({', '.join(map(str, sorted(sizes)))}): make them equal."
            )
    if how == "blend":
        total = sum(weight for _, weight in kept)
        return replace(
            first,
            groups=tuple(group for action, _ in kept for group in action.groups),
            mix_weights=tuple(own * weight / total for action, weight in kept for own in action.mix_weights),
            segments=tuple(own for action, _ in kept for own in action.segments),
        )
    if how == "one after another":
        sequence = _sequence([action for action, _ in kept], [weight for _, weight in kept], crossfade)
        return replace(sequence, adapter_id=first.adapter_id, former_adapter_id=first.former_adapter_id)
    if any(len(action.groups) > 1 for action, _ in kept):
        raise EchoReelError(
            "A blend or a sequence cannot be attended to together with other actions: use 'attend to all' first, "
            "then blend."
        )
    references = tuple(
        replace(reference, weight=reference.weight * weight)
        for action, weight in kept
        for reference in action.groups[0]
    )
    return replace(first, groups=(references,), mix_weights=(1.0,))


def _sequence(actions: Sequence[Action], weights: Sequence[float], crossfade: float) -> Action:
    if not 0 <= crossfade <= 1:
        raise EchoReelError(f"The cross-fade is {crossfade}: use a fraction of the clip from 0 to 1.")
    if len(actions) == 1:
        return actions[0]
    lengths = [weight / sum(weights) for weight in weights]
    fades = [min(crossfade, before, after) for before, after in pairwise(lengths)]
    borders = [0.0, *accumulate(lengths[:-1]), 1.0]
    segments = [
        Segment(
            start - (fade_in or 0.0) / 2,
            end + (fade_out or 0.0) / 2,
            fade_in,
            fade_out,
        )
        for (start, end), fade_in, fade_out in zip(pairwise(borders), [None, *fades], [*fades, None], strict=True)
    ]
    return replace(
        actions[0],
        groups=tuple(group for action in actions for group in action.groups),
        mix_weights=tuple(weight for action in actions for weight in action.mix_weights),
        segments=tuple(
            (*(inner.within(segment) for inner in own), segment)
            for action, segment in zip(actions, segments, strict=True)
            for own in action.segments
        ),
    )
