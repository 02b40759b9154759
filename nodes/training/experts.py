"""One MODEL of the host, or two that are the experts of one, as the trainer sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...echoreel_core.action.adapter import AdapterConfig
from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.training.data.conditioning import Conditioning
from ...echoreel_core.training.experts import TrainableExperts
from ...echoreel_core.training.trainable import Attach
from .trainable import Result, TrainableHostModel


class HostExperts(TrainableExperts):
    """Two MODELs that take turns by noise level; used as a `TrainableHostModel` is.

    Args:
        boundary: see `TrainableExperts`; 0 is the family's own.

    Raises: EchoReelError where the two are not two of a kind, or the family has no boundary and none is given.
    """

    def __init__(self, high: TrainableHostModel, low: TrainableHostModel, boundary: float = 0.0) -> None:
        if high.kind != low.kind:
            raise EchoReelError(
                "The high-noise and the low-noise model are not two of a kind, one of them has other parts or inputs: "
                "use the two models that belong together."
            )
        boundary = boundary or high.expert_boundary
        if boundary is None:
            raise EchoReelError(
                "This kind of model is not known to come as two: leave low_noise_model empty, or set boundary, the "
                "noise level at which the second one takes over."
            )
        super().__init__(high, low, boundary)
        self._high, self._low = high, low
        self.frames_per_latent = high.frames_per_latent

    def default_adapter(self, **sizes: Any) -> AdapterConfig:
        """See `TrainableHostModel`."""
        return self._high.default_adapter(**sizes)

    def sampling_run(self, latents: Tensor, work: Callable[[], Result]) -> Result:
        """See `TrainableHostModel`: a run of the one within a run of the other."""
        return self._high.sampling_run(latents, lambda: self._low.sampling_run(latents, work))

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
        """See `TrainableHostModel`; the low-noise expert takes over at the boundary."""
        return self._high.sample(noise, positive, negative, steps=steps, guidance=guidance, attach=attach, at=self.at)


def trainable_host(model: Any, low_noise_model: Any = None, boundary: float = 0.0) -> TrainableHostModel | HostExperts:
    """A MODEL to train on, or two that are one's experts. Raises: EchoReelError as both classes."""
    high = TrainableHostModel(model)
    return high if low_noise_model is None else HostExperts(high, TrainableHostModel(low_noise_model), boundary)
