"""Whatever VAE, CLIP and CLIP vision model are wired in, as the cache sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import comfy.model_management
from torch import Tensor

from ...echoreel_core.action.compiled import uncompiled
from ...echoreel_core.training.data.conditioning import TOKENS, Conditioning, map_tensors
from ..action_prism_encode import encode_frames
from ..families import find_family
from ..families.clip_conditioning import Clip
from .image_conditioning import image_conditioning
from .weights_id import weights_id


def model_kind(base: Any) -> tuple[str, str]:
    """What the host's model is: its class, and its layout without the precision, as text."""
    layout = {name: value for name, value in base.model_config.unet_config.items() if name != "dtype"}
    return type(base).__name__, repr(sorted(layout.items()))


class NodeEncoders:
    """The VAE, CLIP and CLIP vision model (or None) that are wired in; implements `training.trainable.Encoders`.

    Args:
        model: the MODEL, which decides what it is given of a clip.
    """

    def __init__(self, model: Any, vae: Any, clip: Any, vision: Any = None) -> None:
        self._base, self._vae, self._clip, self._vision = model.model, vae, clip, vision
        self._family = find_family(uncompiled(model.get_model_object("diffusion_model")))
        self._latent_format = model.get_model_object("latent_format")
        name, layout = model_kind(self._base)
        kind = hashlib.blake2b(layout.encode(), digest_size=6).hexdigest()
        parts = [(vae, vae.first_stage_model), (clip, clip.cond_stage_model)]
        parts += [] if vision is None else [(vision, vision.model)]
        self.identity = "-".join([name, kind, *(weights_id(*part) for part in parts)])

    def encode_video(self, frames: Tensor) -> Tensor:
        """See `Encoders`."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self._latent_format.process_in(encode_frames(self._vae, frames))[0].float().cpu()

    def decode_video(self, latents: Tensor) -> Tensor:
        """See `Encoders`."""
        latents = self._latent_format.process_out(latents[None])
        if self._vae.latent_dim == 2:
            latents = latents[0].transpose(0, 1)
        frames = self._vae.decode(latents)
        return (frames[0] if frames.dim() == 5 else frames).float().cpu()

    def encode_text(self, texts: Sequence[str]) -> list[Conditioning]:
        """See `Encoders`."""
        return [self._told(text) for text in texts]

    def _told(self, text: str) -> Conditioning:
        comfy.model_management.throw_exception_if_processing_interrupted()
        tokens, conditioning = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(text))[0]
        conditioning = {**{name: value for name, value in conditioning.items() if name != "hooks"}, TOKENS: tokens[0]}
        return map_tensors(conditioning, lambda value: (value.float() if value.is_floating_point() else value).cpu())

    def image_conditioning(self, frames: Tensor, fps: float) -> Conditioning:
        """See `Encoders`."""
        return image_conditioning(self._family, self._base, Clip(frames, fps, self._vae, self._vision))
