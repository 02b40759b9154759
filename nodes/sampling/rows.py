"""What the rows of one call of the model are: whose conditioning they have, and which part of the clip they see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.action import Role

UNBOUNDED = 2147483648
"""What the host writes for an axis that an area does not limit."""

LISTS = "echoreel_lists"
"""Where an entry of a conditioning says in which of the guider's lists it is."""


@dataclass(frozen=True)
class Place:
    """Where in the latents that are being denoised an area lies; along time, height and width.

    Attributes:
        start, size: of the area. full: of the latents.
    """

    start: tuple[int, int, int]
    size: tuple[int, int, int]
    full: tuple[int, int, int]


@dataclass(frozen=True)
class Chunk:
    """Rows of a call that belong to one conditioning.

    Attributes:
        role: the half of the action that they take.
        place: the area they see, or None for all that is being denoised.
    """

    role: Role = "positive"
    place: Place | None = None


def note_lists(conds: Mapping[str, Sequence[dict]]) -> None:
    """Writes into every entry of a guider's lists which of them hold it.

    Entries are a run's own, and whoever cuts the lists to size copies what is written in them. Their uuids say less:
    the host copies an entry with an area, uuid included, into the lists that lack one there.
    """
    for entries in conds.values():
        for entry in entries or ():
            entry[LISTS] = tuple(other for other, others in conds.items() if any(entry is e for e in others or ()))


