"""Adapters with random weights for the host tests."""

from __future__ import annotations

import torch
from conditioning import noise
from echoreel_pack.echoreel_core.action.action import Action, Reference
from echoreel_pack.echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig
from echoreel_pack.echoreel_core.action.prism import ActionPrismConfig
from echoreel_pack.nodes.models.adapter import load_adapter

TINY_PRISM = {"grid": (4, 4), "context_width": 32, "width": 32, "depth": 1, "heads": 2, "head_dim": 16, "patch": 2}


def wan_adapter(path, *, sites: int = 2, dim: int = 128, head_dim: int = 32, fresh: bool = False, **changes):
    """Saves and loads an adapter for `tiny_models.wan`; a fresh one's output projections are still zero."""
    torch.manual_seed(0)
    config = AdapterConfig(
        host="wan",
        prism=ActionPrismConfig(latent_channels=16, text_width=4096, **TINY_PRISM),
        sites=tuple(SiteConfig(f"blocks.{i}", dim, 2, head_dim) for i in range(sites)),
        position="relative_bias",
        max_distance=8,
    )
    if changes:
        config = AdapterConfig(**{**config.__dict__, **changes})
    adapter = EchoReelAdapter(config)
    if not fresh:
        for attention in adapter.attentions:
            torch.nn.init.normal_(attention.to_out.weight, std=0.5)
            torch.nn.init.normal_(attention.position_bias)
    adapter.save(path)
    return load_adapter(str(path))


def fresh_adapter(tiny, sites, position: str = "relative_bias", text_width: int = 16) -> EchoReelAdapter:
    """An adapter with a layer for every site of a tiny host, which adds nothing yet."""
    torch.manual_seed(0)
    config = AdapterConfig(
        host=tiny.family,
        prism=ActionPrismConfig(latent_channels=tiny.channels, text_width=text_width, **TINY_PRISM),
        sites=tuple(SiteConfig(site.name, site.dim, 2, 16) for site in sites),
        position=position,
        max_distance=8,
    )
    return EchoReelAdapter(config)


def adapter_for(path, tiny, sites, *, fresh: bool = False, position: str = "relative_bias"):
    """Saves and loads such an adapter, its layers random or still fresh."""
    adapter = fresh_adapter(tiny, sites, position)
    if not fresh:
        for attention in adapter.attentions:
            torch.nn.init.normal_(attention.to_out.weight, std=0.5)
            torch.nn.init.normal_(attention.to_out.bias, std=0.1)
            if position == "relative_bias":
                torch.nn.init.normal_(attention.position_bias)
    adapter.save(path)
    return load_adapter(str(path))


def random_action(echoreel, frames: int = 4, seed: int = 7, batch: int = 1) -> Action:
    """An action of random tokens that belongs to this adapter."""
    width = echoreel.config.prism.action_dim
    tokens = [noise(batch, frames, width, seed=seed + i) for i in (0, 1)]
    return Action.of(Reference(*tokens), echoreel.id, echoreel.config.host)
