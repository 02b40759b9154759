"""The second base as a host for training, and with an adapter: what the trainer and the measures run."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...action.injection import Site
from ...training.data.conditioning import TOKENS, Conditioning
from ...training.trainable import Attach, NoiseLevel, Prediction, TrainableModel
from .model import WanModel
from .sampling import euler
from .train_base import SHIFT, shifted


class WanTrainable(TrainableModel):
    """Flow matching; u is spread over the noise levels with the base's own shift."""

    family = "wan"
    prediction: Prediction = "flow"

    def __init__(self, model: WanModel) -> None:
        self.model = model

    def sites(self) -> Sequence[Site]:
        """See `TrainableModel`."""
        return self.model.sites()

    def noise_level(self, u: Tensor) -> NoiseLevel:
        """See `TrainableModel`."""
        level = shifted(u, SHIFT)
        return NoiseLevel(1 - level, level, level * 1000)

    def predict(self, noisy: Tensor, time: Tensor, text: Tensor, told: Sequence[Conditioning] = ()) -> Tensor:
        """See `TrainableModel`."""
        dtype = self.model.head.modulation.dtype
        return self.model(noisy.to(dtype), time.to(noisy.device), text.to(dtype))

    def sample(
        self,
        noise: Tensor,
        positive: Conditioning,
        negative: Conditioning,
        *,
        steps: int,
        guidance: float,
        attach: Attach,
    ) -> Tensor:
        """See `TrainableModel`."""

        def half(role: str, told: Conditioning, x: Tensor, level: Tensor) -> Tensor:
            with attach(role):
                return self.predict(x, level * 1000, told[TOKENS][None]).float()

        def velocity(x: Tensor, level: Tensor) -> Tensor:
            without = half("negative", negative, x, level)
            return without + guidance * (half("positive", positive, x, level) - without)

        return euler(velocity, noise, steps)
