"""How the added layers get into a video model's blocks: temporary forward hooks, for the time of one call.

The exact place, between a block's last attention and its feed-forward, is reached without touching the model's code.
With d the added layer's output at hidden state x, a pre-hook on the norm before the feed-forward hands it x + d, and a
hook on the block adds the same d to the block's output: x + d + ff(norm(x + d)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

AddedLayer = Callable[[Tensor], Tensor]
"""The hidden state at the site in, in the host's own layout; what is to be added to it out."""


@dataclass(frozen=True)
class Site:
    """One place in a model that takes an added layer.

    Attributes:
        name: the block's path in the model, e.g. "blocks.7".
        block: the module whose output is the residual stream after the feed-forward.
        norm: the module in it whose first input is the residual stream before the feed-forward.
    """

    name: str
    block: nn.Module
    norm: nn.Module


@contextmanager
def added_layers(sites: Sequence[Site], layers: Sequence[AddedLayer]) -> Iterator[None]:
    """Runs `layers[i]` at `sites[i]` in every forward pass inside the `with`; nothing is left behind, whatever happens.

    Several of these may be nested: each adds to what the ones before it left.
    """
    handles = []
    try:
        for site, layer in zip(sites, layers, strict=True):
            handles += _add_layer(site, layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_layer(site: Site, layer: AddedLayer) -> list:
    pending: list[Tensor] = []  # the delta on its way from the norm to the block's end

    def before_norm(_module, args):
        delta = layer(args[0]).to(args[0].dtype)
        pending.append(delta)
        return (args[0] + delta, *args[1:])

    def after_block(_module, _args, output):
        return output + pending.pop()

    return [site.norm.register_forward_pre_hook(before_norm), site.block.register_forward_hook(after_block)]
