"""Tiny models of the host's own classes with random weights, built the way the host builds them."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.ldm.wan.model
import comfy.ops
import comfy.sd
import safetensors.torch
import torch


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fills every floating-point parameter (the host leaves them uninitialised)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.data = (noise + (1.0 if parameter.dim() == 1 else 0.0)).to(parameter.dtype)
    return module


def write(path: Path, weights: dict[str, torch.Tensor], config: dict | None = None) -> None:
    """A file of weights, with the sizes that the host reads in its metadata where it needs them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = None if config is None else {"config": json.dumps(config)}
    safetensors.torch.save_file({key: value.contiguous() for key, value in weights.items()}, path, metadata)


def wan(model_type: str = "t2v", dim: int = 128, layers: int = 2, in_channels: int = 16):
    """A MODEL patcher of Wan 2.1; `in_channels` 36 with `model_type` "i2v" is the image-to-video one."""
    model = comfy.ldm.wan.model.WanModel(
        model_type=model_type,
        dim=dim,
        ffn_dim=64,
        num_heads=dim // 128,
        num_layers=layers,
        in_dim=in_channels,
        out_dim=16,
        text_dim=4096,
        freq_dim=256,
        qk_norm=True,
        cross_attn_norm=True,
        patch_size=(1, 2, 2),
        dtype=torch.float32,
        device="cpu",
        operations=comfy.ops.disable_weight_init,
    )
    state_dict = dict(randomise(model).state_dict())
    return comfy.sd.load_diffusion_model_state_dict(state_dict, model_options={"dtype": torch.float32})
