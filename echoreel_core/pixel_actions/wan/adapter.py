"""The second base with an adapter of the general form: its sizes, and clips that follow a reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ...action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig, read_adapter
from ...action.attention import ActionContext, Position
from ...action.injection import added_layers
from ...action.prism import ActionPrismConfig
from ...lvdm.text_encoder import CLIPTextEncoder
from ..world.words import ids
from .latents import SHAPE
from .model import WanModel
from .sampling import euler
from .train_base import SHIFT


def adapter_config(model: WanModel, cells: int = 1, position: Position = "relative_bias") -> AdapterConfig:
    """An adapter with a layer at every block.

    Args:
        cells: prism tokens per side of a frame; 1 sees the frame as a whole.
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
        out_channels=256 // cells**2,
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
def attached(model: WanModel, adapter: EchoReelAdapter, tokens: Tensor, strength: float = 1.0) -> Iterator[None]:
    """Inside the `with`, the model runs with the action of these tokens `[B, S, action_dim]`."""
    context = ActionContext.plain(tokens, SHAPE[1])

    def layer(attention):
        def added(hidden: Tensor) -> Tensor:
            frames = hidden.unflatten(1, (SHAPE[1], -1))
            return strength * attention(frames, context).flatten(1, 2)

        return added

    with added_layers(model.sites(), [layer(attention) for attention in adapter.attentions]):
        yield


@torch.inference_mode()
def generate(
    model: WanModel,
    adapter: EchoReelAdapter,
    text: CLIPTextEncoder,
    captions: list[str],
    noise: Tensor,
    reference: tuple[Tensor, list[str]],
    steps: int = 25,
    guidance: float = 2.0,
    shift: float = SHIFT,
    strength: float = 1.0,
) -> Tensor:
    """Latents `[batch, 16, 9, 8, 8]` of these prompts that do what the reference does: its latents and captions."""
    device = noise.device
    latents, told = reference
    prompt = text(ids(captions + [""] * len(captions)).to(device))
    caption = text(ids(told).to(device)).repeat(2, 1, 1)
    tokens = adapter.prism(latents.float().repeat(2, 1, 1, 1, 1), torch.cat([prompt, caption], 1))

    def velocity(x: Tensor, level: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            both = model(x.repeat(2, 1, 1, 1, 1), level.repeat(2) * 1000, prompt)
        positive, negative = both.float().chunk(2)
        return negative + guidance * (positive - negative)

    with attached(model, adapter, tokens, strength):
        return euler(velocity, noise, steps, shift)
