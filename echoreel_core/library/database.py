"""The file of a reference library: an SQLite database whose full-text table (FTS5) holds the captioned clips."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import EchoReelError

APPLICATION = 0x4563686F  # "Echo", in the file's header: what tells a library from other databases
VERSION = 4
"""Formats 1 and 2 kept clips and counts of words in tables of their own, format 3 had no blocks. A library in these
formats is rebuilt."""
ELSEWHERE = 1 << 32
"""Clips on disk have lower ids, all others have ids from here on. FTS5 returns matches by ascending id, so the few
clips on disk are found at once among millions of captions."""
BLOCK = 1 << 18
"""Captions in a block: so many neighbouring ids. The index holds each caption's block as a word of its own, so that a
search that asks for it too ends with the block. FTS5 looks at a bound of ids at matches alone, and reads the entries of
words that never occur together to the end."""
PATIENCE = 8
"""Seconds of the processor's time that opening and searching a library may take: one from somebody else may be made to
take forever."""

LETTERS = "unicode61 categories 'L* N* Co M*'"
"""The tokenizer of queries: lower case, no accents. Marks, such as the vowel signs of Thai and Hindi, do not end a
word."""
STEMS = f"porter {LETTERS}"
"""The tokenizer of captions, which also takes Porter's English stems: "Jumps" and "jumping" are both "jump"."""

# words: the caption as it is indexed; caption: as it was read, or NULL where that is the same; block: see `block_word`
_SCHEMA = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE VIRTUAL TABLE captions USING fts5(words, caption UNINDEXED, link UNINDEXED, file UNINDEXED, "
    f'stamp UNINDEXED, block, detail=none, columnsize=0, tokenize="{STEMS}")',
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
_DEFINITIONS = "SELECT type, name, sql FROM sqlite_master WHERE type <> 'table' OR name NOT GLOB 'captions_*'"


def block_word(id: int) -> str:
    """The word of a caption's block: none that anybody writes, for it begins with a character of private use."""
    return f"\U000f0000{id // BLOCK}"


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Opens a library, and rolls back an interrupted transaction.

    After `PATIENCE` seconds of this thread's processor time, statements on the connection are interrupted.

    Args:
        create: creates an empty database if there is no file, and accepts a library of an older format.

    Raises: EchoReelError if the file is not a library, or of another format version; sqlite3.Error if it is damaged.
    """
    if not create and not os.path.exists(path):
        raise EchoReelError(f"There is no library {path.name}: build it first.")
    try:
        db = sqlite3.connect(path, isolation_level=None)
    except (sqlite3.OperationalError, ValueError):  # a folder, no permission, too long a name; a zero byte in it
        raise EchoReelError(
            f"The library {path.name[:100]!r} cannot be opened: choose another name, or check its folder's permissions."
        ) from None
    try:
        end = time.thread_time() + PATIENCE
        db.set_progress_handler(lambda: time.thread_time() > end, 10_000)
        db.execute("PRAGMA trusted_schema = OFF")  # a library may come from somebody else
        if not create or pragma(db, "schema_version"):
            _check(db, path.name, older=create)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, name: str, older: bool) -> None:
    """Refuses a database that is not a library, or that defines anything else, such as a trigger."""
    version = pragma(db, "user_version")
    if pragma(db, "application_id") != APPLICATION:
        raise EchoReelError(f"{name} is not a reference library: choose another file.")
    if version > VERSION:
        raise EchoReelError(
            f"{name} has format version {version}, but this pack reads up to version {VERSION}: update the pack."
        )
    if version < VERSION:
        if older:
            return
        raise EchoReelError(
            f"The library {name} is in an older format: run Build Reference Library again; it rebuilds it."
        )
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as ours:
        make_tables(ours)
        if set(db.execute(_DEFINITIONS)) != set(ours.execute(_DEFINITIONS)):
            raise EchoReelError(
                f"{name} is not a reference library made by this pack: choose another, or delete the file and build "
                "it again."
            )


def make_tables(db: sqlite3.Connection) -> None:
    """Creates the tables, empty, and drops those of an older format."""
    for table in ("captions", "clips", "words", "facts"):
        db.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in _SCHEMA:
        db.execute(statement)


def pragma(db: sqlite3.Connection, name: str) -> int:
    return db.execute(f"PRAGMA {name}").fetchone()[0]


def read_facts(db: sqlite3.Connection) -> dict[str, str | int]:
    """What a build has noted: source, root, complete, captions, on_disk, signature."""
    return dict(db.execute("SELECT name, value FROM facts"))


def write_facts(db: sqlite3.Connection, **facts: str | int) -> None:
    db.executemany("REPLACE INTO facts VALUES (?, ?)", facts.items())


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into an EchoReelError that says what is wrong with the library at `path`."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):  # not the library's fault, and no advice helps
        raise
    except sqlite3.Error as error:
        text = str(error)
        if "not a database" in text:
            raise EchoReelError(f"{path.name} is not a reference library: choose another file.") from None
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
