"""Stand-ins for the VAE, CLIP and CLIP vision model of any tiny model."""

from __future__ import annotations

import math

import comfy.clip_vision
import torch
from conditioning import noise
from tiny_families import Tiny


class Words:
    """A CLIP: every text has tokens of its own, as many as it has letters unless `length` says otherwise.

    Args:
        more: text → what the conditioning holds beside the tokens.
    """

    def __init__(self, width, length=None, more=lambda text: {}):
        self.width, self.length, self.more = width, length, more
        self.cond_stage_model = torch.nn.Linear(1, 1)

    def tokenize(self, text):
        return text

    def tokens(self, text):
        return noise(1, self.length or len(text) + 1, self.width, seed=len(text))

    def encode_from_tokens(self, text):
        return self.tokens(text)

    def encode_from_tokens_scheduled(self, text):
        return [[self.tokens(text), {"pooled_output": None, **self.more(text)}]]


class Pixels:
    """A VAE whose latents are the frames' own brightness, a little different in each channel.

    Args:
        factor, frames: pixels to a latent, and video frames to a latent frame behind the first.
        images: whether it knows no time.
    """

    def __init__(self, channels=16, factor=8, frames=2, images=False):
        self.latent_channels, self.factor, self.frames = channels, factor, frames
        self.latent_dim = 2 if images else 3
        self.first_stage_model = torch.nn.Linear(1, 1)

    def spacial_compression_encode(self):
        return self.factor

    def encode(self, frames):
        small = torch.nn.functional.interpolate(frames.movedim(-1, 1), scale_factor=1 / self.factor, mode="area")
        small = small[:: 1 if self.latent_dim == 2 else self.frames].mean(1, keepdim=True)
        latents = small * torch.linspace(0.5, 1.5, self.latent_channels).view(1, -1, 1, 1)
        return latents if self.latent_dim == 2 else latents.movedim(0, 1)[None]

    def decode(self, latents):
        frames = latents if self.latent_dim == 2 else latents[0].movedim(0, 1)
        pixels = torch.nn.functional.interpolate(frames.mean(1, keepdim=True), scale_factor=self.factor)
        return pixels.clamp(0, 1).movedim(1, -1).expand(-1, -1, -1, 3)


class Sight:
    """A CLIP vision model."""

    def __init__(self, width=1280, tokens=257, embedding=64):
        self.width, self.length, self.embedding = width, tokens, embedding
        self.model = torch.nn.Linear(1, 1)

    def encode_image(self, image):
        seen = comfy.clip_vision.Output()
        seen.image_embeds = noise(1, self.embedding, seed=1)
        seen.last_hidden_state = noise(1, self.length, self.width, seed=2)
        seen.penultimate_hidden_states = noise(1, self.length, self.width, seed=3) * image.mean()
        return seen


def encoders_for(tiny: Tiny) -> tuple[Pixels, Words, Sight | None]:
    """What belongs to a tiny model: it is told what its case is told."""
    from echoreel_pack.nodes.families import family_named

    family, conds = family_named(tiny.family), tiny.conds

    def more(text: str) -> dict:
        told = {}
        if "y" in conds:
            told["pooled_output"] = noise(1, conds["y"].shape[-1], seed=len(text) + 1)
        if "attention_mask" in conds:
            told["attention_mask"] = torch.ones(1, length or len(text) + 1, dtype=torch.int64)
        if "num_tokens" in conds:
            told["attention_mask"][:, 1 + len(text) % length :] = 0
        if "txt_byt5" in conds:
            told["conditioning_byt5small"] = noise(1, 4, 1472, seed=len(text) + 2)
        return told

    length = conds["c_crossattn"].shape[1] if "num_tokens" in conds else None
    vae = Pixels(tiny.channels, tiny.factor, math.ceil(family.frames_per_latent), images=family.frames_in_batch)
    sight = None if tiny.vision is None else Sight(*tiny.vision)
    return vae, Words(tiny.text_width, length, more), sight
