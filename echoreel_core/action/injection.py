"""Puts the added layers into a video model's blocks, with forward hooks that last for one call.

The exact place, between a block's last attention and its feed-forward, is reached without touching the model's code,
in one of three ways, whichever the block offers. With d the added layer's output at hidden state x:

- `Site`: a pre-hook on the norm before the feed-forward hands it x + d, and a hook on the block adds the same d to the
  block's output: x + d + ff(norm(x + d)).
- `BranchSite`: if the last attention's output y is added to x unchanged, a hook on that attention returns y + d.
- `OutputSite`: after a module whose output is x itself: an attention sub-block, or, where a block has no such place,
  the whole block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

AddedLayer = Callable[[Tensor], Tensor | None]
"""The hidden state at the site in, in the host's own layout; what is to be added to it out, or None for nothing."""


@dataclass(frozen=True)
class Site:
    """A place just before the norm that leads into a block's feed-forward.

    Attributes:
        name: the block's path in the model, e.g. "blocks.7".
        block: the module whose output is the residual stream after the feed-forward.
        norm: the module in it whose first input is the residual stream before the feed-forward.
        dim: width of the hidden state; read from the norm if not given.
        item: which of the block's outputs is the residual stream, or None where it has only one.
    """

    name: str
    block: nn.Module
    norm: nn.Module
    dim: int = 0
    item: int | None = None

    def __post_init__(self) -> None:
        if not self.dim:
            object.__setattr__(self, "dim", self.norm.normalized_shape[-1])

    def attach(self, layer: AddedLayer) -> list[RemovableHandle]:
        """Hooks the layer in until the handles are removed."""
        pending: list[Tensor | None] = []  # the delta on its way from the norm to the end of the block

        def before_norm(_module, args):
            delta = _delta(layer, args[0])
            pending.append(delta)
            return args if delta is None else (args[0] + delta, *args[1:])

        def after_block(_module, _args, output):
            return _add(output, pending.pop(), self.item)

        return [self.norm.register_forward_pre_hook(before_norm), self.block.register_forward_hook(after_block)]


@dataclass(frozen=True)
class BranchSite:
    """A place after an attention whose output is added to the residual stream unchanged.

    Attributes:
        name, block, dim: as in `Site`.
        entry: the module whose first input is the residual stream the attention's output is added to.
        branch: the attention; may be the same module.
    """

    name: str
    block: nn.Module
    dim: int
    entry: nn.Module
    branch: nn.Module

    def attach(self, layer: AddedLayer) -> list[RemovableHandle]:
        """Hooks the layer in until the handles are removed."""
        stream: list[Tensor] = []

        def before_entry(_module, args):
            stream.append(args[0])

        def after_branch(_module, _args, output):
            return _add(output, _delta(layer, stream.pop() + output), None)

        return [
            self.entry.register_forward_pre_hook(before_entry),
            self.branch.register_forward_hook(after_branch),
        ]


@dataclass(frozen=True)
class OutputSite:
    """A place after a module whose output is the residual stream.

    Attributes:
        name, block, dim, item: as in `Site`.
        module: the module; the block itself if it has no such place.
    """

    name: str
    block: nn.Module
    dim: int
    module: nn.Module
    item: int | None = None

    def attach(self, layer: AddedLayer) -> list[RemovableHandle]:
        """Hooks the layer in until the handle is removed."""

        def after_module(_module, _args, output):
            hidden = output if self.item is None else output[self.item]
            return _add(output, _delta(layer, hidden), self.item)

        return [self.module.register_forward_hook(after_module)]


AnySite = Site | BranchSite | OutputSite


@contextmanager
def added_layers(sites: Sequence[AnySite], layers: Sequence[AddedLayer]) -> Iterator[None]:
    """Runs `layers[i]` at `sites[i]` in every forward pass inside the `with`; all hooks are removed, always.

    These may be nested: each adds to the output of the outer ones.
    """
    handles: list[RemovableHandle] = []
    try:
        for site, layer in zip(sites, layers, strict=True):
            handles += site.attach(layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _delta(layer: AddedLayer, hidden: Tensor) -> Tensor | None:
    delta = layer(hidden)
    return None if delta is None else delta.to(hidden.dtype)


def _add(output: Tensor | tuple, delta: Tensor | None, item: int | None) -> Tensor | tuple:
    """The module's output with the delta added to it, or to one item of it."""
    if delta is None:
        return output
    if item is None:
        return output + delta
    return (*output[:item], output[item] + delta, *output[item + 1 :])
