"""Where a run from a settings file has its frozen model from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..action.adapter import EchoReelAdapter
from .config import VideoSettings
from .data.cached_pairs import CachedPairs
from .trainable import Encoders, TrainableModel

Result = TypeVar("Result")


class ModelSource(Protocol):
    """A frozen model with its encoders, as the settings name them, each made when it is first asked for.

    Attributes:
        device: that it computes on.
        host: the model, as the trainer sees it, or both where the settings name two experts.
        encoders: its VAE and text encoder.
        identity: theirs; see `Encoders`.
        frames_per_latent: frames of a clip to one of its latents; the first latent holds one.
        reference: the framing of references, or None where they are framed as the clips are.
    """

    device: torch.device

    @property
    def host(self) -> TrainableModel: ...

    @property
    def encoders(self) -> Encoders: ...

    @property
    def identity(self) -> str: ...

    @property
    def frames_per_latent(self) -> float: ...

    @property
    def reference(self) -> VideoSettings | None: ...

    def check(self) -> None:
        """Raises: EchoReelError where the model cannot be trained or a file is missing, before any clip is encoded."""

    def adapter(self, pairs: CachedPairs) -> EchoReelAdapter:
        """What is trained: fresh, of sizes that fit the model and the pairs, or as [adapter] start says.

        Raises: EchoReelError where what to start from does not fit.
        """

    def run(self, pairs: CachedPairs, work: Callable[[], Result]) -> Result:
        """Calls `work` where `host` can be called."""

    def decode(self, latents: Tensor) -> Tensor:
        """As `Encoders.decode_video`, amid `work`."""
