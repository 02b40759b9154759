"""Which files are clips."""

from __future__ import annotations

import os
import stat

VIDEO_SUFFIXES = tuple(
    f".{name}" for name in "apng avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogv png ts webm webp wmv".split()
)
"""Of all files that are taken for clips; a still WebP or PNG is none."""
PICTURE_SUFFIXES = tuple(f".{name}" for name in "bmp jpeg jpg png tif tiff webp".split())
"""Of the files that make up an image sequence."""
MOST_CHUNKS = 64  # before the first picture of a PNG; in practice there are a handful


def is_clip(path: str | os.PathLike) -> bool:
    """Whether a file is a clip, by its name; a WebP or PNG by whether it is animated."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".webp":
        return is_animated_webp(path)
    if suffix == ".png":
        return _is_animated_png(path)
    return suffix in VIDEO_SUFFIXES


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


def _is_animated_png(path: str | os.PathLike) -> bool:
    """By content: an acTL chunk before the first picture. False for what cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            if file.read(8) != b"\x89PNG\r\n\x1a\n":
                return False
            for _ in range(MOST_CHUNKS):
                head = file.read(8)
                if len(head) < 8 or head[4:] in (b"acTL", b"IDAT"):
                    return head[4:] == b"acTL"
                file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    except (OSError, ValueError):
        pass
    return False
