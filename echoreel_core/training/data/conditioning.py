"""The conditioning of one sample: its text tokens, and everything else that ComfyUI's conditioning contains."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import EchoReelError

TOKENS = "cross_attn"
"""The entry that holds the text tokens [L, W]."""

Conditioning = Mapping[str, Any]
"""Values by name: tensors, numbers, words, None, and lists and dicts of them. `TOKENS` is always there."""


def as_conditioning(text: Tensor | Conditioning) -> Conditioning:
    """Text tokens alone as a conditioning; a conditioning is returned unchanged."""
    return {TOKENS: text} if isinstance(text, Tensor) else text


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(item, change) for name, item in value.items()}
    return [map_tensors(item, change) for item in value] if isinstance(value, (list, tuple)) else value


def batch_key(value: Any) -> Hashable:
    """Equal for values that may lie in one batch: numbers the same, tensors of the same shape, masks the same."""
    if isinstance(value, Tensor):
        counts = () if value.is_floating_point() else tuple(value.flatten().tolist())
        return tuple(value.shape), counts
    if isinstance(value, Mapping):
        return tuple((name, batch_key(value[name])) for name in sorted(value))
    return tuple(map(batch_key, value)) if isinstance(value, (list, tuple)) else value


def pack(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """The value as JSON, its tensors put into `tensors` under names that say where they belong.

    Raises: EchoReelError naming a value that cannot be kept in a file.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    inner = f"{name}." if name else ""
    if isinstance(value, Mapping):
        return {"dict": {key: pack(item, tensors, f"{inner}{key}") for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [pack(item, tensors, f"{inner}{place}") for place, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise EchoReelError(f"The conditioning holds {name}, a {type(value).__name__}, which the cache cannot store.")


def unpack(layout: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The way back. Raises: KeyError if a tensor is missing."""
    ((kind, value),) = layout.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in value.items()}
    return [unpack(item, tensors) for item in value] if kind == "list" else value


def for_autograd(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device, as one that autograd may keep: what was made in inference mode is copied."""
    tensor = tensor.to(device, non_blocking=True)
    return tensor.clone() if tensor.is_inference() else tensor
