"""The file of a reference library: one SQLite database of captioned clips and a full-text index over their captions."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import EchoReelError

APPLICATION = 0x4563686F  # "Echo", in the file's header: what tells a library from other databases
VERSION = 2
"""1 indexed captions as they are; 2 as `words.indexed` has them."""
ELSEWHERE = 1 << 32
"""Clips on disk have ids below, others from here on: the index gives matches by ascending id, so one that holds
millions of captions still finds the few clips on disk at once."""

TOKENIZER = "porter unicode61"
"""Lower case, no accents, and Porter's English stems: "Jumps" and "jumping" are both "jump"."""

# The index keeps only which clips hold a word, not where: captions are too short for places to tell much.
_CONTENT = {1: "content='clips', content_rowid='id'", VERSION: "content=''"}
_SCHEMA = f"""
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE clips (id INTEGER PRIMARY KEY, caption TEXT NOT NULL, link TEXT NOT NULL, file TEXT, stamp TEXT);
CREATE INDEX clips_by_file ON clips (file) WHERE file IS NOT NULL;
CREATE TABLE words (stem TEXT PRIMARY KEY, clips INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE captions USING fts5(
    caption, {_CONTENT[VERSION]}, tokenize='{TOKENIZER}', detail=none, columnsize=0);
INSERT INTO captions(captions, rank) VALUES ('hashsize', {64 << 20});
INSERT INTO captions(captions, rank) VALUES ('usermerge', 2);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


PATIENCE = 8
"""Seconds a query may take: a library from somebody else may be made to take for ever."""


@contextlib.contextmanager
def patience(db: sqlite3.Connection) -> Iterator[None]:
    """Ends what takes longer than `PATIENCE`, with an error of SQLite's."""
    end = time.monotonic() + PATIENCE
    db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        yield
    finally:
        db.set_progress_handler(None, 0)


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Says in one sentence what SQLite found wrong with the library at `path`."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):  # not the library's fault, and no advice helps
        raise
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            advice = "it is in use: wait until the other build is finished"
        elif "interrupted" in text:
            advice = f"it is damaged or too slow (reading took over {PATIENCE} s): build it again under another name"
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
    if _is_new(path) and not create:
        raise EchoReelError(f"There is no library {path.name}: build it first.")
    mode = "rwc" if create else "rw"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    try:
        db.execute("PRAGMA trusted_schema = OFF")  # a library may come from somebody else
        with patience(db):
            if create and not _pragma(db, "schema_version"):
                db.execute("BEGIN IMMEDIATE")  # and check again: another build may have been faster
                renew(db) if not _pragma(db, "schema_version") else db.execute("ROLLBACK")
            version = _pragma(db, "user_version")
            if _pragma(db, "application_id") != APPLICATION:
                raise EchoReelError(f"{path.name} is not a reference library: choose another file.")
            if version > VERSION:
                raise EchoReelError(
                    f"{path.name} has format version {version}, but this pack reads up to version {VERSION}: update "
                    "the pack."
                )
            if _definitions(db) != _expected(version):
                raise EchoReelError(
                    f"{path.name} is not a reference library made by this pack: choose another, or delete the file and "
                    "build it again."
                )
    except BaseException:
        db.close()
        raise
    return db


def renew(db: sqlite3.Connection) -> None:
    """Makes all tables anew, empty and in today's format, and ends the transaction that has begun."""
    for table in ("captions", "clips", "words", "facts"):
        db.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in _SCHEMA.strip().rstrip(";").split(";\n"):
        db.execute(statement)
    db.execute("COMMIT")


def format_version(db: sqlite3.Connection) -> int:
    """The format of an opened library, `VERSION` or an older one."""
    return _pragma(db, "user_version")


def _is_new(path: Path) -> bool:
    """Whether there is no file yet. Raises: EchoReelError where there is one, but no database that can be read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise EchoReelError(f"{path.name} is not a reference library, nor a file at all: choose another name.")
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name, at which SQLite would end it
        why = getattr(error, "strerror", None) or error
        raise EchoReelError(f"The library {path.name[:100]!r} cannot be opened ({why}): choose another name.") from None
    if start and start != b"SQLite format 3\0":
        raise EchoReelError(f"{path.name} is not a reference library: choose another file.")
    return False


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return db.execute(f"PRAGMA {name}").fetchone()[0]


def _definitions(db: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """All that a database defines, but for what FTS5 keeps its index in."""
    found = db.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {(kind, name, str(sql)) for kind, name, sql in found if kind != "table" or name not in _INDEX_TABLES}


_INDEX_TABLES = {f"captions_{part}" for part in ("data", "idx", "content", "docsize", "config")}


@functools.cache
def _expected(version: int) -> set[tuple[str, str, str]]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(_SCHEMA.replace(_CONTENT[VERSION], _CONTENT.get(version, "")))
    try:
        return _definitions(db)
    finally:
        db.close()


def damaged(name: str, what: str) -> EchoReelError:
    """What to raise where a library holds something that no build of ours writes."""
    return EchoReelError(
        f"The library {name} cannot be used, it is damaged ({what}): delete the file and build the library again."
    )


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