@dataclass
class Conditionings:
    """The conditionings of a sampling run that are being worked off right now.

    Attributes:
        roles: of their lists, in the order `cond_or_uncond` counts them.
        places: by (number of the list, uuid).
        latents: that they are worked off on. texts: (text tokens, chunk) of each conditioning.
    """

    roles: tuple[Role, ...] = ()
    places: dict[tuple[int, Any], Place | None] = field(default_factory=dict)
    latents: Tensor | None = None
    texts: list[tuple[Tensor, Chunk]] = field(default_factory=list)

    @classmethod
    def of(cls, conds: Sequence[Sequence[Mapping] | None], latents: Tensor) -> Conditionings:
        """Those in these lists, which are worked off on `latents` [B, C, T, H, W] or [B, C, H, W]."""
        now = cls(tuple(_role(index, entries) for index, entries in enumerate(conds)), latents=latents)
        for index, entries in enumerate(conds):
            for entry in entries or ():
                place = _place(entry.get("area"), latents)
                now.places[index, entry.get("uuid")] = place
                text = getattr(entry.get("model_conds", {}).get("c_crossattn"), "cond", None)
                if text is not None:
                    now.texts.append((text, Chunk(now.roles[index], place)))
        return now

    def chunks(self, options: Mapping[str, Any], x: Tensor, text: Tensor | None) -> tuple[Chunk, ...]:
        """The chunks of a call, in order.

        Other packs cut the batch that the host hands them. Of a part with fewer rows than its `cond_or_uncond` stands
        for, the text tells which one it is. More rows are several tiles, one after the other. Where a tile lies, its
        latents tell, as they are a part of those that are being worked off.

        Args:
            options: transformer_options of the call.
            x: its latents.
            text: [rows, L, C], its text tokens.
        """
        found = self._in_order(options, x, text)
        if self.latents is None:
            return found
        rows = max(x.shape[0] // len(found), 1)
        return tuple(self._placed(chunk, x[min(i * rows, len(x) - 1)]) for i, chunk in enumerate(found))

    def _in_order(self, options: Mapping[str, Any], x: Tensor, text: Tensor | None) -> tuple[Chunk, ...]:
        order = options.get("cond_or_uncond", (0,))
        uuids = options.get("uuids", ())
        if len(uuids) != len(order):
            uuids = (None,) * len(order)
        found = tuple(self._chunk(index, uuid) for index, uuid in zip(order, uuids, strict=True))
        rows = len(x) if self.latents is None else self.latents.shape[0]
        if self.latents is None or len(x) >= rows * len(order):
            return found * max(len(x) // (rows * len(order)), 1)
        parts = max(len(x) // rows, 1)
        if text is None or len(set(found)) == 1:
            return found[:parts]
        return tuple(self._chunk_of_text(part, found[0]) for part in text.chunk(parts))

    def _chunk(self, index: int, uuid: Any) -> Chunk:
        role = self.roles[index] if index < len(self.roles) else "negative" if index == 1 else "positive"
        if uuid is None:
            places = {place for (number, _), place in self.places.items() if number == index}
            return Chunk(role, places.pop() if len(places) == 1 else None)
        return Chunk(role, self.places.get((index, uuid)))

    def _chunk_of_text(self, text: Tensor, otherwise: Chunk) -> Chunk:
        for known, chunk in self.texts:
            if known.shape[1:] == text.shape[1:] and torch.equal(known[:1].to(text), text[:1]):
                return chunk
        return otherwise

    def _placed(self, chunk: Chunk, first: Tensor) -> Chunk:
        """The chunk where its latents [C, ...], of its first row, lie in those that are being worked off."""
        axes = first.dim() - 1
        expected = self.latents.shape[2:] if chunk.place is None else chunk.place.size[-axes:]
        if tuple(first.shape[1:]) == tuple(expected):
            return chunk
        first = first.to(self.latents)  # another GPU's part of the batch
        corner = first[(slice(None), *(0,) * axes)]
        starts = (self.latents[0] == corner.view(-1, *(1,) * axes)).all(0).nonzero()
        for start in starts.tolist():
            ends = [begin + size for begin, size in zip(start, first.shape[1:], strict=True)]
            cut = (slice(None), *(slice(*span) for span in zip(start, ends, strict=True)))
            if torch.equal(self.latents[0][cut], first):
                return replace(chunk, place=_place([*first.shape[1:], *start], self.latents))
        return chunk


def _role(index: int, entries: Sequence[Mapping] | None) -> Role:
    """The role of the list that these entries are of; where they do not say, the host's second list is negative."""
    lists = [name for entry in entries or () for name in entry.get(LISTS, ())]
    roles: set[Role] = {"negative" if "negative" in name else "positive" for name in lists}
    return roles.pop() if len(roles) == 1 else "negative" if index == 1 else "positive"


def _placed(self, chunk: Chunk, first: Tensor) -> Chunk:
    """The chunk where its latents [C, ...], of its first row, lie in those that are being worked off."""
    axes = first.dim() - 1
    expected = self.latents.shape[2:] if chunk.place is None else chunk.place.size[-axes:]
    if tuple(first.shape[1:]) == tuple(expected):
        return chunk
    first = first.to(self.latents)  # another GPU's part of the batch
    corner = first[(slice(None), *(0,) * axes)]
    starts = (self.latents[0] == corner.view(-1, *(1,) * axes)).all(0).nonzero()
    for start in starts.tolist():
        ends = [begin + size for begin, size in zip(start, first.shape[1:], strict=True)]
        cut = (slice(None), *(slice(*span) for span in zip(start, ends, strict=True)))
        if torch.equal(self.latents[0][cut], first):
            return replace(chunk, place=_place([*first.shape[1:], *start], self.latents))
    return chunk


def _uuids(entries: Sequence[Mapping] | None) -> list:
    return [entry["uuid"] for entry in entries or () if "uuid" in entry]


def _place(area: Sequence[int] | None, latents: Tensor) -> Place | None:
    """Where the host's area (sizes, then starts) lies; None where it is everything."""
    if area is None:
        return None
    full = tuple(latents.shape[2:])
    axes = len(area) // 2
    sizes, starts = list(area[:axes])[: len(full)], list(area[axes:])[: len(full)]
    sizes = [UNBOUNDED] * (len(full) - len(sizes)) + sizes
    starts = [0] * (len(full) - len(starts)) + starts
    sizes = [min(size, length - start) for size, start, length in zip(sizes, starts, full, strict=True)]
    if tuple(sizes) == full:
        return None
    if len(full) == 2:  # frames lie in the batch, where areas do not reach
        full, sizes, starts = (latents.shape[0], *full), [latents.shape[0], *sizes], [0, *starts]
    return Place(tuple(starts), tuple(sizes), full)
