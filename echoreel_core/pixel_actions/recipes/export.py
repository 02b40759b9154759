"""The embedded model as one file in the released all-in-one format, half precision."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from ...action.adapter import read_adapter
from ...files import write_safetensors
from ...lvdm.names import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, adapter_to_released, unet_to_released
from ..model.adapted_model import new_adapter
from ..model.embedded import TOKEN_EMBEDDING
from ..world.words import expand
from .train_base import load_base


def export(path: Path, base: Path, adapter: Path | None, autoencoder: Path) -> None:
    """Write the checkpoint; `base` is a training checkpoint, of which the averaged weights are taken."""
    model = load_base(base)
    unet = unet_to_released(model.unet.state_dict())
    if adapter is not None:
        trained = new_adapter(model)
        trained.load_state_dict(read_adapter(adapter)[1])
        unet |= adapter_to_released(trained.state_dict(), [site.name for site in trained.config.sites])
    text = dict(model.text.state_dict())
    text[TOKEN_EMBEDDING] = expand(text[TOKEN_EMBEDDING])
    parts = {
        UNET_PREFIX: unet,
        VAE_PREFIX: load_file(autoencoder),
        f"{TEXT_PREFIX}transformer.": text,
    }
    tensors = {prefix + key: value.half() for prefix, part in parts.items() for key, value in part.items()}
    write_safetensors(path, tensors, {"format": "checkpoint", "about": "Pixel Actions, the embedded model of EchoReel"})
