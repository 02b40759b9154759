"""Clips of unlike sizes and lengths: each is framed as fits it best, and a long one gives several targets."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from ...errors import EchoReelError
from ...video.frame_choice import Choice, FrameSelection
from ...video.frames import read_video
from ...video.reader import VideoFile
from ..config import BucketSettings, VideoSettings
from .pairs import Pair

WIDEST = 2.5
"""The longest side over the shortest."""


@dataclass(frozen=True)
class _Facts:
    """A clip's frames in time, and its size as displayed."""

    times: Sequence[Fraction]
    end: Fraction
    rate: Fraction | None
    aspect: float

    def choice(self, framing: VideoSettings) -> Choice | None:
        """What would be taken; None where a frame would be repeated."""
        choice = framing.choice().choose(self.times, self.end, self.rate)
        return choice if len(set(choice.times)) == framing.frames else None


def framed_pairs(pairs: Sequence[Pair], video: VideoSettings, buckets: BucketSettings) -> list[Pair]:
    """The pairs, each target framed for itself; one for each span of a long target. References stay as they are.

    A clip gets the most frames of `buckets.frames` that it has without repeats, the aspect of its own picture at about
    the area of `video`, and up to `buckets.spans` spans that do not overlap. A file that cannot be read is left as it
    is: whoever encodes it tells why.
    """
    if buckets == BucketSettings(multiple=buckets.multiple):
        return list(pairs)
    paths = list(dict.fromkeys(pair.target.path for pair in pairs))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        framings = dict(zip(paths, pool.map(lambda path: _framings(path, video, buckets), paths), strict=True))
    return [
        replace(pair, target=replace(pair.target, framing=framing))
        for pair in pairs
        for framing in framings[pair.target.path]
    ]


def _framings(path: Path, video: VideoSettings, buckets: BucketSettings) -> list[VideoSettings]:
    try:
        facts = _facts(path)
        if buckets.aspect:
            video = _shaped(video, facts.aspect, buckets.multiple)
        for frames in sorted(buckets.frames, reverse=True):
            video = replace(video, frames=frames)
            if facts.choice(video) is not None:
                break
        return _spans(video, facts, buckets.spans)
    except (EchoReelError, OSError):
        return [video]


def _facts(path: Path) -> _Facts:
    source = read_video(path, FrameSelection(frames=1), width=16, height=16).source
    with VideoFile(path) as file:
        file.scan(FrameSelection(mode="even"))  # all of it
        return _Facts(list(file.times), file.end, file.rate, source.width / source.height)


def _shaped(video: VideoSettings, aspect: float, multiple: int) -> VideoSettings:
    """The framing with about the same area in another aspect, its sides multiples of a number."""
    aspect, area = min(max(aspect, 1 / WIDEST), WIDEST), video.width * video.height
    sides = (math.sqrt(area * aspect), math.sqrt(area / aspect))
    width, height = (max(1, round(side / multiple)) * multiple for side in sides)
    return replace(video, width=width, height=height)


def _spans(video: VideoSettings, facts: _Facts, most: int) -> list[VideoSettings]:
    choice = facts.choice(video)
    if most == 1 or choice is None or video.sampling == "even":  # which spreads over all of the clip
        return [video]
    first, last = choice.times[0], choice.times[-1]
    length = (last - first) * video.frames / max(1, video.frames - 1)
    until = min(facts.end, first + Fraction(video.duration)) if video.duration else facts.end
    count = min(most, int((until - first) / length)) if length else 1
    starts = [first + (until - first - length) * index / max(1, count - 1) for index in range(count)]
    spans = [replace(video, start=round(float(start), 3), duration=0.0) for start in starts]
    return [span for span in spans if facts.choice(span) is not None] or [video]
