"""Finds clips in a reference library by words.

The authors' demo picks its reference by searching all captions for the action word. Here the words are looked up in
the library's index, a bounded number of candidates is fetched, and these are ranked.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EchoReelError
from ..files import valid_text
from .database import ELSEWHERE, TOKENIZER, connect, damaged, format_version, inside, patience, plain_errors, read_facts
from .words import asked, indexed

__all__ = ["Hit", "EchoReelError", "ReferenceLibrary"]

CANDIDATES = 500
"""How many captions with a clip on disk, and how many without, are ranked. If more contain all the words, the first in
the library are."""
LONGEST_QUERY = 1 << 20
"""Only this many characters of a query are read."""
MOST_WORDS = 16
"""Only this many words of a query count: the rarest ones."""
K1, B = 1.2, 0.75
"""BM25's usual constants: how soon repeating a word stops counting, and how much a caption's length counts."""


@dataclass(frozen=True)
class Hit:
    """A caption found.

    Attributes:
        path: the clip's file, or None where it is not on this disk.
        file: the file's name as the library knows it, relative to the folder of clips, or "".
        link: where a table says that the clip is, or "". It is never followed.
        score: BM25, higher is better.
    """

    caption: str
    path: str | None
    file: str
    link: str
    score: float


@dataclass(frozen=True)
class _Word:
    """A word of a query: in how many clips it is, its stem, its spelling, and how much finding it tells."""

    clips: int
    stem: str
    word: str
    rarity: float


_FACTS = {"captions": int, "on_disk": int, "root": str, "words_per_caption": (int, float)}


class ReferenceLibrary:
    """A finished library, for searching. Close it, or use it as a context manager.

    Attributes:
        captions: how many captions it holds.
        on_disk: how many of them had their clip when it was built.
        root: the folder of its clips.

    Raises: EchoReelError where there is none, it is of another kind or damaged, or its build was not finished.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = Path(path)
        with plain_errors(self._path):
            self._db = connect(self._path)
            try:
                with patience(self._db):
                    facts = read_facts(self._db)
                if not facts.get("complete"):
                    raise EchoReelError(
                        f"The library {self._path.name} is incomplete: run Build Reference Library again; it "
                        "continues where it stopped."
                    )
                if not all(isinstance(facts.get(name), kind) for name, kind in _FACTS.items()):
                    raise damaged(self._path.name, "facts of another type")
                self._whole_words = format_version(self._db) == 1  # they were indexed as they are
                self._db.execute("PRAGMA query_only = ON")
            except BaseException:
                self._db.close()
                raise
        self.captions, self.on_disk, self.root = facts["captions"], facts["on_disk"], facts["root"]
        self._mean_words = facts["words_per_caption"]
        self._text = _Text()

    def __enter__(self) -> ReferenceLibrary:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        self._text.close()

    def search(self, query: str, limit: int = 5) -> list[Hit]:
        """The best matches: up to `limit` with a clip on disk, then up to `limit` without, each best first.

        All of the query is words: nothing in it is an operator. A caption need not hold all of them; ranked is by
        BM25 (Robertson & Zaragoza, The Probabilistic Relevance Framework, 2009), a word's rarity as in Lucene, where it
        counts even if more than half of the captions hold it.

        Raises: EchoReelError where the query has no words, or the library is damaged.
        """
        with plain_errors(self._path), patience(self._db):
            words = self._words(query)
            if not words:
                return []
            ranked = [self._ranked(words, *region) for region in ((0, ELSEWHERE), (ELSEWHERE, 2 * ELSEWHERE))]
        here: list[Hit] = []
        away: list[Hit] = []
        for match in ranked[0]:
            if len(here) == limit:
                break
            hit = self._hit(*match)
            (here if hit.path else away).append(hit)
        away += [self._hit(*match) for match in ranked[1][:limit]]
        return here + sorted(away, key=lambda hit: -hit.score)[:limit]

    def _hit(self, score: float, caption: str, link: str, file: str | None) -> Hit:
        return Hit(caption, inside(self.root, file) if file else None, file or "", link, score)

    def _words(self, query: str) -> list[_Word]:
        """The query's words that the library knows, the rarest first."""
        spelled = self._text.words(query if self._whole_words else asked(query))
        if not spelled:
            raise EchoReelError("The query has no words: write what happens in the clip, for example jumping.")
        words = []
        for stem, word in spelled.items():
            found = self._db.execute("SELECT clips FROM words WHERE stem = ?", (stem,)).fetchone()
            if found:
                if not isinstance(found[0], int) or found[0] < 1 or found[0] > self.captions:
                    raise damaged(self._path.name, "a count of another type")
                rarity = math.log(1 + (self.captions - found[0] + 0.5) / (found[0] + 0.5))
                words.append(_Word(found[0], stem, word, rarity))
        return sorted(words, key=lambda word: word.clips)[:MOST_WORDS]

    def _ranked(self, words: Sequence[_Word], first: int, end: int) -> list[tuple[float, str, str, str | None]]:
        """(score, caption, link, file) of the candidates with ids from `first` to `end`, best first."""
        found: dict[int, tuple[str, str, str | None]] = {}
        for expression in _expressions(words):
            rows = self._db.execute(
                "SELECT c.id, c.caption, c.link, c.file FROM captions JOIN clips c ON c.id = captions.rowid "
                "WHERE captions MATCH ? AND captions.rowid >= ? AND captions.rowid < ? ORDER BY captions.rowid LIMIT ?",
                (expression, first, end, CANDIDATES),
            )
            found.update((id, tuple(map(_as_text, rest))) for id, *rest in rows)
            if len(found) >= CANDIDATES:
                break
        if not found:
            return []
        cut = str if self._whole_words else indexed
        scores = self._text.scores([cut(caption) for caption, _, _ in found.values()], words, self._mean_words)
        ranked = sorted(zip(scores, found.values(), strict=True), key=lambda match: -match[0])
        return [(score, *rest) for score, rest in ranked]


