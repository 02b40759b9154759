"""What a continued run needs beside the adapter, and taking it up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..action.adapter import check_weights
from ..errors import EchoReelError
from .trainer import READER, Trainer

WEIGHTS = "weights."
"""Before the names of the weights as the last step left them; the adapter's file has their average."""
READER_WEIGHTS = "reader_weights."
"""Before those of the reader, where the motion loss has one."""


def state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors by name and, where an average is kept, the weights; and JSON-ready values."""
    tensors = trainer.optimizer.state()
    if trainer.average.decay:
        tensors |= {WEIGHTS + name: weight for name, weight in trainer.adapter.state_dict().items()}
    if trainer.reader is not None:
        tensors |= {READER_WEIGHTS + name: weight for name, weight in trainer.reader.state_dict().items()}
    values = {"step": trainer.step, "prism_started": trainer.prism_started, "scaler": trainer.scaler.state_dict()}
    return tensors, values


@torch.inference_mode(False)
def load_state(
    trainer: Trainer, adapter: Mapping[str, Tensor], tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Takes up what `state` gave, and the adapter's weights, which are their average where one was kept.

    Everything is looked at before anything is changed. A run may go on with another optimizer or another precision,
    which then begin afresh; so does the reader of a run that had none.

    Raises: EchoReelError if the state belongs to another adapter or is damaged.
    """
    weights, reader = _under(WEIGHTS, tensors), _under(READER_WEIGHTS, tensors)
    left_out = (WEIGHTS, READER_WEIGHTS) if trainer.reader else (WEIGHTS, READER_WEIGHTS, READER)
    try:
        expected = {name: tensor.shape for name, tensor in trainer.adapter.state_dict().items()}
        for part in (adapter, weights or adapter):
            _check(part, expected)
        if trainer.reader and reader:
            _check(reader, {name: tensor.shape for name, tensor in trainer.reader.state_dict().items()})
        kept = trainer.optimizer.checked({k: v for k, v in tensors.items() if not k.startswith(left_out)})
        step, scaler = values["step"], values["scaler"]
        if type(step) is not int or step < 0:
            raise EchoReelError(f"its step is {step!r}")
        if not isinstance(scaler, Mapping) or scaler and not {"scale", "_growth_tracker"} <= scaler.keys():
            raise EchoReelError(f"its scale of gradients is {str(scaler)[:60]}")
    except (EchoReelError, KeyError, TypeError) as error:
        raise EchoReelError(
            f"This training state belongs to another adapter, or it is damaged: {str(error)[:200].rstrip('.')}."
        ) from None
    trainer.adapter.load_state_dict(weights or adapter)
    trainer.average.load(adapter)
    if trainer.reader and reader:
        trainer.reader.load_state_dict(reader)
    trainer.optimizer.load(kept)
    if scaler and trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(dict(scaler))
    trainer.step, trainer.prism_started = step, bool(values.get("prism_started"))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _check(weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    check_weights("the state", weights, expected)
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise EchoReelError(f"{name} is not a number")
