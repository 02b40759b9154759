"""Which target clip has which references: the authors' JSON, JSONL, or a folder with one sub-folder per action."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import EchoReelError
from ...video.captions import VIDEO_SUFFIXES, name_in_words, sidecar_caption
from ..config import DataSettings
from ..loss import seed_of

SPELLINGS = (
    ("input_text", "gt_video_path", "reference_text", "reference_video_path"),
    ("input_text", "gt_video_path", "inject_text", "inject_video_path"),
)
"""The keys of a pair, as the authors' README and as their code name them."""

_TAKE = re.compile(r"_g(\d+)_c\d+$")


@dataclass(frozen=True)
class Clip:
    """A video file and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Pair:
    """A clip to be made, and the references it may be made from; one is drawn each time.

    Attributes:
        held_out: used for measuring only, never trained on.
    """

    target: Clip
    references: tuple[Clip, ...]
    held_out: bool = False


def read_pairs(settings: DataSettings) -> list[Pair]:
    """All pairs that the settings name; no video is opened.

    Raises: EchoReelError, naming the file and the entry, where there are none or something is missing.
    """
    source = settings.pairs
    if source.is_dir():
        pairs = _from_folder(source, settings)
    elif source.is_file():
        if settings.held_out_actions:
            raise EchoReelError("held_out_actions works with a folder of actions: use held_out for a list of pairs.")
        pairs = _from_list(source, settings)
    else:
        raise EchoReelError(f"There is no {source.name} to read pairs from: choose a folder, a .json or a .jsonl file.")
    if not pairs:
        raise EchoReelError(f"{source.name} has no pairs in it: a pair needs two clips of the same action.")
    return pairs


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
                Clip(root / target, prompt),
                (Clip(root / reference, caption),),
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
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EchoReelError(f"{path.name} is not valid JSON: {error}.") from None


def _from_folder(folder: Path, settings: DataSettings) -> list[Pair]:
    """A clip's references are the other clips of its action, from other recordings if the names show which.

    UCF-101 cuts several clips (_c01, _c02 …) from one recording (_g01): the same person in the same place. With such a
    reference, the model would learn to copy looks, which it must not.
    """
    actions = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = [path.name for path in actions]
    for name in settings.held_out_actions:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise EchoReelError(f"held_out_actions names {name}, but {folder.name} has no such sub-folder{hint}")
    pairs = []
    for action in actions:
        paths = sorted(path for path in action.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        clips = [Clip(path, sidecar_caption(path) or name_in_words(action.name)) for path in paths]
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
