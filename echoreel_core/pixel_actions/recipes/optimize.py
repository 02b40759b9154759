"""One step of the recipes' own loops, with the trainer's optimizer."""

from __future__ import annotations

import torch
from torch import Tensor

from ...training.optimizer import Optimizer


def descend(optimizer: Optimizer, loss: Tensor, factor: float) -> float:
    """One step down `loss` at `factor` of the learning rate, the gradient clipped to 1. Gives the gradient's norm."""
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(optimizer.parameters, 1.0)
    optimizer.share_gradients()
    optimizer.set_rates(factor)
    optimizer.step()
    return norm.item()
