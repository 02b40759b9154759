"""Guidance by a clip with no adapter, as the table tries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...guide.course import Course, Fade
from ...guide.gradient import MotionLoss, moving_region


@dataclass(frozen=True)
class Guidance:
    """One setting.

    Attributes:
        strength: how far each latent value moves in all, at a deviation of 1.
        end: where in the run it has faded out.
        keeps_mean: whether what does not change over time is followed as well.
        moving_only: whether only places at which the reference moves are guided.
        place, change: weights of the loss.
    """

    strength: float = 1.0
    end: float = 0.25
    keeps_mean: bool = False
    moving_only: bool = True
    place: float = 20.0
    change: float = 5.0

    def course(self, reference: Tensor, place: Callable[[float], float], deviation: Callable[[float], float]) -> Course:
        """A run that follows the reference's latents [B, C, T, H, W]; `place` and `deviation` as in `Course`."""
        return Course(
            reference,
            MotionLoss(self.place, self.change, keeps_mean=self.keeps_mean),
            self.strength,
            Fade(0.0, self.end),
            place,
            deviation,
            region=moving_region(reference) if self.moving_only else None,
        )
