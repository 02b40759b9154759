"""Gradient checkpointing: less memory for activations, more time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint


@contextmanager
def gradient_checkpointed(modules: Sequence[nn.Module], offload: bool = False) -> Iterator[None]:
    """Inside the `with`, these modules keep no activations: they run again in the backward pass (same `with`).

    Args:
        offload: whether even their inputs, from which they run again, wait in the computer's memory.
    """
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = partial(_checkpointed, module.forward, offload)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _checkpointed(forward: Callable, offload: bool, *args: Any, **kwargs: Any) -> Any:
    # the hooks see the inputs alone: what is made inside is not kept in the first place
    with save_on_cpu(pin_memory=torch.cuda.is_available()) if offload else nullcontext():
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
