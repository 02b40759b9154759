"""How guidance moves a sampling run: what it keeps from step to step, whatever the sampler.

Every sampler follows dx/dσ = (x − clean(x, σ)) / σ. Where the noise of x is changed by n, x + σ · n follows it as
well, so that a sampler can hold x while the model is shown x + σ · n: it gets the model's own prediction of the moved
latents, never an altered one, and its history stays that of one smooth run. With Euler this equals moving x after the
step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from .gradient import MotionLoss

MOST_AT_ONCE = 0.6
"""Of the whole strength, in one step. What a single prediction asks for is not corrected by another: with 4 steps, of
which one is guided, the whole strength copies the clip."""


@dataclass(frozen=True)
class Fade:
    """How the strength is spread over the run: full in the first half of its range, then in a straight line to 0.

    Attributes:
        start, end: share of the model's whole way from noise to a video, 0 to 1.
    """

    start: float = 0.0
    end: float = 0.25

    def share(self, begin: float, finish: float) -> float:
        """The share of the whole strength that falls between two places of the way."""
        return self._until(finish) - self._until(begin)

    def _until(self, place: float) -> float:
        done = min(max((place - self.start) / (self.end - self.start), 0.0), 1.0)
        return (done - max(done - 0.5, 0.0) ** 2) / 0.75


@dataclass
class Course:
    """The state of one run.

    Attributes:
        reference: clean latents [1, C, T, H, W] to follow.
        loss: what following means.
        strength: how far each value of x, at a deviation of 1, moves in all.
        fade: when in the run.
        place: noise level → share of the model's whole way, 0 at pure noise and 1 at the end.
        deviation: noise level → deviation of x there; 1 for flow matching, √(1 + σ²) where noise is added to a clip.
        region: how much each place may move, 0 to 1, broadcast to the latents.
    """

    reference: Tensor
    loss: MotionLoss
    strength: float
    fade: Fade
    place: Callable[[float], float]
    deviation: Callable[[float], float]
    region: Tensor | None = None
    noise: Tensor | None = field(default=None, init=False)
    _direction: Tensor | None = field(default=None, init=False)
    _seen: float = field(default=float("inf"), init=False)

    def moved(self, x: Tensor, sigma: float) -> Tensor:
        """What to show the model in place of x [B, C, T, H, W]; x itself where nothing has moved yet."""
        self._advance(sigma)
        return x if self.noise is None else x + (sigma * self.noise).to(x)

    def observe(self, clean: Tensor, sigma: float) -> None:
        """Take in what the model predicts at a step of the schedule; a second look at the same step tells nothing.

        Args:
            clean: predicted clean latents [B, C, T, H, W], after guidance.
        """
        if sigma >= self._seen:
            return
        self._seen = sigma
        if self.place(sigma) >= self.fade.end:
            return
        direction = -self.loss.gradient(clean.to(self.reference.dtype), self.reference).sign()
        self._direction = direction if self.region is None else direction * self.region

    def rest(self, sigma: float) -> Tensor | None:
        """What x still lacks where a run ends before all noise is gone, so that another can go on; None for nothing."""
        if sigma <= 0:
            return None
        self._advance(sigma)
        return None if self.noise is None else sigma * self.noise

    def _advance(self, sigma: float) -> None:
        """Changes the noise by what the last step's prediction asked for, once the next noise level is known."""
        if self._direction is None or not 0 < sigma < self._seen:
            return
        share = min(self.fade.share(self.place(self._seen), self.place(sigma)), MOST_AT_ONCE)
        step = self._direction * (self.strength * share * self.deviation(sigma) / sigma)
        self.noise = step if self.noise is None else self.noise + step
        self._direction = None
