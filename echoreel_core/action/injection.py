"""Puts the added layers into a video model's blocks, with forward hooks that last for one call.

The exact place, between a block's last attention and its feed-forward, is reached without touching the model's code,
in one of three ways, whichever the block offers. With d the added layer's output at hidden state x:

- `Site`: a pre-hook on the norm before the feed-forward hands it x + d, and a hook on the block adds the same d to the
  block's output: x + d + ff(norm(x + d)).
- `BranchSite`: if the last attention's output y is added to x unchanged, a hook on that attention returns y + d.
- `OutputSite`: after a module whose output is x itself: an attention sub-block, or, where a block has no such place,
  the whole block.

All this holds in compiled models too; `compiled.py` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .compiled import mark_modules, run_in_graph, uncompiled

AddedLayer = Callable[[Tensor], Tensor | None]
"""The hidden state at the site in, in the host's own layout; what to add to it out, or None for nothing."""

_PLACE = "_echoreel_place"


@dataclass(eq=False)
class _Place:
    """What the hooks of a site share, and all layers that are attached there.

    Hooks are functions of this file and find it on the module, so that a compiler that looks into them sees the same
    code in every call; it does not look at the layers, unless they are `traced`.

    Attributes:
        layers: each gets the hidden state with what the ones before it added.
        key: names this place to a compiled graph.
        item: which of the block's outputs is the residual stream, or None where it has only one.
        traced: whether a compiler looks into the layers, see `added_layers`.
        held: a tensor on its way through the block.
    """

    item: int | None
    traced: bool = False
    key: Tensor | None = None
    layers: list[AddedLayer] = field(default_factory=list)
    held: Tensor | None = None

    def delta(self, hidden: Tensor) -> Tensor | None:
        """What all layers add to a hidden state."""
        total = None
        for layer in self.layers:
            delta = layer(hidden if total is None else hidden + total)
            if delta is not None:
                delta = delta.to(hidden.dtype)
                total = delta if total is None else total + delta
        return total


def _delta(place: _Place, hidden: Tensor) -> Tensor | None:
    if torch.compiler.is_compiling() and not place.traced:
        return run_in_graph(hidden, place.key)
    return place.delta(hidden)


def _add(output: Tensor | tuple, delta: Tensor | None, item: int | None) -> Tensor | tuple:
    """A module's output with the delta added to it, or to one item of it."""
    if delta is None:
        return output
    if item is None:
        return output + delta
    return (*output[:item], output[item] + delta, *output[item + 1 :])


def _open(module: nn.Module, _args: tuple) -> None:
    getattr(module, _PLACE).held = None


def _hold_first_input(module: nn.Module, args: tuple) -> None:
    getattr(module, _PLACE).held = args[0]


def _add_to_first_input(module: nn.Module, args: tuple) -> tuple:
    place = getattr(module, _PLACE)
    place.held = delta = _delta(place, args[0])
    return args if delta is None else (args[0] + delta, *args[1:])


def _add_held(module: nn.Module, _args: tuple, output: Tensor | tuple) -> Tensor | tuple:
    place = getattr(module, _PLACE)
    held, place.held = place.held, None
    return _add(output, held, place.item)


def _add_to_branch(module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
    place = getattr(module, _PLACE)
    stream, place.held = place.held, None
    return _add(output, _delta(place, stream + output), None)


def _add_to_output(module: nn.Module, _args: tuple, output: Tensor | tuple) -> Tensor | tuple:
    place = getattr(module, _PLACE)
    hidden = output if place.item is None else output[place.item]
    return _add(output, _delta(place, hidden), place.item)


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

    def _hooks(self) -> list[_Hook]:
        return [
            _Hook(self.block, nn.Module.register_forward_pre_hook, _open),
            _Hook(self.norm, nn.Module.register_forward_pre_hook, _add_to_first_input),
            _Hook(self.block, nn.Module.register_forward_hook, _add_held),
        ]


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
    item: None = None

    def _hooks(self) -> list[_Hook]:
        return [
            _Hook(self.entry, nn.Module.register_forward_pre_hook, _hold_first_input),
            _Hook(self.branch, nn.Module.register_forward_hook, _add_to_branch),
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

    def _hooks(self) -> list[_Hook]:
        return [_Hook(self.module, nn.Module.register_forward_hook, _add_to_output)]


AnySite = Site | BranchSite | OutputSite


@dataclass(frozen=True)
class _Hook:
    """A function, how it is registered, and the module it is registered on."""

    module: nn.Module
    register: Callable[..., RemovableHandle]
    function: Callable


@contextmanager
def added_layers(sites: Sequence[AnySite], layers: Sequence[AddedLayer], *, traced: bool = False) -> Iterator[None]:
    """Runs `layers[i]` at `sites[i]` in every forward pass inside the `with`; all hooks are removed, always.

    These may be nested: each adds to the output of the outer ones.

    Args:
        traced: a compiler takes the layers into its graphs, as training needs, where gradients go through them. By
            default they stay outside: others may take their place without a new graph.
    """
    with ExitStack() as stack:
        for site, layer in zip(sites, layers, strict=True):
            stack.enter_context(_attached(site, layer, traced))
        yield


def let_go(module: nn.Module) -> None:
    """Forgets what is on its way through a module, or through modules in it, whose run was broken off."""
    for part in module.modules():
        place = part.__dict__.get(_PLACE)
        if place is not None:
            place.held = None


@contextmanager
def _attached(site: AnySite, layer: AddedLayer, traced: bool) -> Iterator[None]:
    hooks = site._hooks()
    modules = list(dict.fromkeys(uncompiled(hook.module) for hook in hooks))
    with ExitStack() as stack:
        place = modules[0].__dict__.get(_PLACE)
        if place is None:
            place = _Place(site.item, traced)
            place.key = stack.enter_context(mark_modules(modules, place.delta))
            for module in modules:
                module.__dict__[_PLACE] = place
                stack.callback(module.__dict__.pop, _PLACE)
            for hook in hooks:
                stack.callback(hook.register(uncompiled(hook.module), hook.function).remove)
        place.layers.append(layer)
        try:
            yield
        finally:
            place.layers.remove(layer)
