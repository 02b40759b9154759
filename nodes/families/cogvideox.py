"""CogVideoX and CogVideoX 1.5."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import Site
from .base import (
    ModelFamily,
    TokenGrid,
    class_named,
    format_named,
    patched_grid,
    sequence_from_frames,
    sequence_to_frames,
)
from .clip_conditioning import Clip


def _sites(diffusion_model: torch.nn.Module) -> list[Site]:
    return [
        Site(f"blocks.{i}", block, block.norm2, diffusion_model.dim, item=0)
        for i, block in enumerate(diffusion_model.blocks)
    ]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, _kwargs: dict[str, Any]) -> TokenGrid:
    space = diffusion_model.patch_size
    return patched_grid(latents, (diffusion_model.patch_size_t or 1, space, space))


def _beside(base: Any) -> int:
    """Channels that it takes besides the latents."""
    return base.diffusion_model.in_channels - base.latent_format.latent_channels


def _untrainable(base: Any) -> str | None:
    if _beside(base) <= base.latent_format.latent_channels:
        return None
    return (
        "CogVideoX for inpainting needs to know what to remove from a video, which pairs of clips do not show: "
        "train on its text-to-video or image-to-video model."
    )


def _clip_conditioning(base: Any, clip: Clip) -> dict[str, Any]:
    """The host has no node for it, but takes the start image's latents in its conditioning."""
    return {"concat_latent_image": clip.vae.encode(clip.first)} if _beside(base) else {}


COGVIDEOX = ModelFamily(
    name="cogvideox",
    title="CogVideoX",
    recognises=class_named("CogVideoXTransformer3DModel"),
    sites=_sites,
    grid=_grid,
    to_frames=sequence_to_frames,
    from_frames=sequence_from_frames,
    latent_format=format_named("CogVideoX"),
    fps=8,
    frames_per_latent=4,
    untrainable=_untrainable,
    clip_conditioning=_clip_conditioning,
)
