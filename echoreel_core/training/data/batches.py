"""Batches of training pairs, and how they go through the model: latents and the conditioning of each sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ..loss import Draws, seed_of
from .conditioning import TOKENS, Conditioning, as_conditioning, batch_key, for_autograd, map_tensors


@dataclass(frozen=True)
class Batch:
    """Pairs: the model learns to make `target` from `prompt` by seeing `reference`, described by `caption`.

    Attributes:
        target: [B, C, T, H, W] clean latents, scaled as the model takes them.
        reference: [B, C, S, H', W'] likewise.
        prompt: B conditionings, or text tokens [B, L, W] if the model takes nothing else.
        caption: B times text tokens [L, W]; of one length, a tensor will do.
        image_conditioning: B conditionings with what the model is given of the target itself, as image-to-video
            models are; it goes over the prompt's. Empty for none.
        keypoints: [B, S, POINTS, 2], of the reference's figure, (x, y) from -1 to 1 over the picture; NaN where not
            known. None if nothing is.
    """

    target: Tensor
    reference: Tensor
    prompt: Tensor | Sequence[Conditioning]
    caption: Tensor | Sequence[Tensor]
    image_conditioning: Sequence[Conditioning] = ()
    keypoints: Tensor | None = None

    def conditioning_of(self, row: int, prompt: Tensor | Conditioning | None = None) -> Conditioning:
        """The whole conditioning of one sample, or of another prompt for it if one is given."""
        text = as_conditioning(self.prompt[row] if prompt is None else prompt)
        return {**text, **(self.image_conditioning[row] if self.image_conditioning else {})}


@dataclass(frozen=True)
class MicroBatch:
    """Samples that go through the model together: their conditionings have the same shapes.

    Attributes:
        target, reference: as in `Batch`.
        prompt, caption: [B, L, W] and [B, L', W] text tokens.
        conditionings: of each sample, text tokens and all.
        draws: what chance decides about them.
        keypoints: as in `Batch`; of a reference that is left out, nothing is known.
    """

    target: Tensor
    reference: Tensor
    prompt: Tensor
    caption: Tensor
    conditionings: tuple[Conditioning, ...]
    draws: Draws
    keypoints: Tensor | None = None

    def of(self, rows: list[int]) -> MicroBatch:
        """Some of the samples."""
        return MicroBatch(
            self.target[rows],
            self.reference[rows],
            self.prompt[rows],
            self.caption[rows],
            tuple(self.conditionings[row] for row in rows),
            self.draws.of(rows),
            None if self.keypoints is None else self.keypoints[rows],
        )


class PairSource(Protocol):
    """Where pairs come from: the cache, or a world that draws them.

    Attributes:
        empty_text: the conditioning of the empty prompt, or its text tokens [L, W].
    """

    empty_text: Tensor | Conditioning

    def __len__(self) -> int:
        """Pairs in an epoch."""

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """Pairs by number; `seeds` (32 bits each) decide random choices. Equal arguments give equal batches."""


def same_shape(pairs: PairSource, indices: Sequence[int]) -> list[list[int]]:
    """Places in `indices` whose pairs go into one batch: targets of one shape, where the source has a `group(index)`
    that tells."""
    group = getattr(pairs, "group", lambda _: None)
    places: dict[object, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(group(index), []).append(place)
    return list(places.values())


def micro_batches(
    batch: Batch,
    draws: Draws,
    empty_text: Tensor | Conditioning,
    device: torch.device | str,
    limit: int | None = None,
) -> Iterator[MicroBatch]:
    """The batch in as few passes as can be, on a device, with what was drawn to be dropped left out of it.

    That is the prompt, which becomes the empty one, and the reference, which becomes zeros without a caption. The
    prompt alone is dropped as text, as guidance keeps the reference and its caption in both halves. Nothing is padded:
    samples whose texts have other lengths go in other passes.

    Args:
        limit: samples in a pass at most.
    """
    empty = as_conditioning(empty_text)
    groups: dict[object, list[tuple[int, Conditioning, Tensor]]] = {}
    for row in range(len(batch.target)):
        conditioning = batch.conditioning_of(row, empty if draws.drop_text[row] else None)
        caption = empty[TOKENS] if draws.drop_reference[row] else batch.caption[row]
        groups.setdefault((batch_key(conditioning), tuple(caption.shape)), []).append((row, conditioning, caption))
    for group in groups.values():
        size = limit or len(group)
        for start in range(0, len(group), size):
            rows, conditionings, captions = zip(*group[start : start + size], strict=True)
            rows = list(rows)
            conditionings = map_tensors(conditionings, lambda tensor: for_autograd(tensor, device))
            dropped = draws.drop_reference[rows].to(device)[:, None, None, None]
            keypoints = None if batch.keypoints is None else batch.keypoints[rows].to(device)
            yield MicroBatch(
                target=for_autograd(batch.target[rows], device),
                reference=for_autograd(batch.reference[rows], device).masked_fill(dropped[..., None], 0),
                prompt=torch.stack([conditioning[TOKENS] for conditioning in conditionings]),
                caption=for_autograd(torch.stack(captions), device),
                conditionings=tuple(conditionings),
                draws=draws.of(rows),
                keypoints=None if keypoints is None else keypoints.masked_fill(dropped, math.nan),
            )


@lru_cache(maxsize=2)
def _order(length: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed_of(seed, "order", epoch)))


def pair_index(sample: int, length: int, seed: int) -> int:
    """Which pair is the sample of this running number: every epoch is its own permutation of all pairs."""
    epoch, place = divmod(sample, length)
    return int(_order(length, seed, epoch)[place])
