"""LTX-Video, and LTX-2 with sound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import AnySite, BranchSite, OutputSite
from .base import (
    ModelFamily,
    TokenGrid,
    class_named,
    format_named,
    patched_grid,
    sequence_from_frames,
    sequence_to_frames,
)
from .clip_conditioning import frame_rate


def _sites(diffusion_model: torch.nn.Module) -> list[AnySite]:
    dim = diffusion_model.inner_dim
    blocks = [(f"transformer_blocks.{i}", block) for i, block in enumerate(diffusion_model.transformer_blocks)]
    if getattr(diffusion_model, "cross_attention_adaln", False):
        # the text attention's output is gated here, so the layer cannot go after it
        return [OutputSite(name, block, dim, module=block) for name, block in blocks]
    return [BranchSite(name, block, dim, entry=block.attn2, branch=block.attn2) for name, block in blocks]


def _sites_with_sound(diffusion_model: torch.nn.Module) -> list[AnySite]:
    return [
        OutputSite(f"transformer_blocks.{i}", block, diffusion_model.inner_dim, module=block, item=0)
        for i, block in enumerate(diffusion_model.transformer_blocks)
    ]


def _grid(_diffusion_model: torch.nn.Module, latents: Tensor | list[Tensor], kwargs: dict[str, Any]) -> TokenGrid:
    grid = patched_grid(latents, (1, 1, 1))
    guides = kwargs.get("keyframe_idxs")
    if guides is None:
        return grid
    # guide frames are appended to the clip's; some of their tokens may be dropped, the clip's own never are
    return TokenGrid(grid.latent_frames - guides.shape[2] // grid.positions, grid.size)


LTXAV = ModelFamily(
    name="ltxav",
    title="LTX-2",
    recognises=class_named("LTXAVModel"),
    sites=_sites_with_sound,
    grid=_grid,
    to_frames=sequence_to_frames,
    from_frames=sequence_from_frames,
    latent_format=format_named("LTXAV"),
    fps=25,
    frames_per_latent=8,
    changes_in_place=True,
    clip_conditioning=frame_rate,
)

LTXV = ModelFamily(
    name="ltxv",
    title="LTX-Video",
    recognises=lambda _model, classes: "LTXVModel" in classes and "LTXAVModel" not in classes,
    sites=_sites,
    grid=_grid,
    to_frames=sequence_to_frames,
    from_frames=sequence_from_frames,
    latent_format=format_named("LTXV"),
    fps=25,
    frames_per_latent=8,
    changes_in_place=True,
    clip_conditioning=frame_rate,
)
