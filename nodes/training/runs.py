"""The data sets that a run may learn from, and the folders of runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths

from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.pixel_actions.model.files import PAIRS

RUNS = "echoreel_training"
LIST_SUFFIXES = (".json", ".jsonl")

EXAMPLE = "Pixel Actions [echoreel]"
"""The pairs that come with the pack."""


def data_sets() -> list[str]:
    """What in the input folder may be a data set: folders, and lists of pairs; then what comes with the pack."""
    with os.scandir(folder_paths.get_input_directory()) as entries:
        found = (entry.name for entry in entries if entry.is_dir() or entry.name.lower().endswith(LIST_SUFFIXES))
        return [*sorted(found), EXAMPLE]


def data_path(data: str) -> Path:
    """Where a data set is."""
    return PAIRS if data == EXAMPLE else Path(folder_paths.get_input_directory(), data)


def run_folder(name: str) -> Path:
    """Where a run keeps its files. Raises: EchoReelError if the name is not a plain folder name."""
    if not name.strip() or name != os.path.basename(name) or name.startswith("."):
        raise EchoReelError(f"The name {name!r} cannot be used for a folder: use letters, digits, - and _.")
    return Path(folder_paths.get_output_directory(), RUNS, name)


_finished: dict[Path, tuple[int, int] | None] = {}
"""The adapters of runs that ended, as they were left."""
_anew: dict[Path, int] = {}
"""How often a finished run was found changed, so that it has to run again."""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def content_of(data: str) -> str:
    """Names the clips of a data set, with their captions and keypoints, by size and time of change."""
    from ...echoreel_core.training.config import DataSettings
    from ...echoreel_core.training.data.pairs import read_pairs
    from ...echoreel_core.video.keypoints import keypoints_file

    source = data_path(data)
    try:
        pairs = read_pairs(DataSettings(source, source))
    except EchoReelError as error:
        return str(error)
    clips = dict.fromkeys(clip for pair in pairs for clip in (pair.target, *pair.references))
    poses = [(str(path), _stamp(path)) for clip in clips if (path := keypoints_file(clip.path))]
    listed = repr([*((str(clip.path), clip.caption, _stamp(clip.path)) for clip in clips), *poses])
    return hashlib.blake2b(listed.encode(), digest_size=12).hexdigest()


def finished(folder: Path, adapter: Path) -> None:
    """A run has ended, and left this file."""
    _finished[folder] = _stamp(adapter)


def runs_anew(name: str) -> int:
    """A number that changes where the finished adapter is not as the last run of this name left it."""
    folder = Path(folder_paths.get_output_directory(), RUNS, name)
    found = _stamp(folder / f"{name}.safetensors")
    if folder in _finished and found != _finished[folder]:
        _finished[folder] = found
        _anew[folder] = _anew.get(folder, 0) + 1
    return _anew.get(folder, 0)
