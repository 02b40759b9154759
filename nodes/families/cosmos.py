"""Cosmos 1 and Cosmos Predict 2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import OutputSite, Site
from .base import ModelFamily, TokenGrid, class_named, format_named, patched_grid
from .clip_conditioning import KNOWN, KNOWN_MASK, Clip, ClipConditioning, by_host_class, run_node


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, _kwargs: dict[str, Any]) -> TokenGrid:
    space = diffusion_model.patch_spatial
    return patched_grid(latents, (diffusion_model.patch_temporal, space, space))


def _sites_1(diffusion_model: torch.nn.Module) -> list[OutputSite]:
    return [
        OutputSite(f"blocks.{name}", block, diffusion_model.model_channels, module=part)
        for name, block in diffusion_model.blocks.items()
        for part in block.blocks
        if part.block_type in ("ca", "cross_attn")
    ]


def _sites_2(diffusion_model: torch.nn.Module) -> list[Site]:
    return [
        Site(f"blocks.{i}", block, block.layer_norm_mlp, diffusion_model.model_channels)
        for i, block in enumerate(diffusion_model.blocks)
    ]


def _start_image(name: str) -> ClipConditioning:
    """By one of the host's nodes: the first frame's latents stand in their place of the clip's."""

    def clip_conditioning(base: Any, clip: Clip) -> dict[str, Any]:
        if not base.image_to_video:
            return {}
        (latent,) = run_node("nodes_cosmos", name, **clip.size(), start_image=clip.first)
        return {KNOWN: latent["samples"], KNOWN_MASK: latent["noise_mask"]}

    return clip_conditioning


COSMOS = ModelFamily(
    name="cosmos",
    title="Cosmos 1",
    recognises=class_named("GeneralDIT"),
    sites=_sites_1,
    grid=_grid,
    # [T, H, W, B, dim]
    to_frames=lambda hidden, grid: hidden.permute(3, 0, 1, 2, 4).flatten(2, 3),
    from_frames=lambda delta, hidden, grid: delta.unflatten(2, grid.size).permute(1, 2, 3, 0, 4),
    latent_format=format_named("Cosmos1CV8x8x8"),
    fps=24,
    frames_per_latent=8,
    clip_conditioning=_start_image("CosmosImageToVideoLatent"),
)

COSMOS_PREDICT2 = ModelFamily(
    name="cosmos_predict2",
    title="Cosmos Predict 2",
    recognises=class_named("MiniTrainDIT"),
    sites=_sites_2,
    grid=_grid,
    # [B, T, H, W, dim]
    to_frames=lambda hidden, grid: hidden.flatten(2, 3),
    from_frames=lambda delta, hidden, grid: delta.unflatten(2, grid.size),
    latent_format=format_named("Wan21"),
    fps=16,
    frames_per_latent=4,
    # picture models of other names are built of the same blocks
    clip_conditioning=by_host_class({"CosmosPredict2": _start_image("CosmosPredict2ImageToVideoLatent")}),
    kernels_without_gradient=("apply_rope_split_half", "rms_rope_split_half"),
)
