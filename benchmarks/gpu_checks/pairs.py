"""Pairs of noise to train on: a step costs the same whatever it learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from echoreel_core.training.data.batches import Batch


class NoisePairs:
    """Implements `PairSource`.

    Args:
        target, reference: shapes [C, T, H, W] of the latents. text: [L, W] of the tokens.
    """

    def __init__(self, target: Sequence[int], reference: Sequence[int], text: Sequence[int], count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._target, self._reference, self._text = (
            torch.randn(count, *shape, generator=generator) for shape in (target, reference, text)
        )
        self.empty_text = self._text[0]

    def __len__(self) -> int:
        return len(self._target)

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """See `PairSource`."""
        rows = list(indices)
        return Batch(self._target[rows], self._reference[rows], self._text[rows], self._text[rows])
