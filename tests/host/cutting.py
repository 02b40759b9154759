"""Other packs that hand on the batch of a call in parts of their own: ways for `set_model_unet_function_wrapper`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def cut(model: Any, way: Callable) -> Any:
    """The MODEL with such a pack's node behind it."""
    model = model.clone()
    model.set_model_unet_function_wrapper(way)
    return model


def _rows(value: Any, rows: slice | torch.Tensor) -> Any:
    return value[rows] if torch.is_tensor(value) else value


def _halves(args: dict) -> list[tuple]:
    """(latents, timestep, conditioning) of each half of the batch."""
    x, t, c = args["input"], args["timestep"], args["c"]
    rows = len(x) // len(args["cond_or_uncond"])
    cuts = [slice(i, i + rows) for i in range(0, len(x), rows)]
    return [(x[cut], t[cut], {key: _rows(value, cut) for key, value in c.items()}) for cut in cuts]


def one_by_one(apply_model: Callable, args: dict) -> torch.Tensor:
    """Each half on its own, its `cond_or_uncond` as it was."""
    return torch.cat([apply_model(x, t, **c) for x, t, c in _halves(args)])


def shortened(apply_model: Callable, args: dict) -> torch.Tensor:
    """Each half on its own, its `cond_or_uncond` without `uuids` that fit."""
    out = []
    for which, (x, t, c) in zip(args["cond_or_uncond"], _halves(args), strict=True):
        c["transformer_options"] = {**c["transformer_options"], "cond_or_uncond": [which]}
        out.append(apply_model(x, t, **c))
    return torch.cat(out)


def reordered(apply_model: Callable, args: dict) -> torch.Tensor:
    """All halves in the other order."""
    x, t, c = args["input"], args["timestep"], args["c"]
    flipped = torch.arange(len(x)).view(len(args["cond_or_uncond"]), -1).flip(0).flatten()
    turned = {key: _rows(value, flipped) for key, value in c.items()}
    options = c["transformer_options"]
    lists = {key: options[key][::-1] for key in ("cond_or_uncond", "uuids")}
    turned["transformer_options"] = {**options, **lists}
    return apply_model(x[flipped], t[flipped], **turned)[flipped]


def tiles_apart(apply_model: Callable, args: dict) -> torch.Tensor:
    """The picture in a left and a right half."""
    x, t, c = args["input"], args["timestep"], args["c"]
    return torch.cat([apply_model(tile.contiguous(), t, **c) for tile in x.chunk(2, -1)], -1)


def tiles_at_once(apply_model: Callable, args: dict) -> torch.Tensor:
    """The same with both in one call."""
    x, t, c = args["input"], args["timestep"], args["c"]
    twice = {key: torch.cat([value] * 2) if torch.is_tensor(value) else value for key, value in c.items()}
    out = apply_model(torch.cat(x.chunk(2, -1)), torch.cat([t] * 2), **twice)
    return torch.cat(out.chunk(2), -1)
