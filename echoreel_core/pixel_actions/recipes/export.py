"""The embedded model as one file in the released all-in-one format, half precision."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from ...action.adapter import EchoReelAdapter, read_adapter
from ...files import write_safetensors
from ...lvdm.checkpoint import PRISM_PREFIX, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX
from ..model.adapted_model import new_adapter
from ..model.embedded import TOKEN_EMBEDDING
from ..world.words import expand
from .train_base import load_base

_PRISM_NAMES = {
    "spatial.": "attn1.",
    "temporal.": "attn1_tmp.",
    "text.": "attn2.",
    "temporal_2.": "attn2_tmp.",
    **{f"norms.{i}.": f"norm{2 * i + 1}." for i in range(4)},
    **{f"feed_forward_norms.{i}.": f"norm{2 * i + 2}." for i in range(4)},
    **{f"feed_forwards.{i}.": f"ff{i + 1}." for i in range(4)},
}


def _released_name(key: str) -> str:
    key = re.sub(r"\.to_out\.", ".to_out.0.", key)
    key = re.sub(r"\.(ff\d?)\.proj_in\.", r".\1.net.0.proj.", key)
    key = re.sub(r"\.(ff\d?)\.proj_out\.", r".\1.net.2.", key)
    return re.sub(r"\.position_([kv])$", r".relative_position_\1.embeddings_table", key)


def _released_unet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def reshape(key: str, weight: Tensor) -> Tensor:
        if weight.dim() == 4:
            return weight.unsqueeze(2)
        if re.search(r"\.1\.proj_(in|out)\.weight$", key):
            return weight[:, :, None, None, None]
        return weight

    return {_released_name(key): reshape(key, weight) for key, weight in weights.items()}


def _released_adapter(adapter: EchoReelAdapter) -> dict[str, Tensor]:
    sites = [site.name for site in adapter.config.sites]
    out = {}
    for key, weight in adapter.state_dict().items():
        part, rest = key.split(".", 1)
        if part == "attentions":
            index, rest = rest.split(".", 1)
            kind = "norm7." if rest.startswith("norm.") else "attn3_tmp."
            name = f"{sites[int(index)]}.video_inject_{kind}{rest.removeprefix('norm.')}"
        else:
            heads = {"text_in.": "input_to_latent.", "latent_in.": "video_to_latent.", "out.": "latent_to_T."}
            for ours, theirs in heads.items():
                if rest.startswith(ours):
                    rest = theirs + rest.removeprefix(ours)
            if rest.startswith("layers."):
                _, index, rest = rest.split(".", 2)
                ours = next(name for name in _PRISM_NAMES if rest.startswith(name))
                rest = f"net.{index}.{_PRISM_NAMES[ours]}{rest.removeprefix(ours)}"
            name = PRISM_PREFIX + rest
        out[_released_name(name)] = weight
    return out


def export(path: Path, base: Path, adapter: Path | None, autoencoder: Path) -> None:
    """Write the checkpoint; `base` is a training checkpoint, of which the averaged weights are taken."""
    model = load_base(base)
    unet = _released_unet(model.unet.state_dict())
    if adapter is not None:
        trained = new_adapter(model)
        trained.load_state_dict(read_adapter(adapter)[1])
        unet |= _released_adapter(trained)
    text = dict(model.text.state_dict())
    text[TOKEN_EMBEDDING] = expand(text[TOKEN_EMBEDDING])
    parts = {
        UNET_PREFIX: unet,
        VAE_PREFIX: load_file(autoencoder),
        f"{TEXT_PREFIX}transformer.": text,
    }
    tensors = {prefix + key: value.half() for prefix, part in parts.items() for key, value in part.items()}
    write_safetensors(path, tensors, {"format": "checkpoint", "about": "Pixel Actions, the embedded model of EchoReel"})
