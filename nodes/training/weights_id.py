"""Names for what a VAE, CLIP or CLIP vision model computes with."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.adapter import exact_id


def weights_id(owner: Any, module: torch.nn.Module) -> str:
    """Names what a VAE, CLIP or CLIP vision model computes with: its weights, the patches on them, the layer it takes.

    The weights are those before patching, also while a patched clone of the same module is loaded.
    """
    weights = dict(module.state_dict())
    patcher = getattr(owner, "patcher", None)
    if patcher is not None:
        weights |= {key: kept.weight for key, kept in patcher.backup.items() if key in weights}
    changes = {key: patches for key, patches in getattr(patcher, "patches", {}).items() if patches}
    layer = getattr(owner, "layer_idx", None)
    named = exact_id(weights)
    if changes or layer is not None:
        named += hashlib.blake2b(repr((_named(changes), layer)).encode(), digest_size=6).hexdigest()
    return named


def _named(patch: Any) -> Any:
    """A patch with its tensors named by their content and its other objects by their class."""
    if isinstance(patch, Tensor):
        return exact_id({"": patch})
    if isinstance(patch, dict):
        return [(str(key), _named(value)) for key, value in sorted(patch.items(), key=lambda item: str(item[0]))]
    if isinstance(patch, (list, tuple)):
        return [_named(part) for part in patch]
    if patch is None or isinstance(patch, (bool, int, float, str)):
        return patch
    return type(patch).__name__, _named(getattr(patch, "weights", None))
