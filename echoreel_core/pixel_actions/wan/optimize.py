"""Muon and AdamW as in `..optimize`, for a device that should never wait: the matrices of a shape take their step
together, nothing is read back, and the learning rate is a tensor, so that a CUDA graph can hold the whole step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MOMENTUM, _DECAY = 0.95, 0.01


def orthogonalised(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix's U S Vᵀ, `[count, rows, columns]`, by five Newton-Schulz steps in bfloat16.

    Source of the coefficients: https://kellerjordan.github.io/posts/muon/
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if tall else x).to(matrices.dtype)


class Optimizer:
    """Both as one.

    Args:
        named: names and parameters. Matrices and convolutions, but for those whose names contain one of `plain`, go to
            Muon; the rest to AdamW.
        rate: the learning rate of the matrices. AdamW's is a third of it.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], rate: float, plain: tuple[str, ...]) -> None:
        named = list(named)
        device = named[0][1].device
        by_shape, rest = defaultdict(list), []
        for name, parameter in named:
            if parameter.dim() > 1 and not any(part in name for part in plain):
                by_shape[parameter.shape].append(parameter)
            else:
                rest.append(parameter)
        self.rate, self.factor = rate, torch.zeros((), device=device)
        self.parameters = [parameter for _, parameter in named]
        self._stacks = []
        for parameters in by_shape.values():
            stack = torch.stack([parameter.detach() for parameter in parameters])
            for parameter, place in zip(parameters, stack, strict=True):
                parameter.data = place  # a view: steps of the stack reach the model
            self._stacks.append((parameters, stack, torch.zeros_like(stack)))
        graphs = device.type == "cuda"
        self._adam_rate = torch.zeros((), device=device)
        self._adam = torch.optim.AdamW(
            rest, self._adam_rate, (0.9, 0.99), weight_decay=0.0, capturable=graphs, foreach=graphs
        )

    @torch.no_grad()
    def step(self, gradients: Iterable[Tensor]) -> None:
        """One step at `factor` of the learning rate, with the gradients of `parameters`."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self._adam_rate.copy_(self.factor * (self.rate / 3))
        self._adam.step()
        for parameters, stack, momentum in self._stacks:
            gradient = torch.stack([parameter.grad for parameter in parameters])
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            update = orthogonalised(gradient.lerp(momentum, _MOMENTUM).flatten(2)).view_as(stack)
            rows, columns = stack.flatten(2).shape[1:]
            rate = self.factor * self.rate
            stack.mul_(1 - rate * _DECAY)
            stack.sub_(update * (rate * 0.2 * max(rows, columns) ** 0.5))  # as large as AdamW's would be

    def state(self) -> dict[str, list]:
        """What `load` takes, beside the parameters: views of what the steps change."""
        return {"momentum": [momentum for _, _, momentum in self._stacks], "adam": self._adam.state_dict()["state"]}

    def load(self, state: dict[str, list]) -> None:
        """Goes on from a `state` of an optimizer of the same parameters."""
        for (_, _, momentum), kept in zip(self._stacks, state["momentum"], strict=True):
            momentum.copy_(kept)
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": state["adam"], "param_groups": groups})
        self._adam.param_groups[0]["lr"] = self._adam_rate  # the library takes a copy of it
