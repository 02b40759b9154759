"""The folder of a cache: the names of its files, how they are written, and which are complete.

`latents/<key>.safetensors`, `text/<key>.safetensors`, and `manifest.json`, which says what belongs together. Keys are
hashes of the content and of every setting that decides the result, so files never go stale.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import EchoReelError
from ...files import read_description, read_tensors, whole_file, write_safetensors
from ...video.keypoints import keypoints_file
from ..config import VideoSettings
from .conditioning import Conditioning, pack, unpack
from .pairs import Pair

VERSION = 2
CLIP_KIND, TEXT_KIND = "encoded clip", "encoded text"
FOLDERS = {CLIP_KIND: "latents", TEXT_KIND: "text"}


def key_of(*parts: object) -> str:
    """A name for the file that these parts determine."""
    return hashlib.blake2b(json.dumps([VERSION, *parts], sort_keys=True).encode(), digest_size=12).hexdigest()


def request(pairs: Sequence[Pair], video: VideoSettings, reference: VideoSettings | None, identity: str) -> str:
    """Names what a cache was asked for, so that a changed data set or setting is noticed."""
    clips = dict.fromkeys(clip for pair in pairs for clip in (pair.target, *pair.references))
    number = {clip: index for index, clip in enumerate(clips)}
    listed = [[number[p.target], [number[clip] for clip in p.references], p.held_out] for p in pairs]
    names = [[str(clip.path), clip.caption, *([asdict(clip.framing)] if clip.framing else [])] for clip in clips]
    poses = [[str(path), path.stat().st_mtime_ns] for clip in clips if (path := keypoints_file(clip.path))]
    return key_of(names, listed, asdict(video), asdict(reference or video), identity, *poses)


class CacheFolder:
    """Reads and writes the files of a cache."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.manifest_file = self.path / "manifest.json"
        self.digests_file = self.path / "files.json"

    def file(self, kind: str, key: str) -> Path:
        """The file of a clip or a text."""
        return self.path / FOLDERS[kind] / f"{key}.safetensors"

    def write(
        self, kind: str, key: str, tensors: dict[str, Tensor], conditioning: Conditioning, facts: dict[str, Any]
    ) -> None:
        """Saves tensors and a conditioning. Raises: EchoReelError if they cannot be saved."""
        named: dict[str, Tensor] = {}
        layout = pack(conditioning, named, "told")
        description = {"format": kind, "version": VERSION, **facts, "conditioning": layout}
        write_safetensors(self.file(kind, key), {**tensors, **named}, description)

    def read(self, kind: str, key: str) -> tuple[dict[str, Tensor], Conditioning]:
        """What `write` saved. Raises: EchoReelError if the file is missing or damaged."""
        file = self.file(kind, key)
        try:
            tensors = read_tensors(file)
            return tensors, unpack(read_description(file, kind, VERSION)["conditioning"], tensors)
        except (EchoReelError, KeyError, ValueError, TypeError, AttributeError):
            raise EchoReelError(
                f"{file.name} in the cache {self.path.name} is damaged or missing: run `cache` (or the node) again to "
                "restore it."
            ) from None

    def facts(self, kind: str, key: str) -> dict[str, Any] | None:
        """A file's description; None if the file is missing, cut off, or not made by `write`."""
        file = self.file(kind, key)
        try:
            found = read_description(file, kind, VERSION)
            with safe_open(file, framework="pt") as opened:
                names = dict.fromkeys(opened.keys())
            unpack(found["conditioning"], names)
        except (EchoReelError, SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError):
            return None
        if kind == CLIP_KIND and not ("latents" in names and isinstance(found.get("fps"), (int, float))):
            return None
        return found

    def write_manifest(self, **content: Any) -> None:
        """Writes the manifest, which completes the cache."""
        with whole_file(self.manifest_file) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, **content}), encoding="utf-8")

    def manifest(self) -> dict[str, Any] | None:
        """What belongs together; None if there is no finished cache, or if it must be made again."""
        try:
            manifest = json.loads(self.manifest_file.read_text(encoding="utf-8"))
            if manifest["version"] != VERSION or not isinstance(manifest["request"], str):
                return None
            keys = [*(key for clip in manifest["clips"] for key in _two(clip)), manifest["empty_text"]]
            numbers = [n for target, references, _ in manifest["pairs"] for n in (target, *references)]
            whole = all(isinstance(key, str) for key in keys) and manifest["fps"] > 0
            fits = all(type(number) is int and 0 <= number < len(manifest["clips"]) for number in numbers)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return manifest if whole and fits and all(references for _, references, _ in manifest["pairs"]) else None

    def is_whole(self) -> bool:
        """Whether there is a manifest, and every file that it names."""
        manifest = self.manifest()
        if manifest is None:
            return False
        latents = {key for key, _ in manifest["clips"]}
        texts = {manifest["empty_text"], *(key for _, key in manifest["clips"])}
        return all(self.facts(CLIP_KIND, key) for key in latents) and all(self.facts(TEXT_KIND, key) for key in texts)


def _two(clip: Any) -> tuple[Any, Any]:
    latents, text = clip
    return latents, text
