"""LVDM, the released text-to-video model (the pack brings it to the host, see lvdm_model.py)."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor

from ...echoreel_core.injection import Site
from .base import Host, TokenGrid


def _sites(diffusion_model: torch.nn.Module) -> list[Site]:
    return diffusion_model.sites()


def _grid(_diffusion_model: torch.nn.Module, latents: Tensor, kwargs: dict[str, Any]) -> TokenGrid:
    # frames lie in the batch, one clip per chunk of conditioning
    return TokenGrid(frames=latents.shape[0] // len(kwargs["transformer_options"].get("cond_or_uncond", (0,))))


def _latent_format(_channels: int) -> comfy.latent_formats.LatentFormat:
    return comfy.latent_formats.SD15()


LVDM = Host(
    family="lvdm",
    title="LVDM (the released EchoReel checkpoint)",
    class_names=frozenset({"LVDMUNet"}),
    sites=_sites,
    grid=_grid,
    to_frames=lambda hidden, grid: hidden,  # its hidden states are [B, T, P, dim] already
    from_frames=lambda delta, hidden, grid: delta,
    latent_format=_latent_format,
)
