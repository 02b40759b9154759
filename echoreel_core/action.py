"""An Action: what the prism took from one or more reference clips, ready for the added layers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .action_attention import ActionContext
from .files import read_description, read_tensors, write_safetensors

FORMAT_VERSION = 2
"""2 has the parts of a sequence. A file without any is written as 1."""

Role = Literal["positive", "negative"]
Combination = Literal["attend to all", "blend", "one after another"]


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
class Part:
    """Where in a sequence a group plays. All in parts of the whole: 0 is its beginning, 1 its end.

    Attributes:
        start, end: with the cross-fades at either side; a reference is stretched over all of it.
        fade_in, fade_out: how long the cross-fades take; None where nothing comes before, or after.
    """

    start: float
    end: float
    fade_in: float | None = None
    fade_out: float | None = None

    def within(self, whole: Part) -> Part:
        """The same part of a sequence that itself plays from `whole.start` to `whole.end` of a longer one."""
        start, end = (whole.start * (1 - place) + whole.end * place for place in (self.start, self.end))
        length = whole.end - whole.start
        return Part(start, end, *(None if fade is None else fade * length for fade in (self.fade_in, self.fade_out)))

    def share(self, at: Tensor, start: float, end: float) -> Tensor:
        """[T]: the part's mean share in each frame, of a sequence that goes from frame `start` to frame `end`.

        It rises and falls in a straight line. Where one part falls the next one rises, so at each frame the shares of
        a sequence add up to 1, whatever the frame begins and ends in.
        """
        length = end - start
        share = torch.ones(len(at), dtype=torch.float64)
        if self.fade_in is not None:
            share = _risen(at, start + self.start * length, self.fade_in * length)
        if self.fade_out is not None:
            share = share - _risen(at, start + (self.end - self.fade_out) * length, self.fade_out * length)
        return share


@dataclass(frozen=True)
class Action:
    """References in groups. Each query attends to all references of a group at once; the groups are blended.

    Attributes:
        groups: never empty, nor is any of them.
        shares: of the groups' outputs. At every moment those that play add up to 1.
        adapter_id: content id of the adapter whose prism made it; only its layers understand the tokens.
        host: the family of models that adapter belongs to.
        parts: when each group plays: where it belongs in a sequence, in the sequence that one is a part of, and so on.
            All the time where there are none.
    """

    groups: tuple[tuple[Reference, ...], ...]
    shares: tuple[float, ...]
    adapter_id: str
    host: str
    parts: tuple[tuple[Part, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", ((),) * len(self.groups))

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
        Outside its span the action has no share in the output. Groups without a share in any of the frames, as in a
        window in the middle of a sequence, are left out.
        """
        timing = timing or Timing()
        at = torch.arange(frames) if at is None else torch.tensor(at)
        shares = self._shares(role, frames, at, timing)
        used = [index for index in range(len(self.groups)) if shares[:, index].any()] or [0]
        shares = shares[:, used]
        tokens, distance, bias = [], [], []
        for index in used:
            start, end = self._place(index, frames, timing)
            for reference in self.groups[index]:
                token = getattr(reference, role)
                keys = token.shape[1]
                if timing.pace is None:
                    rate = (keys - 1) / (end - start - 1) if end - start > 1 else 0.0
                else:
                    rate = timing.pace
                position = ((at - start) * rate).clamp(0, keys - 1)
                tokens.append(token)
                distance.append(torch.arange(keys)[None, :] - position[:, None])
                bias.append(torch.full((len(at), keys), math.log(reference.weight)))
        groups = [self.groups[index] for index in used]
        weighted = any(len({r.weight for r in group}) > 1 for group in groups)
        return ActionContext(
            tokens=torch.cat(tokens, dim=1),
            distance=torch.cat(distance, dim=1),
            score_bias=torch.cat(bias, dim=1) if weighted else None,
            groups=tuple(sum(reference.positive.shape[1] for reference in group) for group in groups),
            shares=None if len(used) == 1 and (shares == 1).all() else shares,
        )

    def _place(self, index: int, frames: int, timing: Timing) -> tuple[float, float]:
        """(start, end) in frames of the clip between which a group plays, with its cross-fades."""
        start, end = timing.span or (0.0, frames)
        if not self.parts[index]:
            return start, end
        own = self.parts[index][0]
        return start + own.start * (end - start), start + own.end * (end - start)

    def _shares(self, role: Role, frames: int, at: Tensor, timing: Timing) -> Tensor:
        """[T or 1, groups]: the factor of each group's output in each frame; 1 where no frame differs."""
        shares = torch.tensor([self.shares])
        if timing.span is None and timing.pace is None and not any(self.parts):
            return shares
        start, end = timing.span or (0.0, frames)
        factors = []
        for index, group in enumerate(self.groups):
            last = end
            if timing.pace is not None:  # it ends with its longest reference
                keys = max(getattr(reference, role).shape[1] for reference in group)
                last = min(end, self._place(index, frames, timing)[0] + keys / timing.pace)
            inside = _risen(at, start) - _risen(at, max(start, last))
            factors.append(math.prod((part.share(at, start, end) for part in self.parts[index]), start=inside))
        return shares * torch.stack(factors, dim=1).float()


