"""In which direction predicted clean latents become more like a reference's in how they move.

The loss is FlowMotion's (arXiv 2603.06289). The model's own output counts as a constant, so its gradient needs no pass
back through the model and is written down here in closed form. Latents are [B, C, T, H, W], about 1 in deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MotionLoss:
    """α · mean((x − r)²) + β · mean((D(x) − D(r))²), D the absolute differences of frames.

    Attributes:
        place: α, how much every frame is to look like the reference's. The default and β's are the authors'.
        change: β, how much it is to differ from the other frames as the reference's does, whatever the colours.
        neighbours: whether D holds the differences of neighbours beside those of all pairs, as published.
        keeps_mean: whether what all frames have in common counts for `place`. Without it a reference says only what
            changes, and its background has no colour to give.
    """

    place: float = 20.0
    change: float = 5.0
    neighbours: bool = True
    keeps_mean: bool = True

    def gradient(self, clean: Tensor, reference: Tensor) -> Tensor:
        """The loss's gradient at `clean`, times the number of its values, so that it does not depend on the size.

        Args:
            clean, reference: [B, C, T, H, W]; a reference of one sample serves all.
        """
        total = torch.zeros_like(clean)
        if self.place:
            away = clean - reference
            if not self.keeps_mean:
                away = away - away.mean(2, keepdim=True)
            total += 2 * self.place * away
        if self.change:
            total += self.change * self._of_changes(clean, reference)
        return total

    def _of_changes(self, clean: Tensor, reference: Tensor) -> Tensor:
        """Frame by frame distance in time: no more than a few copies of the latents, however many pairs there are."""
        frames = clean.shape[2]
        total = frames * clean - clean.sum(2, keepdim=True)  # the changes from all other frames
        for lag in range(1, frames):
            change = clean[:, :, lag:] - clean[:, :, :-lag]
            excess = -torch.copysign(reference[:, :, lag:] - reference[:, :, :-lag], change)
            if lag == 1 and self.neighbours:  # all pairs hold each pair of neighbours twice, so they count once more
                excess = 1.5 * excess + 0.5 * change
            total[:, :, lag:] += excess
            total[:, :, :-lag] -= excess
        entries = frames**2 + (frames - 1 if self.neighbours else 0)
        return total * (4 * frames / entries)


def moving_region(reference: Tensor, full: float = 0.5) -> Tensor:
    """Where what moves in a reference is at each moment, 0 to 1, [B, 1, T, H, W].

    It is how far a place is from what it shows most of the time. The rest of the picture is left to the model, and a
    reference that stands still leaves it everything.

    Args:
        reference: [B, C, T, H, W].
        full: mean distance over the channels from which on a place counts in full.
    """
    usual = reference.contiguous().median(2, keepdim=True).values  # of expanded tensors torch's median is wrong
    return ((reference - usual).abs().mean(1, keepdim=True) / full).clamp(0, 1)
