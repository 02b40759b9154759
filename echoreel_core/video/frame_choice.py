"""Which frames of a clip to take: decided on presentation times alone, before a single picture is decoded.

Times are exact (`Fraction`) seconds on the clip's own clock, whose zero is its first frame.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

from ..errors import EchoReelError

MODES = ("every_nth", "even", "fps")
CROPS = ("stretch", "center", "pad")

# Times are typed to the millisecond and Matroska stores them so: this much off still means the same frame.
TOLERANCE = Fraction(1, 1000)


@dataclass(frozen=True)
class FrameSelection:
    """What to take from a clip.

    Args:
        frames: how many frames come out, always exactly this many.
        mode: "every_nth" takes every n-th frame from the start (the authors' way, n = 4); "even" spreads the
            frames over the span, its first and last frame included, and takes the one that begins nearest, so that
            none lags; "fps" takes the frame on screen at each 1/fps seconds. Where the span ends early, "every_nth"
            and "fps" repeat the last frame taken.
        start: seconds; negative counts back from the end.
        duration: seconds; 0 means to the end.
        trim: (start, duration) in seconds of a cut made upstream; `start` and `duration` then count within it.
    """

    frames: int = 16
    mode: str = "every_nth"
    every_nth: int = 4
    fps: float = 8.0
    start: float = 0.0
    duration: float = 0.0
    trim: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise EchoReelError(f"The frame selection {self.mode!r} is unknown: use one of {', '.join(MODES)}.")
        if self.frames < 1:
            raise EchoReelError(f"The number of frames is {self.frames}: use 1 or more.")
        if self.every_nth < 1:
            raise EchoReelError(f"every_nth is {self.every_nth}: use 1 or more.")
        if not (math.isfinite(self.fps) and self.fps >= 0.001):
            raise EchoReelError(f"The frame rate is {self.fps} fps: use 0.001 or more.")
        if not math.isfinite(self.start):
            raise EchoReelError(f"The start is {self.start} s: use a finite number of seconds.")
        if not (math.isfinite(self.duration) and self.duration >= 0):
            raise EchoReelError(f"The duration is {self.duration} s: use 0 (to the end) or more.")

    def reach(self) -> tuple[Fraction, int | None, Fraction | None]:
        """How far into the clip the choice can look: (from this time, this many frames, up to this time);
        None means without limit."""
        trim_start, trim_duration = (Fraction(x) for x in self.trim)
        start = trim_start + Fraction(self.start)
        if self.start < 0 or trim_start < 0:
            return Fraction(0), None, None
        ends = [trim_start + trim_duration] if trim_duration else []
        ends += [start + Fraction(self.duration)] if self.duration else []
        count = (self.frames - 1) * self.every_nth + 1 if self.mode == "every_nth" else None
        return start, count, min(ends, default=None)

    def span(self, end: Fraction) -> tuple[Fraction, Fraction]:
        """The span to take frames from, (from, up to) in seconds, in a clip that lasts until `end`."""
        trim_start, trim_duration = (Fraction(x) for x in self.trim)
        low = trim_start if trim_start >= 0 else max(end + trim_start, Fraction(0))
        high = min(end, low + trim_duration) if trim_duration else end
        length = high - low
        if length <= 0:
            raise EchoReelError(
                f"The trimmed video starts at {float(low):.3f} s, but the video lasts only {float(end):.3f} s:"
                " trim it less."
            )
        start = Fraction(self.start) if self.start >= 0 else max(length + Fraction(self.start), Fraction(0))
        if start >= length - TOLERANCE and start > 0:
            of = "the trimmed video" if trim_start or trim_duration else "the video"
            raise EchoReelError(
                f"The start, {self.start:g} s, is past the end of {of}, which lasts {float(length):.3f} s:"
                " choose an earlier start."
            )
        begin = low + start
        return begin, min(high, begin + Fraction(self.duration)) if self.duration else high

    def choose(self, times: Sequence[Fraction], end: Fraction, rate: Fraction | None = None) -> "Choice":
        """Choose among frames shown at `times` (sorted) of a clip that lasts until `end`.

        `rate` is the clip's own frame rate, used only to name a rate where a single frame is chosen.
        Only frames that begin within the span are taken, so nothing from before a cut slips in; a span too short
        to hold the beginning of a frame gives the frame on screen.
        """
        begin, until = self.span(end)
        low = _first_from(times, begin)
        high = len(times) if until >= end else _first_from(times, until)
        if high <= low:
            low = _on_screen(times, begin)
            high = low + 1
        inside = times[low:high]
        first, last = inside[0], inside[-1]

        if self.mode == "every_nth":
            picked = list(inside[:: self.every_nth][: self.frames])
        else:
            early = Fraction(0)
            if self.mode == "even":
                step, early = (last - first) / max(self.frames - 1, 1), _half_a_frame(inside)
            else:
                step = 1 / Fraction(self.fps).limit_denominator(10000)
            wanted = [first + i * step for i in range(self.frames)]
            if self.mode == "fps":
                wanted = [t for t in wanted if t < until - min(TOLERANCE, step / 2)] or [first]
            picked = [inside[_on_screen(inside, t + early)] for t in wanted]

        if self.mode == "fps":
            fps = self.fps
        elif picked[-1] > picked[0]:
            fps = float((len(picked) - 1) / (picked[-1] - picked[0]))
        else:
            fps = float(rate / (self.every_nth if self.mode == "every_nth" else 1)) if rate else 1.0
        repeated = self.frames - len(picked)
        return Choice(tuple(picked + picked[-1:] * repeated), fps, repeated)


def _half_a_frame(times: Sequence[Fraction]) -> Fraction:
    """How long before it begins a frame is the nearest one, 0 for a single frame.

    What is on screen lags behind by as much, on average. A picture that is held for long is still taken for as long.
    """
    seconds = [float(time) for time in times]  # of hours of video, exact times take seconds to compare
    gaps = [b - a for a, b in pairwise(seconds)]
    return Fraction(median_low(gaps)) / 2 if gaps else Fraction(0)


def _first_from(times: Sequence[Fraction], time: Fraction) -> int:
    """The first frame that begins at `time` or later, or up to `TOLERANCE` before where that is the nearest one."""
    index = bisect_left(times, time)
    early = time - times[index - 1] if index else TOLERANCE + 1
    late = times[index] - time if index < len(times) else TOLERANCE + 1
    return index - 1 if early <= TOLERANCE and early < late else index


def _on_screen(times: Sequence[Fraction], time: Fraction) -> int:
    """The frame on screen at `time`, or the next where it begins within `TOLERANCE` and is the nearer one."""
    index = bisect_right(times, time)
    if index < len(times) and times[index] - time <= TOLERANCE:
        if not index or times[index] - time < time - times[index - 1]:
            return index
    return max(index - 1, 0)


@dataclass(frozen=True)
class Choice:
    """The frames chosen: one time per frame (seconds, ascending, repeats allowed), the rate they play at, and how
    many times the last one was repeated because the span was too short."""

    times: tuple[Fraction, ...]
    fps: float
    repeated: int
