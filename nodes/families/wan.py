"""Wan 2.1 and 2.2 with all their variants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import AnySite, BranchSite, Site
from .base import (
    ModelFamily,
    TokenGrid,
    class_named,
    format_named,
    patched_grid,
    sequence_from_frames,
    sequence_to_frames,
)


def _class_names(diffusion_model: torch.nn.Module) -> set[str]:
    return {cls.__name__ for cls in type(diffusion_model).__mro__}


def _sites(diffusion_model: torch.nn.Module) -> list[AnySite]:
    blocks, dim = diffusion_model.blocks, diffusion_model.dim
    if "WanAnimate2Model" in _class_names(diffusion_model):
        # its blocks are not called as modules, but the attentions in them are
        return [
            BranchSite(f"blocks.{i}", block, dim, entry=block.norm3, branch=block.cross_attn)
            for i, block in enumerate(blocks)
        ]
    return [Site(f"blocks.{i}", block, block.norm2, dim) for i, block in enumerate(blocks)]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, kwargs: dict[str, Any]) -> TokenGrid:
    grid = patched_grid(latents, diffusion_model.patch_size)
    names = _class_names(diffusion_model)
    reference = kwargs.get("reference_latent")
    first = leading = 0
    if names & {"AnimateWanModel", "WanAnimate2Model"}:
        first, leading = grid.positions, 1  # the latents' first frame is the place of the character's picture
    if reference is not None and "SCAILWanModel" in names:
        first += grid.positions * reference.shape[2]  # goes in as more frames before the clip's own
    elif reference is not None and diffusion_model.ref_conv is not None:
        first += grid.positions  # goes in as one more frame
    return TokenGrid(grid.latent_frames, grid.size, first, leading, grid.patch_frames)


def _to_frames(hidden: Tensor, grid: TokenGrid) -> Tensor | None:
    if hidden.shape[1] < grid.first + grid.frames * grid.positions:
        return None  # Animate 2 runs the frames of its pose video through the same blocks
    return sequence_to_frames(hidden, grid)


WAN = ModelFamily(
    name="wan",
    title="Wan 2.1 and 2.2",
    recognises=class_named("WanModel"),
    sites=_sites,
    grid=_grid,
    to_frames=_to_frames,
    from_frames=sequence_from_frames,
    latent_format=format_named("Wan21", {48: "Wan22"}),
    fps=16,
    frames_per_latent=4,
)
