"""One guided step as FlowMotion publishes it (arXiv 2603.06289), for flow matching: x = (1 − σ) · clean + σ · noise.

It moves x before the step, with a call of the model for each of a few Adam steps. The pack's own guidance moves it
after the step and needs no further call; this one is what ours is compared with.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .gradient import MotionLoss

Velocity = Callable[[Tensor], Tensor]
"""x [B, C, T, H, W] at the step's noise level → the predicted velocity, noise − clean."""


def refined(
    x: Tensor,
    sigma: float,
    velocity: Velocity,
    reference: Tensor,
    loss: MotionLoss,
    steps: int = 3,
    rate: float = 0.003,
) -> Tensor:
    """x after a few steps of Adam on the loss of its clean latents x − σ · velocity(x), the velocity held constant.

    Args:
        reference: what the reference's clean latents are predicted to be at this noise level, or are.
    """
    x = x.clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, steps + 1):
        gradient = loss.gradient(x - sigma * velocity(x), reference) / x.numel()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        x = x - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return x


def regulated(velocity: Tensor, mean: Tensor, across: float = 0.1) -> Tensor:
    """A velocity with less of what goes across the mean velocity so far, per sample and channel.

    Args:
        velocity, mean: [B, C, T, H, W]; the mean so far is (x − start noise) / (σ − 1).
        across: the share of the part at right angles to the mean that is kept.
    """
    length = mean.square().sum((2, 3, 4), keepdim=True)
    along = (velocity * mean).sum((2, 3, 4), keepdim=True) / length * mean
    return along + across * (velocity - along)


def guided_step(
    x: Tensor, sigma: float, next_sigma: float, noise: Tensor, velocity: Velocity, reference: Tensor, loss: MotionLoss
) -> Tensor:
    """x at the next noise level: moved, then one Euler step with the regulated velocity.

    Args:
        noise: the start of the run, which is x where `sigma` is 1; there is no mean velocity yet.
    """
    x = refined(x, sigma, velocity, reference, loss)
    ahead = velocity(x)
    if sigma < 1:
        ahead = regulated(ahead, (x - noise) / (sigma - 1))
    return x + (next_sigma - sigma) * ahead
