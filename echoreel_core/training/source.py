"""Batches of training pairs, ready for the model: latents and text tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .loss import seed_of


@dataclass(frozen=True)
class Batch:
    """Pairs: the model learns to make `target` from `prompt` by seeing `reference`, described by `caption`.

    Attributes:
        target: [B, C, T, H, W] clean latents, scaled as the model takes them.
        reference: [B, C, S, H', W'] likewise.
        prompt, caption: [B, L, W] text tokens.
    """

    target: Tensor
    reference: Tensor
    prompt: Tensor
    caption: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device, as tensors that autograd may keep (those made in inference mode are copied)."""
        moved = (getattr(self, field.name).to(device, non_blocking=True) for field in fields(self))
        return Batch(*(tensor.clone() if tensor.is_inference() else tensor for tensor in moved))


class PairSource(Protocol):
    """Where pairs come from: the cache, or a world that draws them.

    Attributes:
        empty_text: [L, W] tokens of the empty prompt.
    """

    empty_text: Tensor

    def __len__(self) -> int:
        """Pairs in an epoch."""

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """Pairs by number; `seeds` (32 bits each) decide where there is a choice. Equal arguments, equal batch."""


@lru_cache(maxsize=2)
def _order(length: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed_of(seed, "order", epoch)))


def pair_index(sample: int, length: int, seed: int) -> int:
    """Which pair is the sample of this running number: every epoch is its own permutation of all pairs."""
    epoch, place = divmod(sample, length)
    return int(_order(length, seed, epoch)[place])


def fit_text(tokens: Tensor, length: int) -> Tensor:
    """Tokens [..., L, W] with zeros appended up to `length`."""
    return F.pad(tokens, (0, 0, 0, length - tokens.shape[-2]))
