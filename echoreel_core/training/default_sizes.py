"""Default adapter sizes: two forms of adapter, sized to fit a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig
from ..action.prism import ActionPrismConfig

REFERENCE_PIXELS = 256
"""Side of the reference clip for every model, in pixels: the prism needs motion, not detail, and each pixel costs."""

RELEASED_WIDEST = 1280
"""Channels of the released model's widest block."""

ACTION_DIM = 1024
"""Width of an action token in the general form; it sets the size of the added layers."""


@dataclass(frozen=True)
class AdapterInputs:
    """What an adapter has to fit.

    Attributes:
        host: the family of models, as in `AdapterConfig`.
        sites: (block name, width of its hidden state), in the order of the forward pass.
        latent_channels: of the latents that the prism takes.
        latent_size: (height, width) of the reference's latents, REFERENCE_PIXELS over the VAE's factor.
        latent_frames: T of the latents of a clip and of its reference.
        text_width: of the text encoder's tokens.
    """

    host: str
    sites: Sequence[tuple[str, int]]
    latent_channels: int
    latent_size: tuple[int, int]
    latent_frames: int
    text_width: int


def released_form(inputs: AdapterInputs, *, block_heads: int, **prism: int) -> AdapterConfig:
    """The released layout, 612 million parameters at the released sizes.

    A prism token per latent position, in proportion to the model's width, added layers as wide as their block, relative
    vectors.

    Args:
        block_heads: attention heads of the model's blocks, which the added layers take over.
        prism: fields of `ActionPrismConfig` that differ.
    """
    sizes = {**_prism_sizes(inputs), "context_width": inputs.text_width, **_prism_like(inputs.sites)}
    return AdapterConfig(
        host=inputs.host,
        prism=ActionPrismConfig(**{**sizes, **prism}),
        sites=tuple(SiteConfig(name, dim, block_heads, dim // block_heads) for name, dim in inputs.sites),
        position="relative_vectors",
        max_distance=inputs.latent_frames,
    )


def general_form(inputs: AdapterInputs, **prism: int) -> AdapterConfig:
    """For models of any width: 249 million parameters for Wan 2.1 1.3B, 422 million for 14B.

    A prism over patches, added layers of an inner width of their own, relative biases.

    Args:
        prism: fields of `ActionPrismConfig` that differ.
    """
    height, width = inputs.latent_size
    patch = 2 if min(height, width) >= 32 and not height % 2 and not width % 2 else 1
    grid = (height // patch, width // patch)
    out_channels = max(1, ACTION_DIM // (grid[0] * grid[1]))
    sizes = {**_prism_sizes(inputs), "grid": grid, "patch": patch, "depth": 6, "out_channels": out_channels}
    return AdapterConfig(
        host=inputs.host,
        prism=ActionPrismConfig(**{**sizes, **prism}),
        sites=tuple(SiteConfig(name, dim, heads=8, head_dim=64) for name, dim in inputs.sites),
        position="relative_bias",
        max_distance=inputs.latent_frames,
    )


def _prism_sizes(inputs: AdapterInputs) -> dict[str, Any]:
    return {
        "latent_channels": inputs.latent_channels,
        "grid": inputs.latent_size,
        "text_width": inputs.text_width,
        "max_frames": inputs.latent_frames,
    }


def parameter_count(config: AdapterConfig) -> int:
    """Parameters of an adapter, counted without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in EchoReelAdapter(config).parameters())


def _prism_like(sites: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Width and depth of the released prism, 640 and 18, in proportion to the model's widest block: there 1,280."""
    released = ActionPrismConfig()
    share = min(1.0, max(dim for _, dim in sites) / RELEASED_WIDEST)
    head_dim = max(4, round(released.head_dim * share))
    return {
        "width": released.heads * head_dim,
        "head_dim": head_dim,
        "depth": max(2, round(released.depth * share)),
    }
