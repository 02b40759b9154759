"""The words that the embedded model is taught, as CLIP token ids, and the small vocabulary it is trained with.

CLIP's table has 49,408 rows, of which the captions use a few dozen. Training keeps only those, and one row more that
stands for every other word; `expand` makes the full table, so that any CLIP tokenizer fits.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .clips import Clips

START, END, LENGTH, VOCABULARY = 49406, 49407, 77, 49408
# What CLIP's tokenizer makes of each word. The unseen actions' words are left out on purpose: nobody learns them.
TOKENS: dict[str, tuple[int, ...]] = {
    **{"a": (320,), "on": (525,), "background": (5994,), "small": (2442,), "big": (1205,)},
    **{"red": (736,), "orange": (4287,), "yellow": (4481,), "green": (1901,), "blue": (1746,), "purple": (5496,)},
    **{"pink": (3360,), "white": (1579,), "knight": (7355,), "ghost": (7108,), "robot": (8797,), "cat": (2368,)},
    **{"mushroom": (13011,), "heart": (1936,), "star": (1565,), "fish": (2759,), "black": (1449,), "navy": (5598,)},
    **{"teal": (22821,), "maroon": (20501,), "brown": (2866,), "gray": (7048,), "bouncing": (32060,)},
    **{"circling": (46036,), "pacing": (45202,), "marching": (15082,), "dashing": (33825,)},
    **{"teleporting": (3103, 26052), "wandering": (22597,), "tumbling": (46226,), "dancing": (6226,)},
    **{"spinning": (13987,), "rocking": (7081,), "pulsing": (2469, 1197), "squashing": (1653, 64, 1743)},
    **{"shaking": (19101,), "growing": (4425,), "swaying": (26443, 519)},
}
KNOWN = tuple(sorted({START, END, *(token for word in TOKENS.values() for token in word)}))
UNKNOWN = len(KNOWN)  # the small vocabulary's row for all other words
_ROW = {token: row for row, token in enumerate(KNOWN)}
END_ROW = _ROW[END]
_GRAMMAR = {"a", "on", "background"}
_CONTENT = {_ROW[token] for word, tokens in TOKENS.items() if word not in _GRAMMAR for token in tokens}


def ids(captions: list[str]) -> Tensor:
    """Captions as rows of the small vocabulary, `[batch, 77]`; a word that is not known is one unknown token."""
    out = torch.full((len(captions), LENGTH), _ROW[END])
    for line, text in zip(out, captions, strict=True):
        rows = [_ROW[token] if token else UNKNOWN for word in _words(text) for token in TOKENS.get(word, (0,))]
        rows = rows[: LENGTH - 2]
        line[: len(rows) + 1] = torch.tensor([_ROW[START], *rows])
    return out


def content_rows() -> frozenset[int]:
    """The rows of the words that mean something; the others are grammar."""
    return frozenset(_CONTENT)


def unknown_words(text: str) -> list[str]:
    """The words of a text that are not known."""
    return [word for word in _words(text) if word not in TOKENS]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def dropped(clips: Clips, generator: torch.Generator, empty: float, action: float, words: float) -> Tensor:
    """Ids `[batch, 77]` of the clips' captions with some of it withheld.

    A share `empty` of the captions is empty, as guidance needs; in a share `action` the action is one to five unknown
    words; and in a share `words` every word that means something is unknown with a probability of 0.3. An unknown word
    so comes to mean "anything".
    """
    out = ids(clips.captions())
    fate = torch.rand(len(clips), generator=generator)
    for row, chance in enumerate(fate.tolist()):
        if chance < empty:
            out[row] = ids([""])[0]
        elif chance < empty + action:
            caption = clips[row : row + 1].captions()[0].split()
            count = int(torch.randint(1, 6, (1,), generator=generator))
            out[row] = ids([" ".join([*caption[:4], *["?"] * count, *caption[-4:]])])[0]
        elif chance < empty + action + words:
            lost = torch.rand(LENGTH, generator=generator) < 0.3
            means = torch.tensor([token in _CONTENT for token in out[row].tolist()])
            out[row, lost & means] = UNKNOWN
    return out


def expand(table: Tensor) -> Tensor:
    """The small vocabulary's embeddings `[UNKNOWN + 1, width]` as CLIP's `[49408, width]`."""
    full = table[UNKNOWN].expand(VOCABULARY, -1).clone()
    full[list(KNOWN)] = table[:UNKNOWN]
    return full
