"""The optimizer of the embedded models: Muon for the matrices inside, AdamW for the rest.

Muon (https://kellerjordan.github.io/posts/muon/) gets the base model about as far in 160 steps as AdamW in 200, and
further ahead from there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn


class Optimizer:
    """Both as one.

    Args:
        named: names and parameters. Convolutions are flattened to matrices; what is only looked up in (embeddings,
            relative positions), and the first and last layer, whose names `plain` tells, are left to AdamW.
        rate: the learning rate of the matrices. AdamW's is a third of it.
        slow: beginnings of names, and the share of the rate at which what is called so learns.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        rate: float,
        plain: tuple[str, ...] = (),
        slow: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        named = list(named)
        apart = ("position_", "embedding", *plain)
        self.parameters = [p for _, p in named]
        self._flat = []
        muon, adam = defaultdict(list), defaultdict(list)  # by rate
        for name, p in named:
            own = rate * next((share for start, share in slow.items() if name.startswith(start)), 1.0)
            if p.dim() > 1 and not any(part in name for part in apart):
                flat = nn.Parameter(p.detach().flatten(1))  # a view: steps reach the model
                self._flat.append((p, flat))
                muon[own].append(flat)
            else:
                adam[own / 3].append(p)
        self._parts = [
            torch.optim.Muon(_groups(muon), rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(_groups(adam), betas=(0.9, 0.99), weight_decay=0.0),
        ]
        self._rates = [[group["lr"] for group in part.param_groups] for part in self._parts]

    def step(self, loss: Tensor, factor: float) -> float:
        """One step down `loss` at `factor` of the learning rate. Gives the gradient's norm."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for parameter, flat in self._flat:
            flat.grad = parameter.grad.flatten(1)
        for part, rates in zip(self._parts, self._rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            part.step()
        return norm.item()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for part, kept in zip(self._parts, state, strict=True):
            part.load_state_dict(kept)


def _groups(by_rate: Mapping[float, list[nn.Parameter]]) -> list[dict[str, Any]]:
    return [{"params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
