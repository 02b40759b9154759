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
    """The conditionings that a sampling run is computing right now.

    Attributes:
        roles: of their lists, in the order `cond_or_uncond` counts them.
        places: by (number of the list, uuid).
        latents: that they are computed for. texts: (text tokens, chunk) of each conditioning.
    """

    roles: tuple[Role, ...] = ()
    places: dict[tuple[int, Any], Place | None] = field(default_factory=dict)
    latents: Tensor | None = None
    texts: list[tuple[Tensor, Chunk]] = field(default_factory=list)

    @classmethod
    def of(cls, conds: Sequence[Sequence[Mapping] | None], latents: Tensor) -> Conditionings:
        """Those in these lists, computed for `latents` [B, C, T, H, W] or [B, C, H, W]."""
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
        for, the text tells which one it is. More rows are several tiles, one after the other. Where a tile lies, or
        which area of several it is, its latents tell: they are a part of the whole latents.

        Args:
            options: transformer_options of the call.
            x: its latents.
            text: [rows, L, C], its text tokens.
        """
        order = options.get("cond_or_uncond", (0,))
        uuids = options.get("uuids", ())
        if len(uuids) != len(order):
            uuids = (None,) * len(order)
        found = [self._told(index, uuid) for index, uuid in zip(order, uuids, strict=True)]
        if self.latents is None:
            return tuple(chunks[0] for chunks in found)
        rows = self.latents.shape[0]
        if len(x) >= rows * len(order):
            found *= len(x) // (rows * len(order))
        else:
            found = self._read(found, text, max(len(x) // rows, 1))
        rows = max(len(x) // len(found), 1)
        return tuple(self._placed(chunks, x[min(i * rows, len(x) - 1)]) for i, chunks in enumerate(found))

    def _told(self, index: int, uuid: Any) -> list[Chunk]:
        """What a chunk can be by its list and, where that is known, its uuid."""
        role = self.roles[index] if index < len(self.roles) else "negative" if index == 1 else "positive"
        if (index, uuid) in self.places:
            return [Chunk(role, self.places[index, uuid])]
        places = [place for (number, _), place in self.places.items() if number == index]
        return [Chunk(role, place) for place in dict.fromkeys(places)] or [Chunk(role)]

    def _read(self, told: list[list[Chunk]], text: Tensor | None, parts: int) -> list[list[Chunk]]:
        """The same for a call of fewer parts than it is told to have, by their text."""
        if text is None or len({chunk for chunks in told for chunk in chunks}) == 1:
            return told[:parts]
        read = [[chunk for known, chunk in self.texts if _is_text(part, known)] for part in text.chunk(parts)]
        return [chunks or others for chunks, others in zip(read, told, strict=False)]

    def _placed(self, chunks: Sequence[Chunk], first: Tensor) -> Chunk:
        """The one of these chunks whose latents in its first row [C, ...] these are; of none of them, a tile."""
        axes = first.dim() - 1
        full = self.latents.shape[2:]
        sizes = {chunk: tuple(chunk.place.size[-axes:] if chunk.place else full) for chunk in chunks}
        fitting = [chunk for chunk, size in sizes.items() if size == tuple(first.shape[1:])]
        if len(fitting) == 1:
            return fitting[0]
        first = first.to(self.latents)  # another GPU's part of the batch
        for chunk in fitting:
            if torch.equal(self._part(chunk.place.start[-axes:] if chunk.place else (0,) * axes, first), first):
                return chunk
        if fitting:
            return fitting[0]
        corner = first[(slice(None), *(0,) * axes)]
        starts = (self.latents[0] == corner.view(-1, *(1,) * axes)).all(0).nonzero()
        for start in starts.tolist():
            if torch.equal(self._part(start, first), first):
                return replace(chunks[0], place=_place([*first.shape[1:], *start], self.latents))
        return chunks[0]

    def _part(self, start: Sequence[int], like: Tensor) -> Tensor:
        """The latents [C, ...] from there on, of the size of others."""
        spans = (slice(begin, begin + size) for begin, size in zip(start, like.shape[1:], strict=True))
        return self.latents[0][(slice(None), *spans)]


def _is_text(text: Tensor, known: Tensor) -> bool:
    """Whether these are the tokens [rows, L, C] of a prompt; the host repeats it, to put it beside a longer one."""
    if text.dim() != known.dim() or text.shape[2:] != known.shape[2:] or text.shape[1] % known.shape[1]:
        return False
    times = text.shape[1] // known.shape[1]
    return torch.equal(known[:1].to(text).repeat(1, times, *[1] * (text.dim() - 2)), text[:1])


def _role(index: int, entries: Sequence[Mapping] | None) -> Role:
    """The role of the list that these entries are of; where they do not say, the host's second list is negative."""
    lists = [name for entry in entries or () for name in entry.get(LISTS, ())]
    roles: set[Role] = {"negative" if "negative" in name else "positive" for name in lists}
    return roles.pop() if len(roles) == 1 else "negative" if index == 1 else "positive"


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
