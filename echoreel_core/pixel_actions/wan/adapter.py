"""An adapter of the general form on the second base: its sizes, its file, and the base with its layers added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ...action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig, read_adapter
from ...action.attention import Position
from ...action.injection import added_layers
from ...action.prism import ActionPrismConfig
from ..model.adapted_model import blended
from .latents import SHAPE
from .model import WanModel


def adapter_config(
    model: WanModel, cells: int = 4, position: Position = "relative_bias", token_width: int = 256
) -> AdapterConfig:
    """An adapter with a layer at every block.

    Args:
        cells: prism tokens per side of a frame; 1 sees the frame as a whole.
        token_width: of a frame's action token.
    """
    channels, frames, side, _ = SHAPE
    prism = ActionPrismConfig(
        latent_channels=channels,
        grid=(cells, cells),
        patch=side // cells,
        text_width=model.config.text_width,
        context_width=model.config.text_width,
        width=128,
        depth=2,
        heads=4,
        head_dim=32,
        out_channels=token_width // cells**2,
        max_frames=frames,
    )
    sites = tuple(SiteConfig(site.name, site.dim, heads=4, head_dim=64) for site in model.sites())
    return AdapterConfig(host="wan", prism=prism, sites=sites, position=position, max_distance=frames)


def load_adapter(path: Path, device: torch.device | str = "cpu") -> EchoReelAdapter:
    """A trained adapter, float32 and frozen."""
    config, weights = read_adapter(path)
    adapter = EchoReelAdapter(config)
    adapter.load_state_dict({key: value.float() for key, value in weights.items()})
    return adapter.requires_grad_(False).eval().to(device)


@contextmanager
def attached(model: WanModel, adapter: EchoReelAdapter, tokens: Sequence[Tensor]) -> Iterator[None]:
    """Inside the `with`, the model runs with the actions of these tokens `[B, S, action_dim]` in equal parts."""
    context = blended(tokens, SHAPE[1])

    def layer(attention):
        return lambda hidden: attention(hidden.unflatten(1, (SHAPE[1], -1)), context).flatten(1, 2)

    with added_layers(model.sites(), [layer(attention) for attention in adapter.attentions]):
        yield
