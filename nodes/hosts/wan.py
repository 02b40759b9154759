"""Wan 2.1 and 2.2."""

from __future__ import annotations

import math
from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor

from ...echoreel_core.injection import Site
from .base import Host, TokenGrid, sequence_from_frames, sequence_to_frames


def _sites(diffusion_model: torch.nn.Module) -> list[Site]:
    return [Site(f"blocks.{i}", block, block.norm2) for i, block in enumerate(diffusion_model.blocks)]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, kwargs: dict[str, Any]) -> TokenGrid:
    frames, height, width = (
        math.ceil(size / patch) for size, patch in zip(latents.shape[-3:], diffusion_model.patch_size, strict=True)
    )
    # a reference image goes in as one more frame before the clip's own
    leading = diffusion_model.ref_conv is not None and kwargs.get("reference_latent") is not None
    return TokenGrid(frames, height * width, first=height * width if leading else 0)


def _latent_format(channels: int) -> comfy.latent_formats.LatentFormat:
    return comfy.latent_formats.Wan22() if channels == 48 else comfy.latent_formats.Wan21()


WAN = Host(
    family="wan",
    title="Wan 2.1 and 2.2",
    class_names=frozenset({"WanModel"}),
    sites=_sites,
    grid=_grid,
    to_frames=sequence_to_frames,
    from_frames=sequence_from_frames,
    latent_format=_latent_format,
)