def _risen(at: Tensor, start: float, length: float = 0.0) -> Tensor:
    """[T]: the mean in each frame, which lasts from its index to the next, of what rises from 0 at `start` to 1.

    In a straight line over `length` frames, or at once: then it is how much of the frame lies after `start`.
    """
    at = at.double()
    below, above = at.clamp(start, start + length), (at + 1).clamp(start, start + length)
    rising = (above - below) * ((below + above) / 2 - start) / length if length else torch.zeros_like(at)
    return rising + (at + 1 - at.clamp(min=start + length)).clamp(min=0)


def combine(actions: Sequence[Action], how: Combination, weights: Sequence[float], crossfade: float = 0.0) -> Action:
    """One action from several.

    "attend to all" concatenates the references' tokens, so that every query attends to all of them, a reference's
    attention multiplied by its weight (paper, figure 2). "blend" attends to each action by itself and adds the results
    in the proportion of the weights. "one after another" plays them in turn, each as long as its weight says beside
    the others'. Actions of weight 0 are left out.

    Args:
        crossfade: how long one action takes to go over into the next, in parts of the whole (0 … 1), half of it
            before the border between them; no longer than the shorter of the two.

    Raises: ValueError where there are none, weights are negative or all zero, the actions are of different adapters or
        batch sizes, or blends or sequences are to be attended to as one.
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
            parts=tuple(parts for action, _ in kept for parts in action.parts),
        )
    if how == "one after another":
        return _sequence([action for action, _ in kept], [weight for _, weight in kept], crossfade)
    if any(len(action.groups) > 1 for action, _ in kept):
        raise ValueError(
            "A blend or a sequence can not be attended to together with other actions: use 'attend to all' first, "
            "blend after."
        )
    references = tuple(
        replace(reference, weight=reference.weight * weight)
        for action, weight in kept
        for reference in action.groups[0]
    )
    return replace(first, groups=(references,), shares=(1.0,))


def _sequence(actions: Sequence[Action], weights: Sequence[float], crossfade: float) -> Action:
    if not 0 <= crossfade <= 1:
        raise ValueError(f"The cross-fade is {crossfade}: it is a part of the clip, from 0 to 1.")
    if len(actions) == 1:
        return actions[0]
    lengths = [weight / sum(weights) for weight in weights]
    fades = [min(crossfade, before, after) for before, after in pairwise(lengths)]
    borders = [0.0, *accumulate(lengths[:-1]), 1.0]
    parts = [
        Part(
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
        shares=tuple(share for action in actions for share in action.shares),
        parts=tuple(
            (*(inner.within(part) for inner in own), part)
            for action, part in zip(actions, parts, strict=True)
            for own in action.parts
        ),
    )


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
        "version": FORMAT_VERSION if any(action.parts) else 1,
        "adapter_id": action.adapter_id,
        "host": action.host,
        "shares": list(action.shares),
        "groups": groups,
    }
    if any(action.parts):
        description["parts"] = [[asdict(part) for part in parts] for parts in action.parts]
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
        parts = tuple(tuple(_part(part) for part in own) for own in description.get("parts", ()))
        action = Action(tuple(groups), shares, str(description["adapter_id"]), str(description["host"]), parts)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is damaged: {error} is missing or of another kind.") from None
    _check(action, name)
    return action


def _part(entry: Mapping[str, Any]) -> Part:
    fades = (None if entry[name] is None else float(entry[name]) for name in ("fade_in", "fade_out"))
    return Part(float(entry["start"]), float(entry["end"]), *fades)


def _check(action: Action, name: str) -> None:
    """Raises ValueError, naming the file, where the parts of an action do not belong together."""
    if not action.groups or not all(action.groups) or len(action.shares) != len(action.groups):
        raise ValueError(f"{name} is damaged: it has {len(action.groups)} groups and {len(action.shares)} shares.")
    if len(action.parts) != len(action.groups):
        raise ValueError(
            f"{name} is damaged: it has {len(action.groups)} groups and {len(action.parts)} lists of parts."
        )
    for part in (part for parts in action.parts for part in parts):
        fades = [0.0 if fade is None else fade for fade in (part.fade_in, part.fade_out)]
        if not (0 <= part.start < part.end <= 1 and min(fades) >= 0 and sum(fades) <= 1):
            raise ValueError(f"{name} is damaged: a part of the sequence goes from {part.start} to {part.end}.")
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
