"""A model family that nobody has: a small video transformer, as one of the host's models, and its entry."""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
from conditioning import noise
from echoreel_pack.echoreel_core.action.injection import Site
from echoreel_pack.echoreel_core.training.default_sizes import general_form
from echoreel_pack.nodes.families.base import (
    ModelFamily,
    class_named,
    format_named,
    patched_grid,
    sequence_from_frames,
    sequence_to_frames,
)
from tiny_families import Tiny
from tiny_models import randomise

DIM, TEXT, CHANNELS = 32, 24, 16


class MadeUpBlock(torch.nn.Module):
    """Attends to everything, the text among it, and ends in a feed-forward."""

    def __init__(self, operations, **where):
        super().__init__()
        self.norm1, self.norm2 = (operations.LayerNorm(DIM, **where) for _ in range(2))
        self.qkv, self.out = operations.Linear(DIM, 3 * DIM, **where), operations.Linear(DIM, DIM, **where)
        self.feed_forward = operations.Linear(DIM, DIM, **where)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v))
        return x + torch.nn.functional.silu(self.feed_forward(self.norm2(x)))


class MadeUpModel(torch.nn.Module):
    """A token per latent position, with the text's tokens before them."""

    def __init__(self, *, dtype, device, operations):
        super().__init__()
        where = {"dtype": dtype, "device": device}
        self.embed, self.read = operations.Linear(CHANNELS, DIM, **where), operations.Linear(TEXT, DIM, **where)
        self.head = operations.Linear(DIM, CHANNELS, **where)
        self.blocks = torch.nn.ModuleList(MadeUpBlock(operations, **where) for _ in range(2))
        self.dtype = dtype

    def forward(self, x, timesteps, context, **_more):
        video = self.embed(x.flatten(2).transpose(1, 2)) + timesteps.view(-1, 1, 1)
        hidden = torch.cat((self.read(context), video), dim=1)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden[:, -video.shape[1] :]).transpose(1, 2).view_as(x)


class MadeUpHostConfig(comfy.supported_models_base.BASE):
    """The host's description of it."""

    unet_extra_config: dict = {}
    latent_format = comfy.latent_formats.Wan21
    sampling_settings = {"shift": 1.0}


class MadeUp(comfy.model_base.BaseModel):
    """The host's model."""

    def __init__(self, config):
        super().__init__(config, comfy.model_base.ModelType.FLOW, unet_model=MadeUpModel)


class MadeUpUpscaler(MadeUp):
    """One that EchoReel can be applied to but not trained on."""


def patcher(cls=MadeUp):
    """Its MODEL."""
    config = MadeUpHostConfig({})
    config.set_inference_dtype(torch.float32, None)
    model = cls(config)
    randomise(model.diffusion_model)
    cpu = torch.device("cpu")
    found = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
    found.cached_patcher_init = (lambda disable_dynamic=False: patcher(cls), ())
    return found


def tiny(cls=MadeUp):
    """It with the inputs of one call."""
    conds = {"c_crossattn": noise(2, 5, TEXT, seed=1)}
    return Tiny("made_up", patcher(cls), noise(2, CHANNELS, 3, 4, 4), conds, channels=CHANNELS)


def _grid(_model, latents, kwargs):
    return patched_grid(latents, (1, 1, 1), first=kwargs["context"].shape[1] if "context" in kwargs else 0)


def _untrainable(base):
    return "A made-up upscaler moves nothing: train on MadeUp." if isinstance(base, MadeUpUpscaler) else None


MADE_UP = ModelFamily(
    name="made_up",
    title="Made-up Video",
    recognises=class_named("MadeUpModel"),
    sites=lambda model: [Site(f"blocks.{i}", block, block.norm2, DIM) for i, block in enumerate(model.blocks)],
    grid=_grid,
    to_frames=sequence_to_frames,
    from_frames=sequence_from_frames,
    latent_format=format_named("Wan21"),
    fps=12,
    frames_per_latent=4,
    untrainable=_untrainable,
    clip_conditioning=lambda _base, clip: {"frame_rate": clip.fps},
    default_adapter=lambda _model, fit: general_form(fit, width=16, depth=1, heads=2, head_dim=8),
)
