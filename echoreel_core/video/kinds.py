"""Which files are clips."""

from __future__ import annotations

import os
import stat

VIDEO_SUFFIXES = tuple(
    f".{name}" for name in "apng avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm webp wmv".split()
)
"""Of all files that are taken for clips; a still WebP is none."""


def is_clip(path: str | os.PathLike) -> bool:
    """Whether a file is a clip, by its name; a WebP by whether it is animated."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in VIDEO_SUFFIXES and (suffix != ".webp" or is_animated_webp(path))


def is_animated_webp(path: str | os.PathLike) -> bool:
    """By content: the flag for animation in the file's extended header. False for what cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(21)
    except (OSError, ValueError):
        return False
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20:21] and head[20] & 2)
