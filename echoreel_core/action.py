"""An Action: what the prism took from one or more reference clips, ready for the added layers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .action_attention import ActionContext
from .files import read_description, read_tensors, write_safetensors

FORMAT_VERSION = 1
Role = Literal["positive", "negative"]
Combination = Literal["attend to all", "blend"]


@dataclass(frozen=True)
class Reference:
    """The action of one reference clip.

    Attributes:
        positive, negative: [B, S, action_dim] tokens made with the positive and with the negative prompt.
        weight: relative to the other references of its action.
        source: where it came from (file, frame times, captions, …; anything JSON holds).
    """

    positive: Tensor
    negative: Tensor
    weight: float = 1.0
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """When in the clip an action happens.

    Attributes:
        span: (start, end) in frames of the clip, a frame lasting from its index to the next; None for all of it.
        pace: frames of the reference per frame of the clip; the action ends with the reference. None stretches the
            reference over the span: its first frame lies on the span's first, its last on the last.
    """

    span: tuple[float, float] | None = None
    pace: float | None = None


@dataclass(frozen=True)
class Action:
    """References in groups. Each query attends to all references of a group at once; the groups are blended.

    Attributes:
        groups: never empty, nor is any of them.
        shares: of the groups' outputs, adding up to 1.
        adapter_id: content id of the adapter whose prism made it; only its layers understand the tokens.
        host: the family of models that adapter belongs to.
    """

    groups: tuple[tuple[Reference, ...], ...]
    shares: tuple[float, ...]
    adapter_id: str
    host: str

    @classmethod
    def of(cls, reference: Reference, adapter_id: str, host: str) -> Action:
        """The action of a single reference."""
        return cls(((reference,),), (1.0,), adapter_id, host)

    @property
    def references(self) -> tuple[Reference, ...]:
        """All references, group by group."""
        return tuple(reference for group in self.groups for reference in group)

    def context(
        self, role: Role, frames: int, at: Sequence[float] | None = None, timing: Timing | None = None
    ) -> ActionContext:
        """What the added layers attend to in a clip of `frames` (latent) frames.

        Args:
            at: the frames of the clip that ask; all of them in order by default. A window of a long clip names its own.
            timing: when in the clip the action happens.

        The keys of a reference keep its own positions 0 … S-1; which of them a frame of the clip is at, `timing` says.
        Outside its span the action has no share in the output.
        """
        timing = timing or Timing()
        at = torch.arange(frames) if at is None else torch.tensor(at)
        start, end = timing.span or (0.0, frames)
        tokens, distance, bias, lasts = [], [], [], []
        for reference in self.references:
            token = getattr(reference, role)
            keys = token.shape[1]
            if timing.pace is None:
                rate, last = (keys - 1) / (end - start - 1) if end - start > 1 else 0.0, end
            else:
                rate, last = timing.pace, min(end, start + keys / timing.pace)
            position = ((at - start) * rate).clamp(0, keys - 1)
            tokens.append(token)
            distance.append(torch.arange(keys)[None, :] - position[:, None])
            bias.append(torch.full((len(at), keys), math.log(reference.weight)))
            lasts.append(last)
        weighted = any(len({r.weight for r in group}) > 1 for group in self.groups)
        shares = torch.tensor([self.shares])
        if timing.span is not None or timing.pace is not None:
            ends = iter(lasts)
            inside = [_overlap(at, start, max(next(ends) for _ in group)) for group in self.groups]
            shares = shares * torch.stack(inside, dim=1)
        return ActionContext(
            tokens=torch.cat(tokens, dim=1),
            distance=torch.cat(distance, dim=1),
            score_bias=torch.cat(bias, dim=1) if weighted else None,
            groups=tuple(sum(reference.positive.shape[1] for reference in group) for group in self.groups),
            shares=None if shares.numel() == 1 else shares,
        )


def _overlap(at: Tensor, start: float, end: float) -> Tensor:
    """[T]: how much of each frame, which lasts from its index to the next, lies between start and end."""
    return (torch.minimum(at + 1.0, torch.tensor(end)) - torch.maximum(at * 1.0, torch.tensor(start))).clamp(0, 1)


def combine(actions: Sequence[Action], how: Combination, weights: Sequence[float]) -> Action:
    """One action from several.

    "attend to all" concatenates the references' tokens, so that every query attends to all of them, a reference's
    attention multiplied by its weight (paper, figure 2). "blend" attends to each action by itself and adds the results
    in the proportion of the weights. Actions of weight 0 are left out.

    Raises: ValueError where there are none, weights are negative or all zero, the actions are of different adapters or
        batch sizes, or blends are to be attended to as one.
    """
    if len(actions) != len(weights):
        raise ValueError(f"There are {len(actions)} actions but {len(weights)} weights: give each action one weight.")
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"An action's weight is {weight}: it has to be 0 or more.")
    kept = [(action, weight) for action, weight in zip(actions, weights, strict=True) if weight > 0]
    if not kept:
        raise ValueError("There is no action to combine with a weight above 0: connect one, or raise a weight.")
    first = kept[0][0]
    for action, _ in kept:
        if action.adapter_id != first.adapter_id:
            raise ValueError(
                f"The actions were made by different EchoReel adapters ({first.adapter_id} and {action.adapter_id}): "
                "encode all references with the same one."
            )
        sizes = {reference.positive.shape[0] for reference in (*first.references, *action.references)}
        if len(sizes) > 1:
            raise ValueError(f"The actions are batches of different sizes ({sorted(sizes)}): make them equal.")
    if how == "blend":
        total = sum(weight for _, weight in kept)
        return replace(
            first,
            groups=tuple(group for action, _ in kept for group in action.groups),
            shares=tuple(share * weight / total for action, weight in kept for share in action.shares),
        )
    if any(len(action.groups) > 1 for action, _ in kept):
        raise ValueError(
            "A blend can not be attended to together with other actions: use 'attend to all' first, blend after."
        )
    references = tuple(
        replace(reference, weight=reference.weight * weight)
        for action, weight in kept
        for reference in action.groups[0]
    )
    return replace(first, groups=(references,), shares=(1.0,))


def save_action(action: Action, path: str | os.PathLike) -> None:
    """Writes one safetensors file with everything but the model: loadable without VAE, text encoder or prism."""
    tensors, groups, index = {}, [], 0
    for group in action.groups:
        entries = []
        for reference in group:
            tensors[f"references.{index}.positive"] = reference.positive
            tensors[f"references.{index}.negative"] = reference.negative
            entries.append({"weight": reference.weight, "source": dict(reference.source)})
            index += 1
        groups.append(entries)
    description = {
        "format": "action",
        "version": FORMAT_VERSION,
        "adapter_id": action.adapter_id,
        "host": action.host,
        "shares": list(action.shares),
        "groups": groups,
    }
    write_safetensors(path, tensors, description)


def load_action(path: str | os.PathLike) -> Action:
    """Reads what `save_action` wrote.

    Raises: ValueError, naming the file and the reason, where it is no action file, damaged, or of a newer format.
    """
    name = Path(path).name
    description = read_description(path, "action", FORMAT_VERSION)
    tensors = read_tensors(path)
    try:
        groups, index = [], 0
        for entries in description["groups"]:
            group = []
            for entry in entries:
                positive, negative = (tensors[f"references.{index}.{role}"] for role in ("positive", "negative"))
                group.append(Reference(positive, negative, float(entry["weight"]), dict(entry["source"])))
                index += 1
            groups.append(tuple(group))
        shares = tuple(float(share) for share in description["shares"])
        action = Action(tuple(groups), shares, str(description["adapter_id"]), str(description["host"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is damaged: {error} is missing or of another kind.") from None
    _check(action, name)
    return action


def _check(action: Action, name: str) -> None:
    """Raises ValueError, naming the file, where the parts of an action do not belong together."""
    if not action.groups or not all(action.groups) or len(action.shares) != len(action.groups):
        raise ValueError(f"{name} is damaged: it has {len(action.groups)} groups and {len(action.shares)} shares.")
    first = action.references[0].positive
    for reference in action.references:
        if not (math.isfinite(reference.weight) and reference.weight > 0):
            raise ValueError(f"{name} is damaged: a reference's weight is {reference.weight}.")
        for tokens in (reference.positive, reference.negative):
            alike = tokens.dim() == 3 and tokens.shape[::2] == first.shape[::2] and tokens.is_floating_point()
            if not alike or tokens.shape[1] != reference.positive.shape[1] or tokens.numel() == 0:
                raise ValueError(
                    f"{name} is damaged: tokens of {list(tokens.shape)} lie beside others of {list(first.shape)}."
                )
