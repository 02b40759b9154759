"""Two frozen models in one run: experts for high and for low noise, with one adapter over both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from ..action.injection import AnySite
from ..errors import EchoReelError
from .data.conditioning import Conditioning
from .trainable import NoiseLevel, TrainableModel

COMPARED = 11
"""Noise levels at which two schedules are held against each other."""


class TrainableExperts(TrainableModel):
    """A model for high noise and one for low noise, which take turns by noise level, as Wan 2.2 14B's do.

    Every clip's noise level is drawn as for a single model, and goes to the expert in whose range it is: so each is
    trained with the share of the schedule that is its own (https://github.com/Wan-Video/Wan2.2, "boundary"). The one
    that is not called is unloaded.

    Args:
        boundary: the least noise (of `NoiseLevel`, from 0 to 1) of the high-noise expert.

    Raises: EchoReelError where the two are not two of a kind, or the boundary is none.
    """

    def __init__(self, high: TrainableModel, low: TrainableModel, boundary: float) -> None:
        if not 0 < boundary < 1:
            raise EchoReelError(
                f"boundary is {boundary:g}: use a noise level between 0 and 1, where the low-noise model takes over."
            )
        _check_alike(high, low)
        self._experts, self.boundary = (high, low), boundary
        self._loaded: TrainableModel | None = None
        self.model = nn.ModuleList([high.model, low.model])
        self.family, self.prediction, self.sigma_data = high.family, high.prediction, high.sigma_data
        self.micro_batch_limit = high.micro_batch_limit

    @property
    def experts(self) -> Sequence[TrainableModel]:
        """See `TrainableModel`."""
        return self._experts

    def expert_of(self, level: NoiseLevel) -> Tensor:
        """See `TrainableModel`: 0 for high noise, 1 for low noise."""
        return (level.noise < self.boundary).long()

    def at(self, level: NoiseLevel) -> TrainableModel:
        """See `TrainableModel`. Raises: ValueError where the levels belong to both."""
        (number,) = set(self.expert_of(level).tolist())
        expert = self._experts[number]
        if expert is not self._loaded:
            self._experts[1 - number].unload()
            expert.load()
            self._loaded = expert
        return expert

    def load(self) -> None:
        """See `TrainableModel`: the expert that was called last."""
        if self._loaded is not None:
            self._loaded.load()

    def unload(self) -> None:
        """See `TrainableModel`."""
        for expert in self._experts:
            expert.unload()
        self._loaded = None

    def sites(self) -> Sequence[AnySite]:
        """See `TrainableModel`: the high-noise expert's; the other has the same."""
        return self._experts[0].sites()

    def noise_level(self, u: Tensor) -> NoiseLevel:
        """See `TrainableModel`."""
        return self._experts[0].noise_level(u)

    def predict(self, noisy: Tensor, time: Tensor, text: Tensor, conditioning: Sequence[Conditioning]) -> Tensor:
        """Not called: `at` gives the expert to call."""
        raise NotImplementedError

    def token_frames(self, latent_frames: int) -> int:
        """See `TrainableModel`."""
        return self._experts[0].token_frames(latent_frames)

    def gradient_context(self) -> AbstractContextManager[object]:
        """See `TrainableModel`."""
        return self._experts[0].gradient_context()

    def checkpointed_modules(self) -> list[nn.Module]:
        """See `TrainableModel`."""
        return [module for expert in self._experts for module in expert.checkpointed_modules()]


def _check_alike(high: TrainableModel, low: TrainableModel) -> None:
    """Raises: EchoReelError where one adapter cannot be over both."""
    u = torch.linspace(0, 1, COMPARED, dtype=torch.float64)
    for what, of in {
        "family": lambda model: model.family,
        "prediction": lambda model: (model.prediction, model.sigma_data),
        "blocks": lambda model: [(site.name, site.dim) for site in model.sites()],
        "noise schedule (shift)": lambda model: model.noise_level(u).noise.tolist(),
    }.items():
        if of(high) != of(low):
            raise EchoReelError(
                f"The high-noise and the low-noise model are not two of a kind, they differ in their {what}: use the "
                "two models that belong together, patched alike."
            )
