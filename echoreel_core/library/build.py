"""Builds a reference library: captioned clips, found by words, from a folder of clips or a table of captions.

A build compares what is there with what the library holds, and writes the difference in batches, each a transaction.
So rebuilding is quick if little has changed, and an interrupted build continues where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..errors import EchoReelError, counted
from ..progress import Progress
from ..video.captions import caption_of_names, sidecar_caption
from ..video.kinds import is_clip
from .database import ELSEWHERE, VERSION, connect, damaged, format_version, plain_errors, read_facts, renew, write_facts
from .tables import Row, read_table
from .words import indexed

__all__ = ["BuildReport", "ClipFile", "EchoReelError", "build_library", "walk_clips"]

BATCH = 50_000
"""Rows of a table per transaction: what memory a build takes, and what an interruption can cost."""
FILES_BATCH = 500
"""Files per transaction: each may have a text to read, perhaps from a slow disk."""


@dataclass(frozen=True)
class BuildReport:
    """A finished library.

    Attributes:
        captions: how many it holds, of which `on_disk` have their clip.
        added, changed, removed: what this build did.
        passed_over: clips and folders that could not be taken: links, names that are no text.
        renewed: whether it was in an older format and was built anew.
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
        path: the library's file; made where there is none.
        source: a folder of clips, captioned by their `.txt` files, else by their names and folders' names; or a table
            (see `tables`).
        clips: for a table, the folder that holds its clips in any depth; by default the table's own.

    Raises: EchoReelError, naming the file and the reason. The library then keeps what it had, marked as unfinished
        where something had changed already.
    """
    path, source = Path(path), Path(source)
    if not source.exists():
        raise EchoReelError(
            f"There is no {source.name} to build from: choose a folder of clips or a table of captions."
        )
    kind = "folder" if source.is_dir() else "table"
    root = source if kind == "folder" else Path(clips) if clips is not None else source.parent
    if not root.is_dir():
        raise EchoReelError(f"There is no folder of clips called {root.name}: choose another one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EchoReelError(f"The folder of {path.name} cannot be created ({error.strerror or error}).") from None
    with plain_errors(path), closing(connect(path, create=True)) as db:
        return _Build(db, path.name, kind, source, root, progress or (lambda done, of: None)).run()


class ClipFile(NamedTuple):
    """A clip in a folder.

    Attributes:
        path: relative to the folder, with "/" between.
        stem: its name without suffix.
        stamp: when it and its text were written, and their sizes.
        texted: whether a `.txt` file lies beside it.
    """

    path: str
    stem: str
    stamp: str
    texted: bool


def walk_clips(root: Path, step: Callable[[], None] = lambda: None) -> Iterator[ClipFile | None]:
    """The clips in a folder and the folders in it; None for what cannot be read.

    Links are not followed, and count as what cannot be read: they may lead out of the folder, or in circles.

    Args:
        step: called for each folder; what it raises stops the walk.
    """
    folders = [""]
    while folders:
        step()
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            yield None
            continue
        files = {entry.name: entry for entry in entries if entry.is_file(follow_symlinks=False)}
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink() and (entry.is_dir() or is_clip(entry.name)):
                yield None
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
                continue
            if entry.name not in files or not is_clip(entry.path):
                continue
            stem = os.path.splitext(entry.name)[0]
            text = files.get(f"{stem}.txt")
            try:
                path.encode()
                stats = [part.stat(follow_symlinks=False) for part in (entry, text) if part]
            except (OSError, UnicodeEncodeError):
                yield None
                continue
            stamp = " ".join(f"{stat.st_mtime_ns}:{stat.st_size}" for stat in stats)
            yield ClipFile(path, stem, stamp, text is not None)


class _Clip(NamedTuple):
    """A row of the table `clips`."""

    id: int
    caption: str
    link: str
    file: str | None
    stamp: str | None


class _Build:
    def __init__(
        self, db: sqlite3.Connection, name: str, kind: str, source: Path, root: Path, progress: Progress
    ) -> None:
        self.name = name
        self.db, self.kind, self.source, self.root, self.progress = db, kind, source, root, progress
        self.added = self.changed = self.removed = self.passed_over = 0
        before = read_facts(db)
        self.complete = bool(before.get("complete"))
        self.resumed = bool(before) and not self.complete
        self.signature = before.get("signature") if self.complete else None
        self.known = before.get("captions", 0), before.get("on_disk", 0)
        if before and (before["kind"], before["source"]) != (kind, source.name):
            raise EchoReelError(
                f"The library {name} was built from {before['source']}: choose another name for the one from "
                f"{source.name}, or delete {name} first."
            )
        # Held until the end: a second build of the same library is told that this one is at work.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN IMMEDIATE")
        self.renewed = bool(before) and format_version(db) < VERSION
        if self.renewed:
            renew(db)
            self.complete, self.signature = False, None
        else:
            db.execute("COMMIT")
        for pragma in ("journal_mode = TRUNCATE", "synchronous = NORMAL", "secure_delete = OFF", "cache_size = -65536"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("CREATE TEMP TABLE files (path TEXT PRIMARY KEY, stem TEXT, stamp TEXT, texted INTEGER)")

    def run(self) -> BuildReport:
        listing = self._list_files()
        if self.kind == "folder":
            counts = self._from_folder()
        else:
            stat = self.source.stat()
            listing += f":{stat.st_mtime_ns}:{stat.st_size}"
            counts = self.known if listing == self.signature else self._from_table()
        if not self.complete:
            self._finish_index(counts[0])
        self.db.execute("BEGIN IMMEDIATE")
        write_facts(
            self.db,
            kind=self.kind,
            source=self.source.name,
            root=str(self.root.absolute()),
            captions=counts[0],
            on_disk=counts[1],
            signature=listing,
            complete=1,
        )
        self.db.execute("COMMIT")
        return BuildReport(*counts, self.added, self.changed, self.removed, self.passed_over, self.renewed)

    # ── what is there ──

    def _list_files(self) -> str:
        """Fills the temporary table `files`; returns a digest of it."""
        digest = hashlib.sha256(str(self.root.absolute()).encode("utf-8", "replace"))
        self.db.execute("BEGIN")
        for file in walk_clips(self.root, lambda: self.progress(0, 1)):
            if file is None:
                self.passed_over += 1
            else:
                self.db.execute("INSERT INTO files VALUES (?, ?, ?, ?)", file)
                digest.update(repr(file).encode())
        self.db.execute("CREATE INDEX temp.files_by_stem ON files (stem)")
        self.db.execute("COMMIT")
        return digest.hexdigest()

    def _from_folder(self) -> tuple[int, int]:
        """Brings the library to what the folder holds; returns (captions, on disk)."""
        db = self.db
        (total,) = db.execute("SELECT count(*) FROM files").fetchone()
        if not total:
            raise EchoReelError(
                f"The folder {self.source.name} has no videos in it: add clips, or choose another folder."
            )
        while gone := db.execute(
            "SELECT id, caption FROM clips WHERE file NOT IN (SELECT path FROM files) LIMIT ?", (BATCH,)
        ).fetchall():
            self._write(gone, [])
            self.removed += len(gone)
        # of its own, so that nothing is written to a table while it is being read
        db.execute(
            "CREATE TEMP TABLE work AS SELECT f.path, f.stamp, f.texted, c.id, c.caption FROM files f "
            "LEFT JOIN clips c ON c.file = f.path WHERE c.stamp IS NOT f.stamp ORDER BY f.path"
        )
        (last,) = db.execute("SELECT coalesce(max(id), 0) FROM clips").fetchone()
        (due,) = db.execute("SELECT count(*) FROM work").fetchone()
        work, done = db.execute("SELECT * FROM work"), 0
        while batch := work.fetchmany(FILES_BATCH):
            old, new = [], []
            for path, stamp, texted, id, caption in batch:
                if id is None:
                    last += 1
                    self.added += 1
                else:
                    old.append((id, caption))
                    self.changed += 1
                text = (sidecar_caption(self.root / path) if texted else "") or caption_of_names(path)
                new.append(_Clip(id or last, text, "", path, stamp))
            self._write(old, new)
            done += len(batch)
            self.progress(done, due)
        return total, total

    def _from_table(self) -> tuple[int, int]:
        """Brings the library to what the table holds, row for row; returns (captions, on disk)."""
        size = max(self.source.stat().st_size, 1)
        rows = read_table(self.source)
        total = on_disk = 0
        find = _Finder(self.db, self.root)
        while batch := list(islice(rows, BATCH)):
            first, total = total, total + len(batch)
            stored = {clip.id % ELSEWHERE: clip for clip in self._stored(first, total)}
            old, new = [], []
            for ordinal, (row, _) in enumerate(batch, start=first):
                file = find(row)
                on_disk += file is not None
                clip = _Clip(ordinal + (ELSEWHERE if file is None else 0), row.caption, row.link, file, None)
                before = stored.get(ordinal)
                if before == clip:
                    continue
                new.append(clip)
                if before is None:
                    self.added += 1
                else:
                    old.append(before[:2])
                    self.changed += 1
            self._write(old, new)
            self.progress(batch[-1][1], size)
        if not total:
            raise EchoReelError(f"{self.source.name} has no captions in it: choose another table.")
        while beyond := self._stored(total, None):
            self._write([clip[:2] for clip in beyond], [])
            self.removed += len(beyond)
        return total, on_disk

    def _stored(self, first: int, end: int | None) -> list[_Clip]:
        """What the library holds of the rows from `first` to `end` of a table, or of all after it, at most a batch."""
        clips: list[_Clip] = []
        for base in (0, ELSEWHERE):
            until = base + (ELSEWHERE if end is None else end)
            found = self.db.execute(
                "SELECT * FROM clips WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", (base + first, until, BATCH)
            )
            clips += map(_Clip._make, found)
        return clips

    # ── writing ──

    def _write(self, old: Iterable[tuple[int, str]], new: list[_Clip]) -> None:
        """Takes clips (id, caption) out and puts others in, in one transaction."""
        old = sorted(old)  # ascending ids: the index writes out what it has gathered each time they go back
        new = sorted(new)
        if not (old or new):
            return
        if not all(isinstance(caption, str) for _, caption in old):
            raise damaged(self.name, "a caption of another type")
        db = self.db
        db.execute("BEGIN IMMEDIATE")
        try:
            if self.complete or not read_facts(db):
                write_facts(db, kind=self.kind, source=self.source.name, complete=0)
                self.complete = False
            gone = ((id, indexed(caption)) for id, caption in old)
            db.executemany("INSERT INTO captions(captions, rowid, caption) VALUES ('delete', ?, ?)", gone)
            db.executemany("DELETE FROM clips WHERE id = ?", ((id,) for id, _ in old))
            db.executemany("INSERT INTO clips VALUES (?, ?, ?, ?, ?)", new)
            db.executemany(
                "INSERT INTO captions(rowid, caption) VALUES (?, ?)", ((clip.id, indexed(clip.caption)) for clip in new)
            )
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _finish_index(self, captions: int) -> None:
        """Merges the index where much of it is new, and counts in how many clips each word is."""
        db = self.db
        if self.resumed or self.added + self.changed > captions // 10:
            pages, wrote = -2000, 2
            while wrote >= 2:  # as FTS5 documents it: negative to begin, then positive until nothing is left to do
                before = db.total_changes
                db.execute("INSERT INTO captions(captions, rank) VALUES ('merge', ?)", (pages,))
                pages, wrote = 2000, db.total_changes - before
                self.progress(1, 1)
        db.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, captions, row)")
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute("DELETE FROM words")
            counts = db.execute("SELECT term, doc FROM vocabulary")
            while batch := counts.fetchmany(1000):
                db.executemany("INSERT INTO words VALUES (?, ?)", batch)
                self.progress(1, 1)
            (words,) = db.execute("SELECT total(clips) FROM words").fetchone()
            write_facts(db, words_per_caption=max(words / captions, 1))
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


class _Finder:
    """Finds a table row's clip among the files listed."""

    def __init__(self, db: sqlite3.Connection, root: Path) -> None:
        self._db, self._root = db, root.absolute()
        self._any = db.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None

    def __call__(self, row: Row) -> str | None:
        if not self._any:
            return None
        found = None
        if row.file:
            path = Path(row.file.replace("\\", "/"))
            if path.is_relative_to(self._root):
                path = path.relative_to(self._root)
            found = self._db.execute("SELECT path FROM files WHERE path = ?", (path.as_posix(),)).fetchone()
        if row.id and not found:
            query = "SELECT path FROM files WHERE stem = ? ORDER BY path LIMIT 1"
            found = self._db.execute(query, (row.id,)).fetchone()
        return found[0] if found else None
