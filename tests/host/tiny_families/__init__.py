"""Every model family at its smallest: the host's own classes with random weights, built the way the host builds them.

One file per family, with its `CASES`; `build(name)` gives a `Tiny`, or None where this version of the host has no such
model.
"""

from __future__ import annotations

from . import cogvideox, cosmos, hunyuan_video, kandinsky5, ltxv, minimax, mochi, svd, wan
from .tiny import Builder, Missing, Tiny, from_config, write_model

__all__ = ["CASES", "IMAGE_CASES", "Tiny", "build", "from_config", "write_model"]

FILES = (svd, wan, ltxv, hunyuan_video, mochi, cosmos, cogvideox, minimax, kandinsky5)

CASES: dict[str, Builder] = {name: case for file in FILES for name, case in file.CASES.items()}
IMAGE_CASES: dict[str, Builder] = {
    name: case for file in FILES for name, case in getattr(file, "IMAGE_CASES", {}).items()
}
"""More models that are given images: in their blocks they are like others among the cases, in training they are not."""


def build(name: str) -> Tiny | None:
    """The case of that name, or None where this version of the host has no such model."""
    try:
        return {**CASES, **IMAGE_CASES}[name]()
    except Missing:
        return None