def _as_text(value: object) -> str | None:
    """What a library holds, where it comes from somebody else perhaps of another type."""
    return value if value is None or isinstance(value, str) else repr(value)[:100]


def _expressions(words: Sequence[_Word]) -> list[str]:
    """What to ask the index, until there are candidates enough: all the words, fewer and rarer ones, any of them."""
    quoted = [f'"{word.word}"' for word in words]
    sizes = sorted({size for size in (len(words), 3, 2, 1) if size <= len(words)}, reverse=True)
    return [" AND ".join(quoted[:size]) for size in sizes] + [" OR ".join(quoted)] * (len(words) > 1)


class _Text:
    """SQLite's own tokenizer and stemmer, at work on a few texts in memory."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        for name, tokenizer in (("spelled", TOKENIZER.split()[-1]), ("stemmed", TOKENIZER)):
            self._db.execute(f"CREATE VIRTUAL TABLE {name} USING fts5(text, content='', tokenize='{tokenizer}')")
            self._db.execute(f"CREATE VIRTUAL TABLE {name}_words USING fts5vocab({name}, instance)")

    def close(self) -> None:
        self._db.close()

    def words(self, query: str) -> dict[str, str]:
        """Stem → first spelling (lower case, no accents, letters and digits only) of each word, in their order."""
        self._hold([valid_text(query[:LONGEST_QUERY])], "spelled", "stemmed")
        spelled = dict(self._db.execute("SELECT offset, term FROM spelled_words"))
        stems = self._db.execute("SELECT term, min(offset) FROM stemmed_words GROUP BY term ORDER BY 2")
        return {stem: spelled[place] for stem, place in stems}

    def scores(self, captions: Sequence[str], words: Iterable[_Word], mean_length: float) -> list[float]:
        """BM25 of each caption; `mean_length`: words per caption in the whole library."""
        self._hold(captions, "stemmed")
        lengths = [len(caption.split()) for caption in captions]
        scores = [0.0] * len(captions)
        for word in words:
            query = "SELECT doc, count(*) FROM stemmed_words WHERE term = ? GROUP BY doc"
            for place, times in self._db.execute(query, (word.stem,)):
                damping = K1 * (1 - B + B * lengths[place] / mean_length)
                scores[place] += word.rarity * times * (K1 + 1) / (times + damping)
        return scores

    def _hold(self, texts: Sequence[str], *tables: str) -> None:
        self._db.execute("BEGIN")
        for table in tables:
            self._db.execute(f"INSERT INTO {table}({table}) VALUES ('delete-all')")
            self._db.executemany(f"INSERT INTO {table}(rowid, text) VALUES (?, ?)", enumerate(texts))
        self._db.execute("COMMIT")
