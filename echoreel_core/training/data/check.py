"""What will happen to each clip of a data set, and which pairs would teach nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import EchoReelError
from ...video.frame_choice import FrameSelection
from ...video.frames import read_video
from ...video.keypoints import keypoints_file, read_keypoints
from ...video.reader import VideoFile
from ..config import VideoSettings
from .digests import Digests
from .pairs import Clip, Pair


@dataclass(frozen=True)
class FileReport:
    """What will happen to one file: `verdict` is "ok", "short" (frames are repeated) or "bad" (left out)."""

    path: Path
    verdict: str
    line: str


def framings(
    pairs: Sequence[Pair], video: VideoSettings, reference: VideoSettings | None
) -> dict[tuple[Path, VideoSettings], None]:
    """Every (file, framing) that the pairs need, once each: the targets', then the references'."""
    targets = [(pair.target.path, pair.target.framing or video) for pair in pairs]
    references = dict.fromkeys(clip.path for pair in pairs for clip in pair.references)
    return dict.fromkeys([*targets, *((path, reference or video) for path in references)])


def check_file(path: Path, framing: VideoSettings) -> FileReport:
    """Decodes what training would take from a file. Never raises."""
    try:
        with VideoFile(path) as video:
            video.scan(FrameSelection(mode="even"))  # all of it
            rate, count, length = float(video.rate or 0), len(video.times), float(video.end)
        clip = read_video(path, framing.choice(), width=framing.width, height=framing.height, crop=framing.crop)
        if poses := keypoints_file(path):
            read_keypoints(poses)
    except Exception as error:  # one bad file, however bad, must not end the check of ten thousand
        reason = " ".join(str(error).split()) or type(error).__name__
        return FileReport(path, "bad", f"bad    {path.name}: {reason}")
    taken = len(set(clip.times))
    facts = (
        f"{rate:.4g} fps, {count} frames, {length:.2f} s; takes {taken} from "
        f"{float(clip.times[0]):.2f} to {float(clip.times[-1]):.2f} s, as {framing.width} x {framing.height}"
        f"{', with keypoints' if poses else ''}"
    )
    missing = len(clip.times) - taken
    if missing:
        return FileReport(path, "short", f"short  {path.name}: {facts}, {missing} of {len(clip.times)} are repeats")
    return FileReport(path, "ok", f"ok     {path.name}: {facts}")


def check_files(items: Iterable[tuple[Path, VideoSettings]]) -> Iterator[FileReport]:
    """`check_file` for each, in order, on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(check_file, *zip(*items, strict=True))


def without_copies(pairs: Iterable[Pair], digests: Digests) -> list[Pair]:
    """The pairs without references that are the same recording as their target, of which only copying is learned.

    The same are files of the same content, whatever they are called. A pair without any other reference goes.
    """
    kept = []
    for pair in pairs:
        references = tuple(clip for clip in pair.references if not _same(pair.target, clip, digests))
        if references:
            kept.append(replace(pair, references=references))
    return kept


def same_recordings(pairs: Iterable[Pair], digests: Digests) -> Iterator[str]:
    """A line for each target that is among its own references, and for each copy of it."""
    said = set()
    for pair in pairs:
        for clip in pair.references:
            names = frozenset((pair.target.path, clip.path))
            if names not in said and _same(pair.target, clip, digests):
                said.add(names)
                yield f"same   {pair.target.path.name} and {clip.path.name} are the same recording: not used as a pair"


def _same(one: Clip, other: Clip, digests: Digests) -> bool:
    try:
        if one.path == other.path:
            return True
        return one.path.stat().st_size == other.path.stat().st_size and digests.of(one.path) == digests.of(other.path)
    except (EchoReelError, OSError, ValueError):
        return False  # what cannot be read is told of elsewhere


def summary(reports: Iterable[FileReport], pairs: Iterable[Pair], digests: Digests) -> list[str]:
    """Lines that say how many files are of which verdict and what is left of the pairs."""
    reports, pairs = list(reports), list(pairs)
    counts = {verdict: sum(report.verdict == verdict for report in reports) for verdict in ("ok", "short", "bad")}
    bad = {report.path for report in reports if report.verdict == "bad"}
    usable = [
        pair
        for pair in without_copies(pairs, digests)
        if pair.target.path not in bad and any(c.path not in bad for c in pair.references)
    ]
    held_out = sum(pair.held_out for pair in usable)
    return [
        *same_recordings(pairs, digests),
        f"{len(reports)} files: {counts['ok']} ok, {counts['short']} too short (frames repeated), "
        f"{counts['bad']} bad (left out).",
        f"{len(usable)} of {len(pairs)} pairs can be used, {held_out} of them held out for measuring.",
    ]
