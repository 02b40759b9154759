"""A tiny model with what one call of it takes, and how the host builds it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from conditioning import noise
from tiny_models import randomise, write

CPU = torch.device("cpu")
Builder = Callable[[], "Tiny"]


@dataclass
class Tiny:
    """A model with the inputs of one call, for both halves of the guidance unless it takes one sample only.

    Attributes:
        x: noisy latents, as the sampler holds them.
        conds: the other inputs of the model.
        channels: of the latents that the prism is to take.
        frames: of the clip, in tokens. leading, trailing: latent frames before and after it that are not the clip's.
        options: further transformer_options.
        factor: pixels of its VAE to a latent.
        text_width: of its text encoder's tokens; left out where the model is given them as they are.
        vision: (width, tokens) of the CLIP vision model that it is shown images by; left out where it has none.
    """

    family: str
    model: Any
    x: torch.Tensor
    conds: dict[str, Any]
    channels: int = 16
    frames: int = 3
    leading: int = 0
    trailing: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    factor: int = 8
    text_width: int | None = None
    vision: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.text_width is None and "c_crossattn" in self.conds:
            self.text_width = self.conds["c_crossattn"].shape[-1]
        if self.vision is None and "clip_fea" in self.conds:
            self.vision = self.conds["clip_fea"].shape[-1], self.conds["clip_fea"].shape[1]


def find(path: str, name: str) -> Any:
    """A class of the host by module and name; raises `Missing` where this version has none."""
    try:
        return getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError):
        raise Missing(name) from None


def write_model(tiny: Tiny, path: Path) -> bool:
    """Writes the file of a diffusion model, if it is one whose sizes the host finds out from its file."""
    if not hasattr(tiny.model, "as_file"):
        return False
    buffers, metadata = tiny.model.as_file
    weights = {**tiny.model.model.diffusion_model.state_dict(), **buffers}
    write(path, weights, metadata and {"transformer": metadata})
    return True


class Missing(Exception):
    """This version of the host has no such model."""


def from_state_dict(cls: type, config: dict, metadata: dict | None = None, buffers: dict | None = None) -> Any:
    """The host's own way: weights → detection → patcher. `buffers` are those that the host takes from its files."""
    module = cls(**config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    weights = {**randomise(module).state_dict(), **(buffers or {})}
    more = {"metadata": {"config": json.dumps({"transformer": metadata})}} if metadata else {}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32}, **more)
    assert type(model.model.diffusion_model) is cls
    model.as_file = buffers or {}, metadata
    return model


def from_config(name: str, unet_config: dict) -> Any:
    """Past the detection, for sizes it cannot express."""
    config = find("comfy.supported_models", name)(dict(unet_config))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=CPU)
    randomise(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def concat(channels: int, size: tuple[int, ...] = (3, 8, 6)) -> dict[str, torch.Tensor]:
    """What a model takes in the channels beside its latents."""
    return {"c_concat": noise(2, channels, *size, seed=2)}
