"""Builds a reference library: captioned clips, found by words, from a folder of clips or a table of captions.

A build compares what is there with what the library holds, and writes the difference in batches, each a transaction.
So rebuilding is quick if little has changed, and an interrupted build continues where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..errors import EchoReelError, counted
from ..progress import Progress
from ..video.captions import caption_of_names, sidecar_caption
from ..video.kinds import is_clip
from .database import (
    ELSEWHERE,
    VERSION,
    block_word,
    connect,
    make_tables,
    plain_errors,
    pragma,
    read_facts,
    write_facts,
)
from .tables import read_table
from .words import indexed

__all__ = ["BuildReport", "ClipFile", "EchoReelError", "build_library", "walk_clips"]

BATCH = 50_000
"""Rows of a table per transaction. More of them take more memory, and more is lost when a build is interrupted."""
FILES_BATCH = 500
"""Files per transaction: each may have a text to read, perhaps from a slow disk."""


@dataclass(frozen=True)
class BuildReport:
    """A finished library.

    Attributes:
        captions: how many it holds; `on_disk` of them have their clip.
        added, changed, removed: how many captions this build added, changed and removed.
        passed_over: how many clips and folders were skipped: links, and names that are not text.
        renewed: whether it was in an older format, and was therefore built anew.
    """

    captions: int
    on_disk: int
    added: int
    changed: int
    removed: int
    passed_over: int
    renewed: bool = False

    def summary(self) -> str:
        """The figures in a readable line or two."""
        lines = [f"{counted(self.captions, 'caption')}, {self.on_disk:,} with a clip on this disk"]
        if self.added or self.changed or self.removed:
            lines.append(f"This build added {self.added:,}, changed {self.changed:,} and removed {self.removed:,}.")
        else:
            lines.append("Nothing has changed since the last build.")
        if self.passed_over:
            lines.append(
                f"Skipped because they are links or cannot be read: {self.passed_over:,} files or folders. Move the "
                "clips themselves into the folder."
            )
        if self.renewed:
            lines.append("The library was in an older format and was rebuilt.")
        return "\n".join(lines)


def build_library(
    path: str | os.PathLike,
    source: str | os.PathLike,
    clips: str | os.PathLike | None = None,
    *,
    progress: Progress | None = None,
) -> BuildReport:
    """Builds or updates the library at `path`. No video is opened and nothing is downloaded.

    Args:
        path: the library's file, which is created if it does not exist.
        source: a folder of clips, captioned by their `.txt` files, else by their names and folders' names; or a table
            (see `tables`).
        clips: for a table, the folder that holds its clips, at any depth; by default the table's own folder.
        progress: called with how much is done, of how much: files of a folder, bytes of a table. If it raises, the
            build stops, and the next one continues.

    Raises: EchoReelError, naming the file and the reason. The library then keeps what it had. If the build had already
        changed something, the library is marked as unfinished, and searching it is refused until a build has finished.
    """
    path, source = Path(path), Path(source)
    if not source.exists():
        raise EchoReelError(
            f"There is no {source.name} to build from: choose a folder of clips or a table of captions."
        )
    root = source if source.is_dir() else Path(clips) if clips is not None else source.parent
    if not root.is_dir():
        raise EchoReelError(f"There is no folder of clips called {root.name}: choose another one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EchoReelError(f"The folder of {path.name} cannot be created ({error.strerror or error}).") from None
    with plain_errors(path), closing(connect(path, create=True)) as db:
        return _Build(db, path.name, source, root, progress or (lambda done, of: None)).run()


class ClipFile(NamedTuple):
    """A clip in a folder.

    Attributes:
        path: relative to the folder, with "/" between.
        stem: its name without suffix.
        stamp: when it and its text were written, in nanoseconds, and their sizes in bytes.
        texted: whether a `.txt` file lies beside it.
    """

    path: str
    stem: str
    stamp: str
    texted: bool


def walk_clips(root: Path, step: Callable[[], None] = lambda: None) -> Iterator[ClipFile | None]:
    """Lists the clips in a folder and the folders in it, with None for each file or folder that cannot be read.

    Links are not followed, and count as unreadable: they may lead out of the folder, or in circles.

    Args:
        step: called for each folder. If it raises, the walk stops.
    """
    folders = [""]
    while folders:
        step()
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as found:
                entries = {entry.name: entry for entry in found if not entry.name.startswith(".")}
        except OSError:
            yield None
            continue
        for name, entry in sorted(entries.items()):
            path = f"{folder}/{name}".removeprefix("/")
            if entry.is_symlink():
                if entry.is_dir() or is_clip(name):
                    yield None
            elif entry.is_dir():
                folders.append(path)
            elif entry.is_file() and is_clip(entry.path):
                yield _clip_file(path, entry, entries.get(f"{os.path.splitext(name)[0]}.txt"))


def _clip_file(path: str, clip: os.DirEntry, text: os.DirEntry | None) -> ClipFile | None:
    texted = text is not None and text.is_file(follow_symlinks=False)
    try:
        path.encode()
        stats = [part.stat() for part in ((clip, text) if texted else (clip,))]
    except (OSError, UnicodeEncodeError):
        return None
    stamp = " ".join(f"{stat.st_mtime_ns}:{stat.st_size}" for stat in stats)
    return ClipFile(path, os.path.splitext(clip.name)[0], stamp, texted)


class _Clip(NamedTuple):
    """A row of the library: see `database`."""

    id: int
    words: str
    caption: str | None
    link: str
    file: str | None
    stamp: str | None

    @classmethod
    def of(cls, id: int, caption: str, link: str, file: str | None, stamp: str | None) -> _Clip:
        words = indexed(caption)
        return cls(id, words, None if words == caption else caption, link, file, stamp)


class _Build:
    def __init__(self, db: sqlite3.Connection, name: str, source: Path, root: Path, progress: Progress) -> None:
        self.db, self.source, self.root, self.progress = db, source, root.absolute(), progress
        self.added = self.changed = self.removed = 0
        with db:
            db.execute("BEGIN EXCLUSIVE")
            # Kept until the end: a second build of the same library is told that this one is at work. Not asked for
            # before the lock is held: of builds that start together, each would then keep the others from writing.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            version = pragma(db, "user_version")
            before = read_facts(db) if version else {}
            if before and before.get("source") != source.name:
                raise EchoReelError(
                    f"The library {name} was built from {before.get('source')}: choose another name for the one from "
                    f"{source.name}, or delete {name} first."
                )
            self.renewed = 0 < version < VERSION
            if version < VERSION:
                make_tables(db)
                before = {}
        self.before = before if before.get("complete") else {}

    def run(self) -> BuildReport:
        self.db.set_progress_handler(None, 0)  # a build may take longer than a search
        found = list(walk_clips(self.root, lambda: self.progress(0, 1)))
        files = [file for file in found if file]
        passed_over = len(found) - len(files)
        if self.source.is_dir():
            listing, counts = "", self._from_folder(files)
        else:
            stat = self.source.stat()
            parts = (self.root, stat.st_mtime_ns, stat.st_size, files)
            listing = hashlib.sha256(repr(parts).encode("utf-8", "replace")).hexdigest()
            if listing == self.before.get("signature"):
                counts = self.before["captions"], self.before["on_disk"]
            else:
                counts = self._from_table(files)
        facts = {"source": self.source.name, "root": str(self.root), "signature": listing}
        write_facts(self.db, **facts, captions=counts[0], on_disk=counts[1], complete=1)
        return BuildReport(*counts, self.added, self.changed, self.removed, passed_over, self.renewed)

    def _from_folder(self, files: list[ClipFile]) -> tuple[int, int]:
        """Brings the library to what the folder holds; returns (captions, on disk)."""
        if not files:
            raise EchoReelError(
                f"The folder {self.source.name} has no videos in it: add clips, or choose another folder."
            )
        known = {file: (id, stamp) for id, file, stamp in self.db.execute("SELECT rowid, file, stamp FROM captions")}
        last = max((id for id, _ in known.values()), default=0)
        self._write([known[file][0] for file in known.keys() - {file.path for file in files}], [])
        due = [file for file in sorted(files) if known.get(file.path, (0, None))[1] != file.stamp]
        for start in range(0, len(due), FILES_BATCH):
            old, new = [], []
            for path, _, stamp, texted in due[start : start + FILES_BATCH]:
                if path in known:
                    id = known[path][0]
                    old.append(id)
                else:
                    id = last = last + 1
                text = (sidecar_caption(self.root / path) if texted else "") or caption_of_names(path)
                new.append(_Clip.of(id, text, "", path, stamp))
            self._write(old, new)
            self.progress(start + len(new), len(due))
        return len(files), len(files)

    def _from_table(self, files: list[ClipFile]) -> tuple[int, int]:
        """Brings the library to what the table holds, row for row; returns (captions, on disk)."""
        size = max(self.source.stat().st_size, 1)
        rows = read_table(self.source)
        total = on_disk = 0
        places = {file.stem: file.path for file in sorted(files, reverse=True)}
        places.update((file.path, file.path) for file in files)
        root = f"{self.root.as_posix()}/"
        while batch := list(islice(rows, BATCH)):
            first, total = total, total + len(batch)
            stored = {clip.id % ELSEWHERE: clip for clip in self._stored(first, total)}
            old, new = [], []
            for ordinal, (row, _) in enumerate(batch, start=first):
                path = posixpath.normpath(row.file.replace("\\", "/")).removeprefix(root)
                file = places.get(path) or places.get(row.id)
                on_disk += file is not None
                clip = _Clip.of(ordinal + ELSEWHERE * (file is None), row.caption, row.link, file, None)
                before = stored.get(ordinal)
                if before != clip:
                    new.append(clip)
                    if before:
                        old.append(before.id)
            self._write(old, new)
            self.progress(batch[-1][1], size)
        if not total:
            raise EchoReelError(f"{self.source.name} has no captions in it: choose another table.")
        self._write([clip.id for clip in self._stored(total, ELSEWHERE)], [])
        return total, on_disk

    def _stored(self, first: int, end: int) -> Iterator[_Clip]:
        """What the library holds of a table's rows from `first` to `end`."""
        for base in (0, ELSEWHERE):
            query = "SELECT rowid, words, caption, link, file, stamp FROM captions WHERE rowid >= ? AND rowid < ?"
            yield from map(_Clip._make, self.db.execute(query, (base + first, base + end)))

    def _write(self, old: list[int], new: list[_Clip]) -> None:
        """Takes clips out, by id, and puts others in, in one transaction."""
        if not (old or new):
            return
        self.changed += len(old) if new else 0
        self.removed += 0 if new else len(old)
        self.added += max(len(new) - len(old), 0)
        with self.db as db:
            db.execute("BEGIN IMMEDIATE")
            write_facts(db, source=self.source.name, complete=0)
            # ascending ids: the index writes out what it has gathered each time they go back
            db.executemany("DELETE FROM captions WHERE rowid = ?", ((id,) for id in sorted(old)))
            db.executemany(
                "INSERT INTO captions(rowid, words, caption, link, file, stamp, block) VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((*clip, block_word(clip.id)) for clip in sorted(new)),
            )
