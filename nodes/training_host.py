"""Whatever MODEL, VAE and CLIP are wired in, as the trainer sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor

from ..echoreel_core.adapter import content_id
from ..echoreel_core.injection import AnySite
from ..echoreel_core.training.host import NoiseLevel, Prediction, TrainingHost
from ..echoreel_core.training.source import fit_text
from .action_prism_encode import encode_frames
from .hosts import find_host
from .hosts.base import TokenGrid


class ModelTrainingHost(TrainingHost):
    """A text-to-video MODEL of the host.

    Args:
        model: a MODEL patcher of its own (a deep copy), loaded outside inference mode.

    Raises: ValueError where EchoReel does not know the model, it needs an image beside the prompt, or it predicts
        something the trainer does not know.
    """

    def __init__(self, model: Any) -> None:
        self._base = model.model
        self.model = self._base.diffusion_model
        self._host = find_host(self.model)
        self.family = self._host.family
        sampling = self._base.model_sampling
        kinds = {
            comfy.model_sampling.CONST: "flow",
            comfy.model_sampling.V_PREDICTION: "velocity",  # a subclass of EPS, so before it
            comfy.model_sampling.EPS: "noise",
        }
        found = [name for kind, name in kinds.items() if isinstance(sampling, kind)]
        if not found:
            raise ValueError(
                f"EchoReel can not train on a model that predicts as {type(sampling).__mro__[2].__name__}."
            )
        self.prediction: Prediction = found[0]
        self._grid: TokenGrid | None = None
        if self._base.concat_keys or getattr(self._base, "image_to_video", False):
            raise ValueError("Train EchoReel takes text-to-video models; the one connected needs an image as well.")

    def sites(self) -> Sequence[AnySite]:
        """See `TrainingHost`."""
        return self._host.sites(self.model)

    def noise_level(self, u: Tensor) -> NoiseLevel:
        """The host's own sigma at u of its schedule."""
        sampling = self._base.model_sampling
        if self.prediction == "flow":
            sigma = sampling.sigma(u.float() * sampling.multiplier)
            return NoiseLevel(1 - sigma, sigma, sampling.timestep(sigma))
        sigma = sampling.sigma(u.float() * (sampling.num_timesteps - 1))
        signal = (1 + sigma**2).rsqrt()
        return NoiseLevel(signal, sigma * signal, sampling.timestep(sigma))

    def predict(self, noisy: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """See `TrainingHost`."""
        clips, _, frames, _, _ = noisy.shape
        dtype = self._base.get_dtype_inference()
        latents, time, text = noisy.to(dtype), time.float(), text.to(dtype)
        if self._host.frames_in_batch:
            latents = latents.transpose(1, 2).flatten(0, 1)
            time, text = (part.repeat_interleave(frames, dim=0) for part in (time, text))
        options = {"cond_or_uncond": [0] * clips}
        self._grid = self._host.grid(self.model, latents, {"transformer_options": options})
        out = self.model(latents, time, context=text, transformer_options=options)
        return out.unflatten(0, (clips, frames)).transpose(1, 2) if self._host.frames_in_batch else out

    def tokens(self, hidden: Tensor, batch: int, frames: int) -> Tensor | None:
        """See `TrainingHost`."""
        return self._host.to_frames(hidden, self._grid)

    def hidden(self, tokens: Tensor, like: Tensor) -> Tensor:
        """See `TrainingHost`."""
        return self._host.from_frames(tokens, like, self._grid)

    def recomputed(self) -> Sequence[torch.nn.Module]:
        """See `TrainingHost`. What changes its own input can not be run on it again."""
        return [] if self._host.changes_in_place else [site.block for site in self.sites()]

    @contextmanager
    def passes(self) -> Iterator[None]:
        """The host's models are written for sampling: some change hidden states in place, some kernels know no
        gradient unless the host is told that it trains."""
        management = comfy.model_management
        before = getattr(management, "in_training", False)
        management.in_training = True
        try:
            # torch's own allow_mutation_on_saved_tensors() mixes tensors up whose memory is reused: wrong gradients
            with torch.autograd.graph.saved_tensors_hooks(_kept, lambda saved: saved):
                yield
        finally:
            management.in_training = before


def _kept(saved: Tensor) -> Tensor:
    """What autograd keeps of a tensor: a copy, as it may change in place; of weights, which do not, themselves."""
    owner = saved if saved._base is None else saved._base
    return saved if isinstance(owner, torch.nn.Parameter) else saved.clone()


class NodeEncoders:
    """The VAE and CLIP that are wired in; what the cache needs of `training.host.Encoders`."""

    def __init__(self, vae: Any, clip: Any, latent_format: Any) -> None:
        self._vae, self._clip, self._latent_format = vae, clip, latent_format
        self.identity = "-".join(
            content_id(module.state_dict()) for module in (vae.first_stage_model, clip.cond_stage_model)
        )

    def encode_video(self, frames: Tensor) -> Tensor:
        """See `Encoders`."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self._latent_format.process_in(encode_frames(self._vae, frames))[0].float().cpu()

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See `Encoders`."""
        tokens = [self._clip.encode_from_tokens(self._clip.tokenize(text))[0].float().cpu() for text in texts]
        return torch.stack([fit_text(text, max(map(len, tokens))) for text in tokens])
