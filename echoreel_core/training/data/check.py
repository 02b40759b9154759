"""Decoding every clip of a data set once, to say what will happen to it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...video.frame_choice import FrameSelection
from ...video.frames import read_video
from ...video.reader import VideoFile
from ..config import VideoSettings
from .pairs import Pair


@dataclass(frozen=True)
class FileReport:
    """What will happen to one file: `verdict` is "ok", "short" (its last frame is repeated) or "bad" (left out)."""

    path: Path
    verdict: str
    line: str


def framings(
    pairs: Sequence[Pair], video: VideoSettings, reference: VideoSettings | None
) -> dict[tuple[Path, VideoSettings], None]:
    """Every (file, framing) that the pairs need, once each: the targets', then the references'."""
    targets = dict.fromkeys(pair.target.path for pair in pairs)
    references = dict.fromkeys(clip.path for pair in pairs for clip in pair.references)
    items = [(path, video) for path in targets] + [(path, reference or video) for path in references]
    return dict.fromkeys(items)


def check_file(path: Path, framing: VideoSettings) -> FileReport:
    """Decodes what training would take from a file. Never raises."""
    try:
        with VideoFile(path) as video:
            video.scan(FrameSelection(mode="even"))  # all of it
            rate, count, length = float(video.rate or 0), len(video.times), float(video.end)
        clip = read_video(path, framing.choice(), width=framing.width, height=framing.height, crop=framing.crop)
    except Exception as error:  # one bad file, however bad, must not end the check of ten thousand
        reason = " ".join(str(error).split()) or type(error).__name__
        return FileReport(path, "bad", f"bad    {path.name}: {reason}")
    taken = len(clip.times) - clip.repeated
    facts = (
        f"{rate:.4g} fps, {count} frames, {length:.2f} s; takes {taken} from "
        f"{float(clip.times[0]):.2f} to {float(clip.times[-1]):.2f} s"
    )
    if clip.repeated:
        return FileReport(path, "short", f"short  {path.name}: {facts}, its last is repeated {clip.repeated} times")
    return FileReport(path, "ok", f"ok     {path.name}: {facts}")


def check_files(items: Iterable[tuple[Path, VideoSettings]]) -> Iterator[FileReport]:
    """`check_file` for each, in order, on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(check_file, *zip(*items, strict=True))


def summary(reports: Iterable[FileReport], pairs: Iterable[Pair]) -> list[str]:
    """Lines that say how many files are of which verdict and what is left of the pairs."""
    reports, pairs = list(reports), list(pairs)
    counts = {verdict: sum(report.verdict == verdict for report in reports) for verdict in ("ok", "short", "bad")}
    bad = {report.path for report in reports if report.verdict == "bad"}
    usable = [pair for pair in pairs if pair.target.path not in bad and any(c.path not in bad for c in pair.references)]
    held_out = sum(pair.held_out for pair in usable)
    return [
        f"{len(reports)} files: {counts['ok']} ok, {counts['short']} too short (last frame repeated), "
        f"{counts['bad']} bad (left out).",
        f"{len(usable)} of {len(pairs)} pairs can be used, {held_out} of them held out for measuring.",
    ]
