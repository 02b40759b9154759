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


def _sites(diffusion_model: torch.nn.Module) -> list[Site]:
    return [
        Site(f"blocks.{i}", block, block.norm2, diffusion_model.dim, item=0)
        for i, block in enumerate(diffusion_model.blocks)
    ]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, _kwargs: dict[str, Any]) -> TokenGrid:
    space = diffusion_model.patch_size
    return patched_grid(latents, (diffusion_model.patch_size_t or 1, space, space))


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
)
