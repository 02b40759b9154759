"""Latents and conditionings, made once and kept as files: training reads nothing else.

A cache folder holds `latents/<key>.safetensors`, `text/<key>.safetensors` and `manifest.json`, which says what belongs
together. Keys are hashes of the content and of every setting that decides the result, so files never go stale; what is
there is not made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import EchoReelError
from ...files import read_description, read_tensors, whole_file, write_safetensors
from ...video.frames import read_video
from ..config import VideoSettings
from ..trainable import Encoders
from .batches import Batch
from .check import framings
from .conditioning import TOKENS, Conditioning, as_conditioning, pack, unpack
from .pairs import Clip, Pair

MANIFEST = "manifest.json"
DIGESTS = "files.json"
VERSION = 2
CLIP_KIND, TEXT_KIND = "encoded clip", "encoded text"

Progress = Callable[[int, int, str], None]
"""Called with (items done, items in all, one line about the latest)."""


@dataclass
class CacheResult:
    """What a call of `build_cache` did; `bad` holds one line for each file that was left out."""

    made: int = 0
    found: int = 0
    pairs: int = 0
    held_out: int = 0
    bad: list[str] = field(default_factory=list)


def _key(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=12).hexdigest()


def _write_json(path: Path, value: object) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value), encoding="utf-8")


class _Digests:
    """Content hashes of files, remembered by size and time of change so that large ones are read once only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known: dict[str, list] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def of(self, path: Path) -> str:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        name = str(path.resolve())
        if self.known.get(name, [])[:2] != stamp:
            digest = hashlib.blake2b(digest_size=16)
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            self.known[name] = [*stamp, digest.hexdigest()]
        return self.known[name][2]

    def save(self) -> None:
        _write_json(self.path, self.known)


def request(pairs: Sequence[Pair], video: VideoSettings, reference: VideoSettings | None, identity: str) -> str:
    """Names what a cache was asked for, so that a changed data set or setting is noticed."""
    clips = dict.fromkeys(clip for pair in pairs for clip in (pair.target, *pair.references))
    number = {clip: index for index, clip in enumerate(clips)}
    listed = [[number[p.target], [number[clip] for clip in p.references], p.held_out] for p in pairs]
    names = [[str(clip.path), clip.caption] for clip in clips]
    return _key(names, listed, asdict(video), asdict(reference or video), identity)


