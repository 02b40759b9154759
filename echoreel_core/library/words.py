"""Captions and queries as the index takes them: folded, and cut up where a script puts no spaces between words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Thai to Myanmar, Hangul's letters, Khmer, kana with what is between, Han, Hangul, Han's compatibility and planes 2, 3
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def indexed(caption: str) -> str:
    """A caption as it is indexed: in unspaced scripts, each character is a word, and so is each pair of neighbours."""
    return _cut(caption, lambda run: [*run, *_pairs(run)])


def asked(query: str) -> str:
    """A query as the index is asked: in unspaced scripts, all pairs of neighbours, or a single character alone."""
    return _cut(query, lambda run: _pairs(run) or [run])


def _cut(text: str, parts: Callable[[str], list[str]]) -> str:
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text)  # full width and half width, ligatures, composed letters
    return _UNSPACED.sub(lambda found: f" {' '.join(parts(found[0]))} ", text)


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]
