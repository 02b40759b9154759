"""A clip's caption, from its text file, its name or its folder."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import PurePath
from typing import BinaryIO

from ..errors import EchoReelError
from ..files import check_file

CAPTION_LIMIT = 65536
"""Characters of a caption that are read."""

_PARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\W_]+")


def sidecar_caption(source: str | os.PathLike | BinaryIO, strict: bool = False) -> str:
    """Text of the `.txt` file of the same name beside a clip given by path, else "".

    It is UTF-8, or UTF-16 where its first bytes say so; what is neither is replaced.

    Raises: EchoReelError where it is neither, if `strict`.
    """
    if not isinstance(source, (str, os.PathLike)):
        return ""
    path = os.path.splitext(os.fspath(source))[0] + ".txt"
    try:
        check_file(path, "text")
        with open(path, "rb") as file:
            content = file.read(4 * CAPTION_LIMIT)
    except (EchoReelError, OSError):
        return ""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if utf_16 else "utf-8-sig")("strict" if strict else "replace")
    try:
        text = decoder.decode(content)  # the last character may be cut through
    except UnicodeDecodeError:
        raise EchoReelError(f"The caption {os.path.basename(path)} is not UTF-8 text: save it as UTF-8.") from None
    return text[:CAPTION_LIMIT].strip()


def name_in_words(name: str) -> str:
    """A name as one would say it: "ApplyEyeMakeup" → "apply eye makeup"."""
    return " ".join(part.lower() for part in _PARTS.split(name) if part)


def caption_of_names(path: str | PurePath) -> str:
    """What folders and file name say, each word once: "dogs/JumpRope/rope_03-red.mp4" → "dogs jump rope red".

    Counters and single letters, as in UCF-101's "v_JumpRope_g01_c02", tell nothing; where nothing else is left, the
    caption is the file name as it is.

    Args:
        path: of the clip, relative to the collection's folder.
    """
    path = PurePath(path)
    words = [word for name in (*path.parent.parts, path.stem) for word in name_in_words(name).split()]
    telling = dict.fromkeys(word for word in words if len(word) > 1 and not any(c.isdigit() for c in word))
    return " ".join(telling) or path.stem
