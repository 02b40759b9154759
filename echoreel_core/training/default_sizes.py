"""Default adapter sizes per model family."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig
from ..action.prism import ActionPrismConfig

REFERENCE_PIXELS = 256
"""Side of the reference clip for every family, in pixels: the prism needs motion, not detail, and each pixel costs."""

ACTION_DIM = 1024
"""Width of an action token for families other than the released one's; it sets the size of the added layers."""


def default_adapter_config(
    family: str,
    sites: Sequence[tuple[str, int]],
    *,
    latent_channels: int,
    latent_size: tuple[int, int],
    latent_frames: int,
    text_width: int,
    block_heads: int = 8,
    **prism: int,
) -> AdapterConfig:
    """Default sizes for a model family.

    "lvdm" gets the released layout, 612 million parameters at the released sizes: a prism token per latent position,
    added layers as wide as their block, relative vectors. Every other family gets a prism over patches, added layers
    of an inner width of their own, and relative biases: 249 million parameters for Wan 2.1 1.3B, 422 million for 14B.

    Args:
        sites: (block name, width of its hidden state), in the order of the forward pass.
        latent_size: (height, width) of the reference's latents, REFERENCE_PIXELS over the VAE's factor.
        latent_frames: T of the latents of a clip and of its reference.
        block_heads: attention heads of the model's blocks, which "lvdm" layers take over.
        prism: fields of `ActionPrismConfig` to have otherwise.
    """
    sizes = {
        "latent_channels": latent_channels,
        "grid": latent_size,
        "text_width": text_width,
        "max_frames": latent_frames,
    }
    if family == "lvdm":
        return AdapterConfig(
            host=family,
            prism=ActionPrismConfig(**{**sizes, "context_width": text_width, **prism}),
            sites=tuple(SiteConfig(name, dim, block_heads, dim // block_heads) for name, dim in sites),
            position="relative_vectors",
            max_distance=latent_frames,
        )
    patch = 2 if min(latent_size) >= 32 and not latent_size[0] % 2 and not latent_size[1] % 2 else 1
    grid = (latent_size[0] // patch, latent_size[1] // patch)
    out_channels = max(1, ACTION_DIM // (grid[0] * grid[1]))
    sizes |= {"grid": grid, "patch": patch, "depth": 6, "out_channels": out_channels}
    return AdapterConfig(
        host=family,
        prism=ActionPrismConfig(**{**sizes, **prism}),
        sites=tuple(SiteConfig(name, dim, heads=8, head_dim=64) for name, dim in sites),
        position="relative_bias",
        max_distance=latent_frames,
    )


def parameter_count(config: AdapterConfig) -> int:
    """Parameters of an adapter, counted without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in EchoReelAdapter(config).parameters())
