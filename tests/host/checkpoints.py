"""All-in-one checkpoints of random weights, in the form in which the authors' file was written."""

from __future__ import annotations

from pathlib import Path

import torch
from released_weights import draw, make_state_dict, shapes_of
from torch import Tensor

from echoreel_core.lvdm.autoencoder import Autoencoder, AutoencoderConfig
from echoreel_core.lvdm.text_encoder import CLIPTextEncoder, TextConfig

SHIPPED_NAME = "checkpoint.pt"
"""What the shipped workflows call the authors' file."""


def toy_state_dict() -> dict[str, Tensor]:
    """The small fixture's UNet and EchoReel, with a text encoder as wide as they need and a VAE that shrinks by 8."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = CLIPTextEncoder(TextConfig(width=64, depth=1, feed_forward=256))
        vae = Autoencoder(AutoencoderConfig(channels=32, multipliers=(1, 1, 1, 1), blocks=1))
    return {
        **make_state_dict("small"),
        **{f"cond_stage_model.transformer.{key}": value for key, value in text.state_dict().items()},
        **{f"first_stage_model.{key}": value for key, value in vae.state_dict().items()},
    }


def released_size_state_dict() -> dict[str, Tensor]:
    """Every tensor of the released layout, in half precision: 3.6 GB."""
    return {key: draw(key, shape).half() for key, shape in shapes_of("released").items()}


def save_as_deepspeed(weights: dict[str, Tensor], path: Path) -> None:
    """Writes a checkpoint as DeepSpeed does: the weights under `module`, behind one more key component."""
    content = {
        "module": {f"_forward_module.{key}": value for key, value in weights.items()},
        "optimizer": None,
        "lr_scheduler": None,
        "global_steps": 1,
        "ds_version": "0.9.5",
    }
    torch.save(content, path)
