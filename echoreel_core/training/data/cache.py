"""Latents and conditionings, made once and kept as files: training reads nothing else."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ...errors import EchoReelError
from ...progress import Progress
from ...video.frames import read_video, video_length
from ...video.keypoints import keypoints_at, keypoints_file, read_keypoints
from ..config import VideoSettings
from ..trainable import Encoders
from .cache_folder import CLIP_KIND, TEXT_KIND, CacheFolder, key_of, request
from .check import framings, same_recordings, without_copies
from .conditioning import as_conditioning
from .digests import Digests
from .pairs import Clip, Pair

Framed = tuple[Path, VideoSettings]


@dataclass
class CacheResult:
    """What a call of `build_cache` did.

    Attributes:
        bad: a line for each file that was left out.
        copies: a line for each target that is also its own reference.
    """

    made: int = 0
    found: int = 0
    pairs: int = 0
    held_out: int = 0
    bad: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)


@torch.inference_mode(False)  # what is kept is trained on
@torch.no_grad()  # encoders may be made in inference mode, with requires_grad on
def build_cache(
    folder: str | os.PathLike,
    pairs: Sequence[Pair],
    encoders: Encoders,
    video: VideoSettings,
    reference: VideoSettings | None = None,
    progress: Progress = lambda *_: None,
) -> CacheResult:
    """Makes what is missing or damaged in the cache and writes its manifest.

    May be interrupted at any time: every file is whole or not there, and the next call goes on from it. Files that
    cannot be read are left out, with every pair that needs them; so are references that are their target's copy.

    Raises: EchoReelError where no pair is left.
    """
    cache = CacheFolder(folder)
    builder = _Builder(cache, encoders, Digests(cache.digests_file))
    targets = {(pair.target.path, pair.target.framing or video) for pair in pairs}
    clips = list(framings(pairs, video, reference))
    captions = list(dict.fromkeys(["", *(c.caption for pair in pairs for c in (pair.target, *pair.references))]))
    total = len(clips) + len(captions)
    try:
        for done, framed in enumerate(clips, start=1):
            progress(done, total, builder.add_clip(framed, framed in targets))
        builder.result.copies = list(same_recordings(pairs, builder.digests))
        usable = without_copies(pairs, builder.digests)
    finally:
        builder.digests.save()
    for done, caption in enumerate(captions, start=len(clips) + 1):
        progress(done, total, builder.add_text(caption))
    builder.finish(pairs, usable, video, reference)
    return builder.result


class _Builder:
    """Fills a cache: clips and captions one by one, then the manifest."""

    def __init__(self, cache: CacheFolder, encoders: Encoders, digests: Digests) -> None:
        self.cache, self.encoders, self.digests = cache, encoders, digests
        self.result = CacheResult()
        self._clips: dict[Framed, str] = {}
        self._texts: dict[str, str] = {}
        self._rates: list[float] = []

    def add_clip(self, framed: Framed, is_target: bool) -> str:
        """Encodes a clip unless it is there; returns a line about it."""
        path, framing = framed
        try:
            poses = keypoints_file(path)
            watched = [] if poses is None else [self.digests.of(poses)]
            key = key_of(self.digests.of(path), asdict(framing), self.encoders.identity, is_target, *watched)
            facts = self.cache.facts(CLIP_KIND, key)
            if facts is None:
                rate = self._encode(path, framing, key, is_target, poses)
        except EchoReelError as error:
            self.result.bad.append(f"{path.name}: {error}")
            return f"bad     {path.name}: {error}"
        self._clips[framed] = key
        self._rates.append(rate if facts is None else facts["fps"])
        return f"{self._count(facts is None)} {path.name}{' with keypoints' if poses else ''}"

    def _encode(self, path: Path, framing: VideoSettings, key: str, is_target: bool, poses: Path | None) -> float:
        """Keeps a clip's latents and keypoints, and what the model is given of one that it is to make.

        Returns: frames per second.
        """
        points = None if poses is None else read_keypoints(poses)
        clip = read_video(path, framing.choice(), width=framing.width, height=framing.height, crop=framing.crop)
        facts = {
            "file": path.name,
            "fps": clip.fps,
            "times": [float(time) for time in clip.times],
            "repeated": clip.repeated,
        }
        given = self.encoders.image_conditioning(clip.frames, clip.fps) if is_target else {}
        kept = {"latents": self.encoders.encode_video(clip.frames)}
        if points is not None:
            frames = kept["latents"].shape[1]
            kept["keypoints"] = keypoints_at(points, clip.times, video_length(path), clip.view, frames)
        self.cache.write(CLIP_KIND, key, kept, given, facts)
        return clip.fps

    def add_text(self, caption: str) -> str:
        """Encodes a caption unless it is there; returns a line about it."""
        self._texts[caption] = key = key_of(caption, self.encoders.identity)
        missing = self.cache.facts(TEXT_KIND, key) is None
        if missing:
            conditioning = as_conditioning(self.encoders.encode_text([caption])[0])
            self.cache.write(TEXT_KIND, key, {}, conditioning, {"text": caption})
        self._count(missing)
        return f"text    {caption[:60]!r}"

    def _count(self, made: bool) -> str:
        self.result.made, self.result.found = self.result.made + made, self.result.found + (not made)
        return "encoded" if made else "found  "

    def finish(
        self, pairs: Sequence[Pair], usable: Sequence[Pair], video: VideoSettings, reference: VideoSettings | None
    ) -> None:
        """Writes the manifest. Raises: EchoReelError where no pair is left."""
        result = self.result
        table: dict[tuple[str, str], int] = {}  # (latents, text) → number; actions name each clip many times over

        def number(clip: Clip, framing: VideoSettings) -> int | None:
            latents = self._clips.get((clip.path, framing))
            return None if latents is None else table.setdefault((latents, self._texts[clip.caption]), len(table))

        entries = []
        for pair in usable:
            target = number(pair.target, pair.target.framing or video)
            references = [number(clip, reference or video) for clip in pair.references]
            references = [entry for entry in references if entry is not None]
            if target is not None and references:
                entries.append([target, references, pair.held_out])
        result.pairs, result.held_out = len(entries), sum(held_out for _, _, held_out in entries)
        if not entries:
            why = [*result.bad, *result.copies, "there were none"][0]
            raise EchoReelError(f"No pair is left to train on: {why}.")
        self.cache.write_manifest(
            request=request(pairs, video, reference, self.encoders.identity),
            empty_text=self._texts[""],
            fps=statistics.median(self._rates),
            clips=list(table),
            pairs=entries,
            groups={key: f"{f.frames} x {f.width} x {f.height}" for (_, f), key in self._clips.items()},
        )
