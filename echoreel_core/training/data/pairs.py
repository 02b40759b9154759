"""Which target clip has which references: the authors' JSON, JSONL, or a folder with one sub-folder per action."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import EchoReelError
from ...video.captions import name_in_words, sidecar_caption
from ...video.kinds import is_clip
from ..config import DataSettings, VideoSettings, local
from ..loss import seed_of

SPELLINGS = (
    ("input_text", "gt_video_path", "reference_text", "reference_video_path"),
    ("input_text", "gt_video_path", "inject_text", "inject_video_path"),
)
"""The keys of a pair, as the authors' README and as their code name them."""

_TAKE = re.compile(r"_g(\d+)_c\d+$")


@dataclass(frozen=True)
class Clip:
    """A video file and what it shows; `framing` only where it differs from the other clips'."""

    path: Path
    caption: str
    framing: VideoSettings | None = None


@dataclass(frozen=True)
class Pair:
    """A clip to be made, and the references it may be made from; one is drawn each time.

    Attributes:
        held_out: used for measuring only, never trained on.
    """

    target: Clip
    references: tuple[Clip, ...]
    held_out: bool = False


def read_pairs(settings: DataSettings, within: Path | None = None) -> list[Pair]:
    """All pairs that the settings name; no video is opened.

    A clip that measures is trained on in no role: it is no reference of the others either.

    Args:
        within: the folder in which the clips of a list must lie, where the list is not trusted.

    Raises: EchoReelError, naming the file and the entry, where there are none or something is missing.
    """
    source = settings.pairs
    if source.is_dir():
        pairs = _from_folder(source, settings)
    elif source.is_file():
        if settings.held_out_actions:
            raise EchoReelError("held_out_actions works with a folder of actions: use held_out for a list of pairs.")
        pairs = _from_list(source, settings)
        if within is not None:
            _check_places(pairs, source, within)
    else:
        raise EchoReelError(f"There is no {source.name} to read pairs from: choose a folder, a .json or a .jsonl file.")
    if not pairs:
        raise EchoReelError(f"{source.name} has no pairs in it: a pair needs two clips of the same action.")
    pairs = _without_leaks(pairs)
    if not any(not pair.held_out for pair in pairs):
        raise EchoReelError(f"{source.name} has no pair left to train on: hold fewer out, or add clips.")
    return pairs


def _without_leaks(pairs: list[Pair]) -> list[Pair]:
    """The pairs, those to train on without references that are held out; where no other is left, without the pair."""
    measured = {pair.target.path for pair in pairs if pair.held_out}
    kept = []
    for pair in pairs:
        references = tuple(c for c in pair.references if pair.held_out or c.path not in measured)
        if references and (pair.held_out or pair.target.path not in measured):
            kept.append(replace(pair, references=references))
    return kept


def _check_places(pairs: Iterable[Pair], source: Path, within: Path) -> None:
    """Raises: EchoReelError naming a clip outside a folder; links inside it may lead anywhere."""
    for number, pair in enumerate(pairs, start=1):
        for clip in (pair.target, *pair.references):
            if not Path(os.path.abspath(clip.path)).is_relative_to(os.path.abspath(within)):
                raise EchoReelError(
                    f"{source.name}, entry {number}: {clip.path} lies outside {within}: move or link the clip into it."
                )


def _is_held_out(name: str, share: float) -> bool:
    return seed_of("held out", name) / 2**32 < share


def _from_list(path: Path, settings: DataSettings) -> list[Pair]:
    root = settings.root or path.parent
    pairs = []
    for number, entry in enumerate(_entries(path), start=1):
        where = f"{path.name}, entry {number}"
        if not isinstance(entry, Mapping):
            raise EchoReelError(f"{where} is not an object in braces: {str(entry)[:60]}.")
        keys = next((keys for keys in SPELLINGS if all(key in entry for key in keys)), None)
        if keys is None:
            missing = [key for key in SPELLINGS[0] if key not in entry]
            raise EchoReelError(f"{where} lacks {', '.join(missing)} (or inject_text and inject_video_path).")
        values = [entry[key] for key in keys]
        for key, value in zip(keys, values, strict=True):
            if not isinstance(value, str):
                raise EchoReelError(f"{where}: {key} is {value!r}: use text.")
        prompt, target, caption, reference = values
        pairs.append(
            Pair(
                Clip(root / local(target), prompt),
                (Clip(root / local(reference), caption),),
                _is_held_out(target, settings.held_out),
            )
        )
    return pairs


def _entries(path: Path) -> Iterable[object]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".jsonl":
            entries = json.loads(text)
            if not isinstance(entries, list):
                raise EchoReelError(f"{path.name} has no list of pairs in it: it must begin with [.")
            return entries
        return [
            json.loads(line) for line in text.split("\n") if line.strip()
        ]  # not at U+2028 and the like, which JSON text may hold
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EchoReelError(f"{path.name} is not valid JSON: {error}.") from None


def _is_left_over(name: str) -> bool:
    """Whether editors and archivers made it: hidden files and folders, a Mac's doubles."""
    return name.startswith(".") or name == "__MACOSX"


def _from_folder(folder: Path, settings: DataSettings) -> list[Pair]:
    """A clip's references are the other clips of its action, from other recordings if the names show which.

    UCF-101 cuts several clips (_c01, _c02 …) from one recording (_g01): the same person in the same place. With such a
    reference, the model would learn to copy looks, which it must not.
    """
    actions = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_left_over(path.name))
    names = [path.name for path in actions]
    for name in settings.held_out_actions:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise EchoReelError(f"held_out_actions names {name}, but {folder.name} has no such sub-folder{hint}")
    pairs = []
    for action in actions:
        paths = sorted(
            path
            for path in action.rglob("*")
            if is_clip(path) and not any(map(_is_left_over, path.relative_to(action).parts))
        )
        clips = [Clip(path, sidecar_caption(path, strict=True) or name_in_words(action.name)) for path in paths]
        takes = [_TAKE.search(path.stem) for path in paths]
        for clip, take in zip(clips, takes, strict=True):
            others = [other for other in clips if other is not clip]
            if take:
                elsewhere = [c for c, t in zip(clips, takes, strict=True) if t and t.group(1) != take.group(1)]
                others = elsewhere or others
            if not others:
                continue
            if settings.held_out_actions:
                held_out = action.name in settings.held_out_actions
            else:
                held_out = _is_held_out(clip.path.relative_to(folder).as_posix(), settings.held_out)
            pairs.append(Pair(clip, tuple(others), held_out))
    return pairs
