"""Captions and queries as the index takes them: folded, and cut up where a script puts no spaces between words."""

from __future__ import annotations

import re
import unicodedata

# Thai to Myanmar, Hangul's letters, Khmer, kana with what is between, Han, Hangul, Han's compatibility and planes 2, 3
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_PRIVATE = 0xE000


def indexed(caption: str) -> str:
    """A caption as it is indexed: each character of an unspaced script as a word, and each two neighbours as one."""
    return _cut(caption, lambda run: [*run, *_pairs(run)])


def asked(query: str) -> str:
    """A query as the index is asked: a single character of an unspaced script, or all neighbours of a longer word."""
    return _cut(query, lambda run: _pairs(run) or [run])


def _cut(text: str, parts) -> str:
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text)  # full width and half width, ligatures, composed letters
    return _UNSPACED.sub(lambda found: f" {' '.join(parts(_without_marks(found[0])))} ", text)


def _without_marks(run: str) -> str:
    """With private characters for vowel signs and the like, at which SQLite's tokenizer would end a word."""
    return "".join(chr(_PRIVATE + (ord(c) & 0xFFF)) if unicodedata.category(c)[0] == "M" else c for c in run)


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]
