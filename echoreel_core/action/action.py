"""An Action: what the prism extracted from one or more reference clips, ready for the added layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import EchoReelError
from .attention import ActionContext

Role = Literal["positive", "negative"]


@dataclass(frozen=True)
class Reference:
    """The action of one reference clip.

    Attributes:
        positive, negative: [B, S, action_dim] tokens made with the positive and with the negative prompt; a single
            one of them serves the whole batch of the other.
        weight: relative to the other references of its action.
        source: where it came from (file, frame times, captions, …; any JSON value).
    """

    positive: Tensor
    negative: Tensor
    weight: float = 1.0
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        batch = max(self.positive.shape[0], self.negative.shape[0])
        for role in ("positive", "negative"):
            tokens = getattr(self, role)
            if tokens.shape[0] not in (1, batch):
                raise EchoReelError(
                    f"The positive prompt is a batch of {self.positive.shape[0]}, the negative one of "
                    f"{self.negative.shape[0]}: use as many of one as of the other, or a single one."
                )
            if tokens.shape[0] != batch:
                object.__setattr__(self, role, tokens.expand(batch, -1, -1).contiguous())


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
class Segment:
    """When a group plays in a sequence, in fractions of the whole: 0 is its beginning, 1 its end.

    Attributes:
        start, end: including the cross-fades at both ends; a reference is stretched over all of it.
        fade_in, fade_out: how long the cross-fades take; None if nothing comes before, or after.
    """

    start: float
    end: float
    fade_in: float | None = None
    fade_out: float | None = None

    def within(self, whole: Segment) -> Segment:
        """The same segment of a sequence that itself plays from `whole.start` to `whole.end` of a longer one."""
        start, end = (whole.start * (1 - place) + whole.end * place for place in (self.start, self.end))
        length = whole.end - whole.start
        return Segment(start, end, *(None if fade is None else fade * length for fade in (self.fade_in, self.fade_out)))

    def mix_weight(self, at: Tensor, start: float, end: float) -> Tensor:
        """[T]: the segment's mean weight in each frame, of a sequence that goes from frame `start` to frame `end`.

        It rises and falls in a straight line. Where one segment falls the next one rises, so at each frame the
        weights of a sequence add up to 1, whatever the frame begins and ends in.
        """
        length = end - start
        weight = torch.ones(len(at), dtype=torch.float64)
        if self.fade_in is not None:
            weight = _risen(at, start + self.start * length, self.fade_in * length)
        if self.fade_out is not None:
            weight = weight - _risen(at, start + (self.end - self.fade_out) * length, self.fade_out * length)
        return weight


@dataclass(frozen=True)
class Action:
    """References in groups. Each query attends to all references of a group at once; the groups are blended.

    Attributes:
        groups: never empty, nor is any of them.
        mix_weights: of the groups' outputs. At every moment those that play add up to 1.
        adapter_id: content id of the adapter whose prism made it; only its layers understand the tokens.
        former_adapter_id: the adapter's id of the kind that older actions hold as their `adapter_id`; may be empty.
        host: the model family that the adapter belongs to.
        segments: when each group plays: its place in a sequence, that one's place in the sequence around it, and so
            on. All the time if there are none.
    """

    groups: tuple[tuple[Reference, ...], ...]
    mix_weights: tuple[float, ...]
    adapter_id: str
    host: str
    segments: tuple[tuple[Segment, ...], ...] = ()
    former_adapter_id: str = ""

    def __post_init__(self) -> None:
        if not self.segments:
            object.__setattr__(self, "segments", ((),) * len(self.groups))

    @classmethod
    def of(cls, reference: Reference, adapter_id: str, host: str, former_adapter_id: str = "") -> Action:
        """The action of a single reference."""
        return cls(((reference,),), (1.0,), adapter_id, host, former_adapter_id=former_adapter_id)

    @property
    def adapter_ids(self) -> frozenset[str]:
        """The names of the adapter that made it; two actions that share one are of the same adapter."""
        return frozenset((self.adapter_id, self.former_adapter_id)) - {""}

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
        Outside its span the action adds nothing to the output. Groups that play in none of the frames, as in a
        window in the middle of a sequence, are left out.
        """
        timing = timing or Timing()
        at = torch.arange(frames) if at is None else torch.tensor(at)
        mix_weights = self._mix_weights(role, frames, at, timing)
        used = [index for index in range(len(self.groups)) if mix_weights[:, index].any()] or [0]
        mix_weights = mix_weights[:, used]
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
            mix_weights=None if len(used) == 1 and (mix_weights == 1).all() else mix_weights,
        )

    def _place(self, index: int, frames: int, timing: Timing) -> tuple[float, float]:
        """(start, end) in frames of the clip between which a group plays, with its cross-fades."""
        start, end = timing.span or (0.0, frames)
        if not self.segments[index]:
            return start, end
        own = self.segments[index][0]
        return start + own.start * (end - start), start + own.end * (end - start)

    def _mix_weights(self, role: Role, frames: int, at: Tensor, timing: Timing) -> Tensor:
        """[T or 1, groups]: the factor of each group's output in each frame; 1 where no frame differs."""
        mix_weights = torch.tensor([self.mix_weights])
        if timing.span is None and timing.pace is None and not any(self.segments):
            return mix_weights
        start, end = timing.span or (0.0, frames)
        factors = []
        for index, group in enumerate(self.groups):
            last = end
            if timing.pace is not None:  # it ends with its longest reference
                keys = max(getattr(reference, role).shape[1] for reference in group)
                last = min(end, self._place(index, frames, timing)[0] + keys / timing.pace)
            inside = _risen(at, start) - _risen(at, max(start, last))
            factors.append(
                math.prod((segment.mix_weight(at, start, end) for segment in self.segments[index]), start=inside)
            )
        return mix_weights * torch.stack(factors, dim=1).float()


def _risen(at: Tensor, start: float, length: float = 0.0) -> Tensor:
    """[T]: the mean in each frame, which lasts from its index to the next, of what rises from 0 at `start` to 1.

    In a straight line over `length` frames, or at once: then it is how much of the frame lies after `start`.
    """
    at = at.double()
    below, above = at.clamp(start, start + length), (at + 1).clamp(start, start + length)
    rising = (above - below) * ((below + above) / 2 - start) / length if length else torch.zeros_like(at)
    return rising + (at + 1 - at.clamp(min=start + length)).clamp(min=0)
