"""What the pack has to know of a host model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.injection import Site


@dataclass(frozen=True)
class TokenGrid:
    """Where the video lies in a block's hidden state during one call of the model.

    Attributes:
        frames: latent frames T of the clip (or of the window of it that the model sees).
        positions: tokens per frame, or None where it differs from block to block.
        first: index of the first video token; the ones before it and after the last are not the clip's.
    """

    frames: int
    positions: int | None = None
    first: int = 0


@dataclass(frozen=True)
class Host:
    """One row of the table.

    Attributes:
        family: what adapters call this kind of model.
        title: what the user calls it.
        class_names: of the diffusion model or any of its base classes.
        sites: lists the blocks that can take an added layer.
        grid: (diffusion model, its input latents, its keyword arguments) → the grid of this call.
        to_frames: (hidden state, grid) → its video tokens as a [B, T, P, dim] view.
        from_frames: (delta [B, T, P, dim], hidden state, grid) → the delta in the hidden state's own layout.
        latent_format: latent channels → the host's latent format, which scales what its VAE gives.
    """

    family: str
    title: str
    class_names: frozenset[str]
    sites: Callable[[torch.nn.Module], list[Site]]
    grid: Callable[[torch.nn.Module, Tensor, dict[str, Any]], TokenGrid]
    to_frames: Callable[[Tensor, TokenGrid], Tensor]
    from_frames: Callable[[Tensor, Tensor, TokenGrid], Tensor]
    latent_format: Callable[[int], Any]


def sequence_to_frames(hidden: Tensor, grid: TokenGrid) -> Tensor:
    """The video tokens of a [B, L, dim] sequence that runs frame by frame, as [B, T, P, dim]."""
    length = grid.frames * grid.positions
    return hidden[:, grid.first : grid.first + length].unflatten(1, (grid.frames, grid.positions))


def sequence_from_frames(delta: Tensor, hidden: Tensor, grid: TokenGrid) -> Tensor:
    """The delta as [B, L, dim], zero at the tokens that are not the clip's."""
    delta = delta.flatten(1, 2)
    after = hidden.shape[1] - grid.first - delta.shape[1]
    if grid.first == 0 and after == 0:
        return delta
    return torch.nn.functional.pad(delta, (0, 0, grid.first, after))
