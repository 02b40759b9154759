"""The clips that Load Reference Video can be told to take: files and image sequences in ComfyUI's folders, examples."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import folder_paths

from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.pixel_actions.model.files import example_clips
from ..echoreel_core.video.image_sequence import sequence_files
from ..echoreel_core.video.kinds import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_clip

EXAMPLE = " [echoreel]"
"""As the host's " [output]": the clip is one that comes with the pack."""
LEAST = 2  # pictures in a folder that is listed as a sequence


def clip_names() -> list[str]:
    """Names of the clips in the input folder and the folders directly in it, of the folders that are image sequences
    ("walk/"), and of the examples."""
    folder = folder_paths.get_input_directory()
    found = list(_clips_in(folder, ""))
    for entry in _entries(folder):
        if entry.is_dir():
            found += _clips_in(entry.path, f"{entry.name}/")
            if sum(name.name.lower().endswith(PICTURE_SUFFIXES) for name in _entries(entry.path)) >= LEAST:
                found.append(f"{entry.name}/")
    return sorted(found) + [name + EXAMPLE for name in example_clips()]


def _clips_in(folder: str, prefix: str) -> Iterator[str]:
    files = [entry for entry in _entries(folder) if entry.is_file()]
    # The host goes by MIME types, of which some systems lack a few.
    videos = set(folder_paths.filter_files_content_types([entry.name for entry in files], ["video"]))
    yield from (prefix + entry.name for entry in files if entry.name in videos or _is_clip(entry))


def _is_clip(entry: os.DirEntry) -> bool:
    if not entry.name.lower().endswith(VIDEO_SUFFIXES):
        return False
    try:
        stat = entry.stat()
    except OSError:  # gone by now
        return False
    return _looked_into(entry.path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(2**16)
def _looked_into(path: str, _changed: int, _size: int) -> bool:
    """`is_clip`, once for each file: the list is made for every prompt, of folders that hold thousands of pictures."""
    return is_clip(path)


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def clip_stamp(path: str) -> list[tuple[str, int, int]]:
    """What changes with a clip: (name, time of change, size) of its file, or of each picture; [] where it is not."""
    try:
        paths = [os.path.join(path, name) for name in sequence_files(path)] if os.path.isdir(path) else [path]
        stats = [(path, os.stat(path)) for path in paths]
    except OSError:
        return []
    return [(os.path.basename(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats]


def input_path(file: str | None) -> str:
    """The path of a file, or of a folder with an image sequence, named as in the host's upload widgets ("clip.mp4",
    "clip.mp4 [output]", "walk/"), or by a whole path inside ComfyUI's input, output or temp folder.

    Raises: EchoReelError where there is none, or it is outside of those folders.
    """
    if not file:
        raise EchoReelError("No video is chosen: choose or upload one, or connect a video.")
    if file.endswith(EXAMPLE):
        path = example_clips().get(file.removesuffix(EXAMPLE))
        if path is None:
            raise EchoReelError(
                f"There is no example {file.removesuffix(EXAMPLE)!r}: use one of {', '.join(example_clips())}."
            )
        return str(path)
    name, folder = folder_paths.annotated_filepath(file)
    folders = [folder or folder_paths.get_input_directory()]
    if folder is None and os.path.isabs(name):
        folders += [folder_paths.get_output_directory(), folder_paths.get_temp_directory()]
    folders = [os.path.realpath(folder) for folder in folders]
    try:
        path = os.path.realpath(os.path.join(folders[0], name))
    except ValueError:  # a zero byte
        raise EchoReelError(f"{file!r} is not a file name: choose another video.") from None
    called = os.path.basename(folders[0])
    if not any(path.startswith(os.path.join(folder, "")) for folder in folders):
        raise EchoReelError(f"{file!r} is outside ComfyUI's {called} folder: move the video into it.")
    if not os.path.isfile(path) and not (os.path.isdir(path) and clip_stamp(path)):
        raise EchoReelError(f"There is no video {file!r} in the {called} folder: choose another one.")
    return path
