"""Finds clips in a reference library by words.

The authors' demo picks its reference by searching all captions for the action word. Here FTS5 looks the words up, a
bounded number of candidates is fetched, and these are ranked. What is visited for each word is bounded too, so that
common words in millions of captions cost little: FTS5's own ranking, bm25(), visits every caption that holds any word.
"""

from __future__ import annotations

import itertools
import math
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import EchoReelError
from ..files import valid_text
from .database import BLOCK, ELSEWHERE, LETTERS, STEMS, block_word, connect, plain_errors, read_facts
from .words import asked

__all__ = ["EchoReelError", "Hit", "find_clips"]

CANDIDATES = 500
"""How many captions with a clip on disk, and how many without, are ranked. If more hold all the words, these are the
first in the library."""
VISITED = 10_000
"""Only this many captions, the first in the library, are counted for each word."""
JOINED = 100_000
"""About how many entries of the index are read to find captions that hold several words: the first in the library."""
BLOCKS_FROM = 4
"""Where that many times more entries would be read to the end of the library, a search goes block by block. Asking for
the block as well costs more than it saves where there are fewer."""
LONGEST_QUERY = 1 << 17
"""Only this many characters of a query are read."""
MOST_WORDS = 16
"""Only this many words of a query count: the rarest ones."""


@dataclass(frozen=True)
class Hit:
    """A caption found.

    Attributes:
        path: the clip's file, or None where it is not on this disk.
        file: the file's name as the library knows it, relative to the folder of clips, or "".
        link: where a table says that the clip is, or "". It is never followed.
        score: how rare the query's words in it are, in nats (see `find_clips`); higher is better.
    """

    caption: str
    path: str | None
    file: str
    link: str
    score: float


class _Word(NamedTuple):
    """A word of a query, quoted for FTS5, with the share of captions that hold it."""

    share: float
    text: str


def find_clips(library: str | os.PathLike, query: str, limit: int = 5) -> list[Hit]:
    """The best matches: up to `limit` with a clip on disk, then up to `limit` without, each best first.

    All of the query is words: nothing in it is an operator. A caption need not hold all of them. Its score is the sum
    over the words that it does hold of ln(1 + captions / captions with the word), the inverse document frequency
    (Spärck Jones, A statistical interpretation of term specificity, 1972). Between equal scores, the caption with fewer
    words comes first.

    Args:
        library: the library's file.

    Raises: EchoReelError if the query has no words, if there is no library, or if the file is not a library, is
        unfinished, damaged, or of another format version.
    """
    path = Path(library)
    with plain_errors(path), closing(connect(path)) as db, closing(sqlite3.connect(":memory:")) as memory:
        facts = read_facts(db)
        if not facts.get("complete"):
            raise EchoReelError(
                f"The library {path.name} is incomplete: run Build Reference Library again; it continues where it "
                "stopped."
            )
        root, captions = facts.get("root"), facts.get("captions")
        if not isinstance(root, str) or not isinstance(captions, int) or captions < 1:
            raise sqlite3.DatabaseError("facts of another type")
        texts = _words(memory, query)
        if not texts:
            raise EchoReelError("The query has no words: write what happens in the clip, for example jumping.")
        counted = [(first, _counted(db, texts, captions, first)) for first in (0, ELSEWHERE)]
        near, far = (_ranked(memory, words, _candidates(db, words, captions, first)) for first, words in counted)
    here: list[Hit] = []
    away: list[Hit] = []
    for match in near:
        if len(here) == limit:
            break
        hit = _hit(root, *match)
        (here if hit.path else away).append(hit)
    away += [_hit(root, *match) for match in far[:limit]]
    return here + sorted(away, key=lambda hit: -hit.score)[:limit]


def _hit(root: str, score: float, caption: str, link: str, file: str | None) -> Hit:
    return Hit(caption, _inside(root, file or ""), file or "", link, score)