@torch.inference_mode(False)
def build_cache(
    folder: str | os.PathLike,
    pairs: Sequence[Pair],
    encoders: Encoders,
    video: VideoSettings,
    reference: VideoSettings | None = None,
    progress: Progress = lambda *_: None,
) -> CacheResult:
    """Makes what is missing in the cache and writes its manifest.

    May be interrupted at any time: every file is whole or not there, and the next call goes on from it. Files that can
    not be read are left out, with every pair that needs them.

    Raises: EchoReelError where no pair is left.
    """
    folder, result = Path(folder), CacheResult()
    for name in ("latents", "text"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    clips = list(framings(pairs, video, reference))
    targets = {(pair.target.path, video) for pair in pairs}
    captions = list(dict.fromkeys(["", *(c.caption for pair in pairs for c in (pair.target, *pair.references))]))
    total = len(clips) + len(captions)
    digests, keys, fps = _Digests(folder / DIGESTS), {}, []
    try:
        for path, framing in clips:
            try:
                show = (path, framing) in targets
                made, key, rate = _cached_clip(folder, path, framing, encoders, digests, show)
            except EchoReelError as error:
                result.bad.append(f"{path.name}: {error}")
                line = f"bad     {path.name}: {error}"
            else:
                keys[path, framing] = key
                fps.append(rate)
                result.made, result.found = result.made + made, result.found + (not made)
                line = f"{'encoded' if made else 'found  '} {path.name}"
            progress(len(keys) + len(result.bad), total, line)
    finally:
        digests.save()
    for caption in captions:
        key = _key(VERSION, caption, encoders.identity)
        file = folder / "text" / f"{key}.safetensors"
        if file.exists():
            result.found += 1
        else:
            facts = {"format": TEXT_KIND, "version": VERSION, "text": caption}
            _write_conditioning(file, {}, as_conditioning(encoders.encode_text([caption])[0]), facts)
            result.made += 1
        keys[caption] = key
        progress(len(keys) + len(result.bad), total, f"text    {caption[:60]!r}")

    table: dict[tuple[str, str], int] = {}  # (latents, text) → number; actions name each clip many times over

    def entry(clip: Clip, framing: VideoSettings) -> int | None:
        latents = keys.get((clip.path, framing))
        return None if latents is None else table.setdefault((latents, keys[clip.caption]), len(table))

    entries = []
    for pair in pairs:
        target = entry(pair.target, video)
        references = [entry(clip, reference or video) for clip in pair.references]
        references = [number for number in references if number is not None]
        if target is not None and references:
            entries.append([target, references, pair.held_out])
    result.pairs, result.held_out = len(entries), sum(held_out for _, _, held_out in entries)
    if not entries:
        raise EchoReelError(f"No pair is left to train on: {result.bad[0] if result.bad else 'there were none'}.")
    _write_json(
        folder / MANIFEST,
        {
            "version": VERSION,
            "request": request(pairs, video, reference, encoders.identity),
            "empty_text": keys[""],
            "fps": statistics.median(fps),
            "clips": list(table),
            "pairs": entries,
        },
    )
    return result


def _cached_clip(
    folder: Path, path: Path, framing: VideoSettings, encoders: Encoders, digests: _Digests, show: bool
) -> tuple[bool, str, float]:
    """(whether it had to be made, its key, its frames per second); `show` it to the model where it is to make it.

    Raises: EchoReelError where it cannot be read.
    """
    try:
        key = _key(VERSION, digests.of(path), asdict(framing), encoders.identity, show)
    except OSError as error:
        raise EchoReelError(f"it cannot be read ({error.strerror})") from None
    file = folder / "latents" / f"{key}.safetensors"
    if file.exists():
        return False, key, read_description(file, CLIP_KIND, VERSION)["fps"]
    clip = read_video(path, framing.choice(), width=framing.width, height=framing.height, crop=framing.crop)
    facts = {
        "format": CLIP_KIND,
        "version": VERSION,
        "file": path.name,
        "fps": clip.fps,
        "times": [float(time) for time in clip.times],
        "repeated": clip.repeated,
    }
    shown = encoders.image_conditioning(clip.frames, clip.fps) if show else {}
    _write_conditioning(file, {"latents": encoders.encode_video(clip.frames)}, shown, facts)
    return True, key, clip.fps


def _write_conditioning(
    file: Path, tensors: dict[str, Tensor], conditioning: Conditioning, facts: dict[str, Any]
) -> None:
    named: dict[str, Tensor] = {}
    layout = pack(conditioning, named, "told")
    write_safetensors(file, {**tensors, **named}, {**facts, "conditioning": layout})


def read_manifest(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The cache's manifest, or None where there is none yet. Raises: EchoReelError where it is damaged."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EchoReelError(
            f"{path.parent.name}/{path.name} is damaged ({error}): delete it and run `cache` again."
        ) from None
    return manifest if manifest.get("version") == VERSION else None


class CachedPairs:
    """The pairs of a cache, those trained on or those held out; implements `PairSource`.

    Attributes:
        fps: median frame rate at which the clips were taken.
    """

    def __init__(self, folder: str | os.PathLike, held_out: bool = False) -> None:
        """Raises: EchoReelError where the folder holds no finished cache."""
        self.folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest is None:
            raise EchoReelError(f"There is no finished cache in {folder}: run `cache` first.")
        self.clips: list[list[str]] = manifest["clips"]
        self.pairs = [
            (target, references) for target, references, measures in manifest["pairs"] if measures == held_out
        ]
        self.fps: float = manifest["fps"]
        self.empty_text = self._text(manifest["empty_text"])

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """See `PairSource`. Raises: EchoReelError where a file of the cache is missing or damaged."""
        rows = []
        for index, seed in zip(indices, seeds, strict=True):
            target, references = self.pairs[index]
            (latents, prompt), (reference, caption) = self.clips[target], self.clips[references[seed % len(references)]]
            target, shown = self._clip(latents)
            rows.append((target, self._clip(reference)[0], self._text(prompt), self._text(caption)[TOKENS], shown))
        target, reference, prompt, caption, shown = zip(*rows, strict=True)
        return Batch(torch.stack(target), torch.stack(reference), prompt, caption, shown)

    def _clip(self, key: str) -> tuple[Tensor, Conditioning]:
        tensors, conditioning = _read(self.folder / "latents" / f"{key}.safetensors", CLIP_KIND)
        return tensors["latents"], conditioning

    def _text(self, key: str) -> Conditioning:
        return _read(self.folder / "text" / f"{key}.safetensors", TEXT_KIND)[1]


def _read(file: Path, kind: str) -> tuple[dict[str, Tensor], Conditioning]:
    """A file's tensors, and the conditioning they and its description hold."""
    tensors = read_tensors(file)
    return tensors, unpack(read_description(file, kind, VERSION)["conditioning"], tensors)
