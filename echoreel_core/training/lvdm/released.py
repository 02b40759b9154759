"""The parts of an all-in-one checkpoint that training takes: frozen UNet, VAE, text encoder, and a fresh adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...action.adapter import AdapterConfig, EchoReelAdapter, exact_id, read_adapter
from ...errors import EchoReelError
from ...lvdm.autoencoder import AutoencoderConfig, load_autoencoder
from ...lvdm.checkpoint import ReleasedCheckpoint, build, load_released
from ...lvdm.text_encoder import CLIPTextEncoder, TextConfig
from ...lvdm.tokenizer import find_vocabulary, load_tokenizer
from ...lvdm.unet import LVDMUNet
from ..config import Config, VideoSettings
from ..data.cached_pairs import CachedPairs
from ..default_sizes import AdapterInputs, released_form
from ..loss import seed_of
from ..model_source import Result
from ..objective import AUTOCAST
from ..trainable import Encoders
from .trainable import LVDMEncoders, TrainableLVDM

TEXT_WRAPPER = "transformer."


@dataclass
class ReleasedModel:
    """An all-in-one checkpoint of the LVDM family, each part made when it is first asked for; a `ModelSource`."""

    config: Config
    device: torch.device

    @cached_property
    def parts(self) -> ReleasedCheckpoint:
        """The checkpoint, memory-mapped. Raises: EchoReelError if it is missing or another model's."""
        path = self.config.model.checkpoint.path
        if not path.is_file():
            raise EchoReelError(f"There is no checkpoint {path}: check the path.")
        return load_released(path)

    @cached_property
    def host(self) -> TrainableLVDM:
        """The UNet, in the precision of training."""
        with torch.device("meta"):
            unet = LVDMUNet(self.parts.unet_config)
        dtype = AUTOCAST.get(self.config.training.mixed_precision, torch.float32)
        return TrainableLVDM(build(unet, self.parts.unet).to(self.device, dtype))

    @cached_property
    def encoders(self) -> Encoders:
        """VAE and text encoder, float32. Raises: EchoReelError if the checkpoint or the tokenizer lacks one."""
        name, parts = self.config.model.name, self.parts
        if not parts.vae or not parts.text:
            raise EchoReelError(
                f"{name} has no {'text encoder' if parts.vae else 'VAE'} in it: use an all-in-one checkpoint."
            )
        weights = {key.removeprefix(TEXT_WRAPPER): weight for key, weight in parts.text.items()}
        with torch.device("meta"):
            text = CLIPTextEncoder(TextConfig.from_state_dict(weights))
        text = build(text, weights).to(self.device, torch.float32)
        vae = load_autoencoder(parts.vae).requires_grad_(False).to(self.device, torch.float32)
        return LVDMEncoders(vae, text, self._tokenize, self.identity)

    @cached_property
    def _tokenize(self) -> Callable[[Sequence[str]], Tensor]:
        return load_tokenizer(find_vocabulary(self.config.model.tokenizer))

    @property
    def identity(self) -> str:
        """Names VAE and text encoder by their content."""
        return f"{exact_id(self.parts.vae)}-{exact_id(self.parts.text)}"

    frames_per_latent = 1

    def check(self) -> None:
        """See `ModelSource`."""
        _ = self.parts

    @property
    def reference(self) -> VideoSettings | None:
        """See `ModelSource`."""
        return self.config.reference

    def decode(self, latents: Tensor) -> Tensor:
        """See `ModelSource`."""
        return self.encoders.decode_video(latents)

    def run(self, pairs: CachedPairs, work: Callable[[], Result]) -> Result:
        """See `ModelSource`."""
        return work()

    def adapter(self, pairs: CachedPairs | None = None) -> EchoReelAdapter:
        """See `ModelSource`; the checkpoint itself tells all the sizes.

        Raises: EchoReelError if what to start from, or the size of the reference, does not fit.
        """
        settings = self.config.adapter
        wanted = self._adapter_config()
        if settings.start is None:
            with torch.random.fork_rng():
                torch.manual_seed(seed_of(self.config.training.seed, "adapter"))
                return EchoReelAdapter(wanted)
        config, weights = read_start(settings.start)
        sizes = [(site.name, site.dim) for site in config.sites]
        if sizes != [(site.name, site.dim) for site in wanted.sites]:
            raise EchoReelError(
                f"{settings.start.name} is an adapter for a different model from this checkpoint: use one that was "
                "trained for it."
            )
        if config.prism.latent_size != wanted.prism.latent_size:
            height, width = (side * self._factor for side in config.prism.latent_size)
            raise EchoReelError(
                f"{settings.start.name} takes references of {width} x {height} pixels: set this size as width and "
                "height in [reference] (or [video])."
            )
        adapter = EchoReelAdapter(config)
        adapter.load_state_dict(weights)
        return adapter

    @property
    def _factor(self) -> int:
        return AutoencoderConfig.from_state_dict(self.parts.vae).factor

    def _adapter_config(self) -> AdapterConfig:
        """The default for this model and the reference's size, with what [adapter] has otherwise."""
        framing, factor = self.config.reference or self.config.video, self._factor
        unet = self.parts.unet_config
        with torch.device("meta"):
            sites = [(site.name, site.dim) for site in LVDMUNet(unet).sites()]
        inputs = AdapterInputs(
            host=TrainableLVDM.family,
            sites=sites,
            latent_channels=unet.in_channels,
            latent_size=(framing.height // factor, framing.width // factor),
            latent_frames=framing.frames,
            text_width=unet.context_dim,
        )
        return released_form(inputs, block_heads=unet.heads, **self.config.adapter.prism_sizes())


def read_start(path: Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Config and weights of an adapter file, or of the EchoReel parts of an all-in-one checkpoint.

    Raises: EchoReelError if the file is missing or holds neither.
    """
    if not path.is_file():
        raise EchoReelError(f"There is no adapter {path} to start from: check the path.")
    try:
        return read_adapter(path)
    except ValueError as not_an_adapter:
        try:
            parts = load_released(path)
        except ValueError:
            raise not_an_adapter from None
    if parts.adapter_config is None:
        raise EchoReelError(f"{path.name} has no EchoReel layers to start from: choose another file.")
    return parts.adapter_config, parts.adapter
