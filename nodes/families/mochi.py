"""Mochi."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import OutputSite
from .base import (
    ModelFamily,
    TokenGrid,
    class_named,
    format_named,
    patched_grid,
    sequence_from_frames,
    sequence_to_frames,
)


def _sites(diffusion_model: torch.nn.Module) -> list[OutputSite]:
    return [
        OutputSite(f"blocks.{i}", block, diffusion_model.hidden_size_x, module=block, item=0)
        for i, block in enumerate(diffusion_model.blocks)
    ]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, _kwargs: dict[str, Any]) -> TokenGrid:
    return patched_grid(latents, (1, diffusion_model.patch_size, diffusion_model.patch_size))


MOCHI = ModelFamily(
    name="mochi",
    title="Mochi",
    recognises=class_named("AsymmDiTJoint"),
    sites=_sites,
    grid=_grid,
    to_frames=sequence_to_frames,
    from_frames=sequence_from_frames,
    latent_format=format_named("Mochi"),
    fps=24,
    frames_per_latent=6,
)
