"""What makes the added layers hold in models that torch.compile has compiled, or compiles later.

A compiled graph records what the model did once, with guards on what that depended on. torch does not guard on hooks
(`torch._dynamo.config.skip_nnmodule_hook_guards`), so a graph recorded without them would keep running without them,
and the other way round. It does guard on the types of the modules it passed through. So a module that carries an added
layer is, for that time, of an empty subclass of its type. This gives two graphs, one with and one without an action,
whatever the number of actions, strengths, masks and steps.

Inside a graph the layer is an operator that the compiler cannot look into. It is found by a key, a tensor that is an
input of the graph, so that blocks with the same code share one graph. The key is on the CPU, which also keeps CUDA
graphs, which replay kernels without running any Python, from being recorded around the operator.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_running: dict[int, Callable[[Tensor], Tensor | None]] = {}
_numbers = itertools.count()


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


def _run(x: Tensor, key: Tensor) -> Tensor:
    delta = _running[int(key)](x)
    return torch.zeros_like(x, memory_format=torch.contiguous_format) if delta is None else delta.contiguous()


# its own name for every copy of this module, which the host names after a path: no operator may have all its characters
_COPY = f"echoreel_{zlib.crc32(__name__.encode()):08x}"
_operator = torch.library.custom_op(
    f"{_COPY}::added_layer", _run, mutates_args=(), schema="(Tensor x, Tensor key) -> Tensor"
)
_operator.register_fake(lambda x, key: x.new_empty(x.shape))


def run_in_graph(x: Tensor, key: Tensor) -> Tensor:
    """What the layers behind the key add to x, of its shape and dtype, as one operator of a graph being compiled."""
    return _operator(x, key)


@functools.cache
def _marked(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


@contextmanager
def mark_modules(modules: Sequence[nn.Module], layers: Callable[[Tensor], Tensor | None]) -> Iterator[Tensor]:
    """Inside the `with`, graphs through these modules are apart from others; yields the key of `layers`."""
    number, kinds = next(_numbers), [type(module) for module in modules]
    _running[number] = layers
    try:
        for module, kind in zip(modules, kinds, strict=True):
            module.__class__ = _marked(kind)
        with torch.inference_mode(False):  # graphs are guarded on what kind of tensor it is
            key = torch.tensor(number, device="cpu")
        yield key
    finally:
        del _running[number]
        for module, kind in zip(modules, kinds, strict=True):
            module.__class__ = kind
