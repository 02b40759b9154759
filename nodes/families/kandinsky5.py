"""Kandinsky 5."""

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
        Site(f"visual_transformer_blocks.{i}", block, block.feed_forward_norm, diffusion_model.model_dim)
        for i, block in enumerate(diffusion_model.visual_transformer_blocks)
    ]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, _kwargs: dict[str, Any]) -> TokenGrid:
    return patched_grid(latents, tuple(diffusion_model.patch_size))


KANDINSKY5 = ModelFamily(
    name="kandinsky5",
    title="Kandinsky 5",
    recognises=class_named("Kandinsky5"),
    sites=_sites,
    grid=_grid,
    to_frames=sequence_to_frames,
    from_frames=sequence_from_frames,
    latent_format=format_named("HunyuanVideo"),
    fps=24,
    frames_per_latent=4,
)
