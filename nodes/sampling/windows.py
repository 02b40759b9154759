"""Which frames of the clip a call of the model is about: all of them, or a window of a clip that is too long for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..families.base import ModelFamily, TokenGrid
from .rows import Place


@dataclass(frozen=True)
class ClipFrames:
    """Frames of a clip, in frames of tokens.

    Attributes:
        at: index in the clip of each frame of this call; between two whole ones where a token is.
        total: frames of the whole clip.
    """

    at: tuple[float, ...]
    total: int


def clip_frames(
    family: ModelFamily, grid: TokenGrid, options: dict[str, Any], place: Place | None = None
) -> ClipFrames:
    """The clip's frames in one call.

    Args:
        options: transformer_options of the call.
        place: the area of the latents that the call sees.
    """
    if place is not None and place.size[0] == grid.latent_frames < place.full[0]:
        indices, total = _latent_indices(family, replace(grid, latent_frames=place.full[0]), options)
        indices = indices[place.start[0] : place.start[0] + place.size[0]]
    else:
        indices, total = _latent_indices(family, grid, options)
    return ClipFrames(
        at=tuple(index / grid.patch_frames - grid.leading for index in indices[:: grid.patch_frames])[grid.leading :],
        total=math.ceil(total / grid.patch_frames) - grid.leading,
    )


def _latent_indices(family: ModelFamily, grid: TokenGrid, options: dict[str, Any]) -> tuple[list[int], int]:
    """The latents' frames of this call among all latent frames, and how many there are in all."""
    frames = grid.latent_frames

    if family.window is not None and (own := family.window(grid, options)) is not None:
        return own

    window = options.get("context_window")  # stays there after the last window of a step
    if window is not None:
        anchor = getattr(window, "causal_anchor_index", None)
        indices = [*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list]
        if len(indices) == frames:
            return indices, window.total_frames

    return list(range(frames)), frames
