"""The file of a reference library: one SQLite database of captioned clips and a full-text index over their captions."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..errors import EchoReelError

APPLICATION = 0x4563686F  # "Echo", in the file's header: what tells a library from other databases
VERSION = 1
ELSEWHERE = 1 << 32
"""Clips on disk have ids below, others from here on: the index gives matches by ascending id, so one that holds
millions of captions still finds the few clips on disk at once."""

TOKENIZER = "porter unicode61"
"""Lower case, no accents, and Porter's English stems: "Jumps" and "jumping" are both "jump"."""

# The index keeps only which clips hold a word, not where: captions are too short for places to tell much.
_SCHEMA = f"""
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE clips (id INTEGER PRIMARY KEY, caption TEXT NOT NULL, link TEXT NOT NULL, file TEXT, stamp TEXT);
CREATE INDEX clips_by_file ON clips (file) WHERE file IS NOT NULL;
CREATE TABLE words (stem TEXT PRIMARY KEY, clips INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE captions USING fts5(
    caption, content='clips', content_rowid='id', tokenize='{TOKENIZER}', detail=none, columnsize=0);
INSERT INTO captions(captions, rank) VALUES ('hashsize', {64 << 20});
INSERT INTO captions(captions, rank) VALUES ('usermerge', 2);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Says in one sentence what SQLite found wrong with the library at `path`."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            advice = "it is in use: wait until the other build is finished"
        elif "full" in text:
            advice = "the disk is full: free some space and build again; it continues where it stopped"
        elif isinstance(error, sqlite3.OperationalError) and ("open" in text or "readonly" in text):
            advice = "its folder is not writable: check the permissions"
        elif "fts5" in text and "no such module" in text:
            advice = "this Python's SQLite has no full-text search (FTS5): install another Python"
        else:
            advice = f"it is damaged ({text}): delete the file and build the library again"
        raise EchoReelError(f"The library {path.name} cannot be used because {advice}.") from None


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Opens a library, rolling back what an interrupted build had begun; creates it where there is none.

    Raises: EchoReelError for a file that is no library, or of a newer version; sqlite3.Error for a damaged one.
    """
    if not create and not path.is_file():
        raise EchoReelError(f"There is no library {path.name}: build it first.")
    if path.exists() and path.stat().st_size and path.open("rb").read(16) != b"SQLite format 3\0":
        raise EchoReelError(f"{path.name} is not a reference library: choose another file.")
    mode = "rwc" if create else "rw"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    try:
        db.execute("PRAGMA trusted_schema = OFF")  # a library may come from somebody else
        application, version, schema = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version", "schema_version")
        )
        if not schema and create:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        elif application != APPLICATION:
            raise EchoReelError(f"{path.name} is not a reference library: choose another file.")
        elif version > VERSION:
            raise EchoReelError(
                f"{path.name} has format version {version}, but this pack reads up to version {VERSION}: update the "
                "pack."
            )
    except BaseException:
        db.close()
        raise
    return db


def read_facts(db: sqlite3.Connection) -> dict[str, str | int | float]:
    """What a build notes down: kind, source, root, complete, captions, on_disk, words_per_caption, signature."""
    return dict(db.execute("SELECT name, value FROM facts"))


def write_facts(db: sqlite3.Connection, **facts: str | int | float) -> None:
    db.executemany("REPLACE INTO facts VALUES (?, ?)", facts.items())


def inside(root: str, file: str) -> str | None:
    """The path of a clip in the folder `root`, or None where it is not there, or leads out of it."""
    root = os.path.realpath(root)
    try:
        path = os.path.realpath(os.path.join(root, file))
        return path if path.startswith(os.path.join(root, "")) and os.path.isfile(path) else None
    except (OSError, ValueError):
        return None