def _words(memory: sqlite3.Connection, query: str) -> list[str]:
    """A query's words, lower case and without accents, each in the quotes that FTS5 wants."""
    memory.execute(f'CREATE VIRTUAL TABLE query USING fts5(words, tokenize="{LETTERS}")')
    memory.execute("CREATE VIRTUAL TABLE spelled USING fts5vocab(query, row)")
    memory.execute("INSERT INTO query VALUES (?)", (asked(valid_text(query[:LONGEST_QUERY])),))
    return [f'"{term}"' for (term,) in memory.execute("SELECT term FROM spelled")]


def _counted(db: sqlite3.Connection, texts: Sequence[str], captions: int, first: int) -> list[_Word]:
    """Those of the words that captions with ids from `first` on hold, the rarest first."""
    words = []
    for text in texts:
        count, last = db.execute(
            "SELECT count(*), max(rowid) FROM (SELECT rowid FROM captions WHERE captions MATCH ? AND rowid >= ? "
            "AND rowid < ? LIMIT ?)",
            (text, first, first + ELSEWHERE, VISITED),
        ).fetchone()
        if count:
            words.append(_Word(count / (captions if count < VISITED else last - first + 1), text))
    return sorted(words)[:MOST_WORDS]


def _candidates(db: sqlite3.Connection, words: Sequence[_Word], captions: int, first: int) -> dict[int, tuple]:
    """Captions with ids from `first` on: those that hold all the words, then fewer and rarer ones, then any of them.

    Returns (words, caption, link, file) by id.
    """
    texts = [word.text for word in words]
    searches = []
    for size in sorted({size for size in (len(words), 3, 2, 1) if 0 < size <= len(words)}, reverse=True):
        all_of_them, ids = " AND ".join(texts[:size]), int(JOINED / sum(word.share for word in words[:size]))
        if size > 1 and ids * BLOCKS_FROM < captions:
            blocks = range(first, first + ids, BLOCK)
            searches.append([f'{all_of_them} AND "{block_word(id)}"' for id in blocks])
        else:
            searches.append([all_of_them])
    if len(words) > 1:
        searches.append([" OR ".join(texts)])
    found: dict[int, tuple] = {}
    for search in searches:
        rows = itertools.chain.from_iterable(
            db.execute(
                "SELECT rowid, words, coalesce(caption, words), link, file FROM captions WHERE captions MATCH ? "
                "AND rowid >= ? AND rowid < ? LIMIT ?",
                (expression, first, first + ELSEWHERE, CANDIDATES),
            )
            for expression in search
        )
        for id, *strings, file in itertools.islice(rows, CANDIDATES):
            found[id] = *map(str, strings), file and str(file)  # of any type, where the library is somebody else's
        if len(found) >= CANDIDATES:
            break
    return found


def _ranked(memory: sqlite3.Connection, words: Sequence[_Word], found: dict[int, tuple]) -> list[tuple]:
    """(score, caption, link, file) of the candidates, best first."""
    memory.execute("DROP TABLE IF EXISTS found")
    memory.execute(f"CREATE VIRTUAL TABLE found USING fts5(words, content='', detail=none, tokenize=\"{STEMS}\")")
    memory.executemany("INSERT INTO found(rowid, words) VALUES (?, ?)", ((id, row[0]) for id, row in found.items()))
    scores = dict.fromkeys(found, 0.0)
    for word in words:
        for (id,) in memory.execute("SELECT rowid FROM found WHERE found MATCH ?", (word.text,)):
            scores[id] += math.log(1 + 1 / word.share)
    ranked = sorted(found, key=lambda id: (-scores[id], len(found[id][0].split()), id))
    return [(scores[id], *found[id][1:]) for id in ranked]


def _inside(root: str, file: str) -> str | None:
    """The path of a clip in the folder `root`, or None where it is not there, or leads out of it."""
    root = os.path.realpath(root)
    try:
        path = os.path.realpath(os.path.join(root, file))
        return path if path.startswith(os.path.join(root, "")) and os.path.isfile(path) else None
    except (OSError, ValueError):
        return None
