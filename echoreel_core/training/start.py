"""Where fresh added layers begin: looking at the same frame of the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from ..action.adapter import EchoReelAdapter
from ..action.attention import ActionAttention

STRENGTH = 3.0
"""Score of the same frame above one far away: among 16 frames it gets about half of the attention."""

WIDTH = 0.7
"""Standard deviation of the peak, in frames of the reference."""


@torch.no_grad()
def look_at_same_frame(adapter: EchoReelAdapter) -> None:
    """Lets every added layer that has learned nothing yet look at the frame of the reference that is at its own place.

    From random weights a layer looks at all frames alike, and has to find out from a faint gradient that time matters.
    A layer's output is still zero afterwards.
    """
    for layer in adapter.attentions:
        if not layer.to_out.weight.any():
            _peak(layer)


def _peak(layer: ActionAttention) -> None:
    if layer.position == "relative_bias":
        layer.position_bias.copy_(_scores(layer.position_bias)[:, None].expand_as(layer.position_bias))
        return
    # What leaves a layer norm has no mean, so the direction of all ones is free for a constant part of every query;
    # the relative vectors answer to it, most at distance 0.
    weight = layer.to_q.weight.unflatten(0, (layer.heads, layer.head_dim))
    weight -= weight.mean(-1, keepdim=True)
    weight[:, 0] += 1 / layer.dim
    layer.norm.bias.fill_(1.0)
    layer.position_k *= 0.3
    layer.position_k[:, 0] = layer.head_dim**0.5 * _scores(layer.position_k)


def _scores(table: Tensor) -> Tensor:
    """The score [2 · reach + 1] of each distance, the entry for -reach first."""
    distance = torch.arange(len(table), device=table.device) - len(table) // 2
    return STRENGTH * torch.exp(-0.5 * (distance / WIDTH).square())
