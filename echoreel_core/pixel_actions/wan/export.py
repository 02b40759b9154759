"""The second base model as the files a host takes: the transformer, with its sizes told, and the VAE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...files import whole_file
from .model import WanConfig, WanModel
from .vae import WanVAE, load_vae

MODEL_FILE, VAE_FILE = "pixel_actions_wan.safetensors", "pixel_actions_wan_vae.safetensors"
ADAPTER_FILE = "pixel_actions_wan_adapter.safetensors"
UNFINISHED_FILE = "pixel_actions_wan-unfinished.safetensors"
"""A base in training, under a name that nothing takes for a finished one."""


def write_model(path: Path, weights: Mapping[str, Tensor], config: WanConfig) -> None:
    """Half precision. The number of heads and the width of the text are what a host cannot tell, or would not expect,
    and reads from the file's metadata."""
    sizes = {"transformer": {"num_heads": config.heads, "text_dim": config.text_width}}
    _write(path, weights, {"config": json.dumps(sizes), "about": "Pixel Actions in Wan's form, a base model"})


def write_vae(path: Path, vae: WanVAE) -> None:
    """Half precision."""
    _write(path, vae.state_dict(), {"about": "Pixel Actions in Wan's form, its VAE"})


def _write(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    half = {key: value.detach().half().cpu().contiguous() for key, value in weights.items()}
    with whole_file(path) as temporary:
        save_file(half, temporary, metadata)


def read_model(path: Path, device: torch.device | str = "cpu") -> WanModel:
    """The transformer, float32 and frozen."""
    with safe_open(path, "pt") as file:
        heads = json.loads(file.metadata()["config"])["transformer"]["num_heads"]
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    with torch.device("meta"):
        model = WanModel(WanConfig.from_state_dict(weights, heads))
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval().to(device)


def read_vae(path: Path, device: torch.device | str = "cpu") -> WanVAE:
    """The VAE, float32 and frozen."""
    with safe_open(path, "pt") as file:
        vae = load_vae({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    return vae.to(device)
