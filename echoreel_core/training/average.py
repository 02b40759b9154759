"""The exponential moving average of the weights: less noisy than any of the steps it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AverageOfWeights:
    """Follows a module's parameters: average ← decay · average + (1 - decay) · weights.

    The decay is smaller in the first steps, min(decay, (1 + steps) / (10 + steps)), so that the start is soon forgotten
    (as TensorFlow's ExponentialMovingAverage has it).

    Args:
        decay: 0 keeps no average: the weights themselves stand for it.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._module = module
        self._average = {name: p.detach().clone() for name, p in module.named_parameters()} if decay else {}

    @torch.no_grad()
    def follow(self, steps: int) -> None:
        """Call after each step; `steps` were done before it."""
        if self._average:
            decay = min(self.decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_([*self._average.values()], [*self._module.parameters()], 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """The module's state with the averages in it."""
        return {**self._module.state_dict(), **self._average}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Goes on from these averages."""
        for name, average in self._average.items():
            average.copy_(weights[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the `with`, the module has the averages for its weights, at the same addresses."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        parameters = dict(self._module.named_parameters())
        for name, average in self._average.items():
            kept = average.clone()
            average.copy_(parameters[name])
            parameters[name].copy_(kept)
