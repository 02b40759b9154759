"""Fused kernels of the host that know no gradient, and their twins in plain torch that do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

WITHOUT_A_SWITCH = ("apply_rope_split_half", "rms_rope_split_half")
"""The host uses these (in Cosmos Predict 2 and MiniMax H3) even when it is told that it trains."""


@contextmanager
def kernels_with_gradients() -> Iterator[None]:
    """Inside the `with`, the host's kernel library computes them by plain torch functions of its own."""
    try:
        import comfy_kitchen
        from comfy_kitchen.backends import eager
    except ImportError:  # a host without the library has no such kernels
        yield
        return
    names = [name for name in WITHOUT_A_SWITCH if hasattr(comfy_kitchen, name) and hasattr(eager, name)]
    before = [getattr(comfy_kitchen, name) for name in names]
    try:
        for name in names:
            setattr(comfy_kitchen, name, getattr(eager, name))
        yield
    finally:
        for name, kernel in zip(names, before, strict=True):
            setattr(comfy_kitchen, name, kernel)
