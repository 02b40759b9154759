"""The model that a settings file names, loaded by the host as a library: training without a graph or a server."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter
from ...echoreel_core.training.config import Config, VideoSettings
from ...echoreel_core.training.data.cached_pairs import CachedPairs
from ...echoreel_core.training.lvdm.released import read_start
from ...echoreel_core.training.model_source import Result
from .encoders import NodeEncoders
from .experts import HostExperts, trainable_host
from .fitting import fitting_adapter, reference_framing
from .model_files import load_encoders, load_low_noise_model, load_model
from .trainable import TrainableHostModel


class HeadlessModel:
    """A `ModelSource` of the core: what is wired into the node, from a settings file."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device: torch.device = comfy.model_management.get_torch_device()

    @cached_property
    def _model(self) -> Any:
        return load_model(self.config.model)

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        return load_encoders(self.config.model)

    @cached_property
    def _start(self) -> tuple[AdapterConfig, dict[str, Tensor]] | None:
        start = self.config.adapter.start
        return None if start is None else read_start(start)

    @cached_property
    def host(self) -> TrainableHostModel | HostExperts:
        """See `ModelSource`."""
        settings = self.config.model
        return trainable_host(self._model, load_low_noise_model(settings), settings.boundary)

    def check(self) -> None:
        """See `ModelSource`."""
        _ = self.host, self._start

    @cached_property
    def encoders(self) -> NodeEncoders:
        """See `ModelSource`."""
        return NodeEncoders(self._model, *self._parts)

    @property
    def frames_per_latent(self) -> float:
        """See `ModelSource`."""
        return self.host.frames_per_latent

    @property
    def identity(self) -> str:
        """See `ModelSource`."""
        return self.encoders.identity

    @property
    def reference(self) -> VideoSettings:
        """See `ModelSource`: as [reference] says, else as in the node."""
        if self.config.reference is not None:
            return self.config.reference
        return reference_framing(self.config.video, self._parts[0], self._start and self._start[0])

    def adapter(self, pairs: CachedPairs) -> EchoReelAdapter:
        """See `ModelSource`."""
        sizes = self.config.adapter.prism_sizes()
        return fitting_adapter(self.host, pairs.batch([0], [0]), self.config.training.seed, self._start, **sizes)

    def run(self, pairs: CachedPairs, work: Callable[[], Result]) -> Result:
        """See `ModelSource`: amid a sampling run of the host."""
        return self.host.sampling_run(pairs.batch([0], [0]).target, work)

    def decode(self, latents: Tensor) -> Tensor:
        """See `ModelSource`."""
        frames = self.encoders.decode_video(latents)
        self.host.load()  # the VAE may have pushed it out of memory
        return frames
