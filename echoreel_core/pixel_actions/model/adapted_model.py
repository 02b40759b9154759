"""The base model with the adapter at its sites: one forward pass for training and for the world's own evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...action.adapter import EchoReelAdapter
from ...action.attention import ActionContext
from ...action.injection import added_layers
from ...lvdm.ddim import ddim_sample
from ...training.start import look_at_same_frame
from ..world.words import ids
from .base_model import LATENT_SIZE, BaseModel, adapter_config, plain_attention


def blended(tokens: Sequence[Tensor], frames: int) -> ActionContext:
    """The actions of tokens `[B, S, action_dim]` in equal parts, for so many latent frames."""
    context = ActionContext.plain(tokens[0], frames)
    if len(tokens) == 1:
        return context
    return ActionContext(
        tokens=torch.cat(tuple(tokens), 1),
        distance=context.distance.repeat(1, len(tokens)),
        groups=tuple(part.shape[1] for part in tokens),
        mix_weights=tokens[0].new_full((frames, len(tokens)), 1 / len(tokens)),
    )


def new_adapter(base: BaseModel) -> EchoReelAdapter:
    """A fresh adapter whose layers attend to the same frame of the reference from the first step on."""
    adapter = EchoReelAdapter(adapter_config(base.unet), attention=plain_attention)
    look_at_same_frame(adapter)
    return adapter


class AdaptedModel(nn.Module):
    """Base model and adapter as one module."""

    def __init__(self, base: BaseModel, adapter: EchoReelAdapter) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    def tokens(self, reference: Tensor, text: Tensor, reference_text: Tensor) -> Tensor:
        """Reference latents `[B, 4, S, 8, 8]`, prompt and caption `[B, 77, width]` → action tokens `[B, S, width]`."""
        return self.adapter.prism(reference, torch.cat([text, reference_text], 1))

    def with_tokens(self, x: Tensor, timesteps: Tensor, text: Tensor, *tokens: Tensor, strength: float = 1.0) -> Tensor:
        """The noise in `x`, the actions of the given tokens blended in equal parts and `strength` strong."""
        context = blended(tokens, x.shape[2])
        layers = [lambda hidden, layer=layer: strength * layer(hidden, context) for layer in self.adapter.attentions]
        with added_layers(self.base.unet.sites(), layers):
            return self.base.unet(x, timesteps, text)


@torch.inference_mode()
def generate(
    model: AdaptedModel,
    captions: list[str],
    noise: Tensor,
    *references: tuple[Tensor, list[str]],
    steps: int = 25,
    guidance: float = 2.0,
    strength: float = 1.0,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Sample latents `[batch, 4, frames, 8, 8]` from `noise` by DDIM.

    Args:
        captions: the prompts, one per clip.
        references: reference latents, as `noise`, and their captions; several are blended in equal parts, and without
            any it is the base model alone.
        strength: of the added layers.
        dtype: of the products; float32 is the faster one on a CPU without instructions for bfloat16.
    """
    base = model.base
    text = base.text(torch.cat([ids(captions), ids([""] * len(captions))]))
    tokens = [
        model.tokens(latents.repeat(2, 1, 1, 1, 1), text, base.text(ids(told)).repeat(2, 1, 1))
        for latents, told in references
    ]

    def predict(x: Tensor, timesteps: Tensor) -> Tensor:
        x, timesteps = x.repeat(2, 1, 1, 1, 1), timesteps.repeat(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            if tokens:
                both = model.with_tokens(x, timesteps, text, *tokens, strength=strength)
            else:
                both = base.unet(x, timesteps, text)
        positive, negative = both.float().chunk(2)
        return negative + guidance * (positive - negative)

    return ddim_sample(predict, noise, steps)


def noise_for(count: int, seed: int, frames: int = 16) -> Tensor:
    """Noise `[count, 4, frames, 8, 8]`; each clip's depends on its own seed alone."""
    shape = (4, frames, LATENT_SIZE, LATENT_SIZE)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)])
