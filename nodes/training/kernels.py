"""Fused kernels of the host that know no gradient, and their twins in plain torch that do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def kernels_with_gradients(names: Sequence[str]) -> Iterator[None]:
    """Inside the `with`, the host's kernel library computes these by plain torch functions of its own.

    Args:
        names: of its functions; those that this version of it lacks are passed over.
    """
    try:
        import comfy_kitchen
        from comfy_kitchen.backends import eager
    except ImportError:  # a host without the library has no such kernels
        yield
        return
    names = [name for name in names if hasattr(comfy_kitchen, name) and hasattr(eager, name)]
    before = [getattr(comfy_kitchen, name) for name in names]
    try:
        for name in names:
            setattr(comfy_kitchen, name, getattr(eager, name))
        yield
    finally:
        for name, kernel in zip(names, before, strict=True):
            setattr(comfy_kitchen, name, kernel)
