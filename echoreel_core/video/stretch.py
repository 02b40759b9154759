"""One stretch of decoding, forwards from where it begins."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av

from .source import Step

Shown = tuple[Fraction, av.VideoFrame]
"""(shown from, seconds since the first frame; picture)"""


class Stretch:
    """Decodes `frames`, calling `step` for each. `position` is the time of the last one decoded."""

    def __init__(self, frames: Iterator[Shown], step: Step) -> None:
        self._frames, self._step = frames, step
        self._current = self._next = None
        self.position: Fraction | None = None

    def advance(self, time: Fraction) -> Shown | None:
        """The frame on screen at `time`, which may not go back."""
        while True:
            if self._next is None:
                self._next = next(self._frames, None)
                self._step()
                if self._next is None:
                    return self._current
                self.position = self._next[0]
            if self._next[0] > time:
                return self._current
            self._current, self._next = self._next, None
