"""Tables of captioned clips, read row by row: WebVid's CSV, and JSON or JSON lines with any of the usual keys."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..errors import EchoReelError
from ..files import check_file, valid_text
from ..video.captions import CAPTION_LIMIT

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")

CAPTION_KEYS = ("caption", "name", "reference_text", "inject_text", "text", "title", "description")
FILE_KEYS = (
    "path",
    "file",
    "file_name",
    "filename",
    "video",
    "video_path",
    "reference_video_path",
    "inject_video_path",
)
ID_KEYS = ("videoid", "video_id", "id")
LINK_KEYS = ("contenturl", "url", "link")
"""WebVid: videoid, contentUrl, duration, page_dir, name. The `reference_` and `inject_` keys are those of EchoReel's
training pairs. Capitals do not matter; of several that are there, the first counts."""

_KEYS = (CAPTION_KEYS, LINK_KEYS, FILE_KEYS, ID_KEYS)
_BETWEEN = re.compile(r"[\s,]*")
_CHUNK = 1 << 20  # characters
_LARGEST = 16 << 20


class Row(NamedTuple):
    """One captioned clip of a table. What the table does not say is "".

    Attributes:
        file: the clip's path, relative to the folder of the clips.
        id: the clip's file name without suffix.
    """

    caption: str
    link: str
    file: str
    id: str


def read_table(path: str | os.PathLike) -> Iterator[tuple[Row, int]]:
    """Reads the rows that have a caption; with each comes how many bytes of the table have been read.

    Memory does not grow with the table.

    Raises: EchoReelError, naming the table and the row, if it is damaged or in none of these formats.
    """
    path = Path(path)
    read = {".csv": _csv, ".tsv": _csv, ".json": _json, ".jsonl": _json}.get(path.suffix.lower())
    if read is None:
        raise EchoReelError(f"{path.name} is not a caption table: use one of {', '.join(TABLE_SUFFIXES)}.")
    check_file(path, "caption table")
    try:
        with open(path, "rb") as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
            for row in read(text, path):
                if row.caption:
                    yield row, raw.tell()
    except OSError as error:
        raise EchoReelError(f"{path.name} cannot be read ({error.strerror or error}).") from None


def _csv(text: TextIO, path: Path) -> Iterator[Row]:
    lines = (line.replace("\0", "") for line in _lines(text, path))
    reader = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        places = [next((header.index(key) for key in keys if key in header), None) for keys in _KEYS]
        if places[0] is None:
            raise EchoReelError(
                f"{path.name} has no column of captions: its first line must name one of {', '.join(CAPTION_KEYS)}."
            )
        for cells in reader:
            yield _row(*(cells[i] if i is not None and i < len(cells) else "" for i in places))
    except csv.Error as error:
        raise EchoReelError(f"{path.name} is damaged at line {reader.line_num:,} ({error}).") from None


def _lines(text: TextIO, path: Path) -> Iterator[str]:
    """Reads line by line. A file that was cut off may go on with zeros, and its last line may never end."""
    number = 0
    while line := text.readline(_LARGEST):
        number += 1
        if len(line) == _LARGEST and not line.endswith("\n"):
            raise EchoReelError(f"{path.name} is damaged or cut off: line {number:,} has no end.")
        yield line


def _json(file: TextIO, path: Path) -> Iterator[Row]:
    """JSON lines or an array, entry by entry: `json.load` would take many times the file's size in memory."""
    decode = json.JSONDecoder().raw_decode
    text, number, listed = "", 0, False
    while True:
        chunk = file.read(_CHUNK)
        text += chunk
        at = _BETWEEN.match(text).end()
        if not number and not listed and text.startswith("[", at):
            listed, at = True, _BETWEEN.match(text, at + 1).end()
        while at < len(text):
            if listed and text[at] == "]":
                return
            try:
                entry, at = decode(text, at)
            except (ValueError, RecursionError) as error:
                if chunk and len(text) - at < _LARGEST:
                    break  # the entry goes on in the next chunk
                why = getattr(error, "msg", error)  # without the place, which is one in the chunk
                raise EchoReelError(
                    f"{path.name}, entry {number + 1:,}, is not valid JSON ({why}): it is damaged or cut off."
                ) from None
            number += 1
            yield _entry(entry, f"{path.name}, entry {number:,},")
            at = _BETWEEN.match(text, at).end()
        if not chunk:
            if listed:
                raise EchoReelError(f"{path.name} is cut off: its list does not end with ].")
            return
        text = text[at:]


def _entry(entry: Any, where: str) -> Row:
    if not isinstance(entry, Mapping):
        raise EchoReelError(f"{where} is not an object in braces: {str(entry)[:60]}.")
    values = {str(key).lower(): value for key, value in entry.items()}
    found = [next((values[key] for key in keys if key in values), None) for keys in _KEYS]
    return _row(*("" if isinstance(value, (Mapping, list)) or value is None else str(value) for value in found))


def _row(caption: str, link: str, file: str, id: str) -> Row:
    # JSON may hold halves of surrogate pairs, which no database takes
    return Row(
        *(valid_text(text) for text in (caption.strip()[:CAPTION_LIMIT], link.strip(), file.strip(), id.strip()))
    )
