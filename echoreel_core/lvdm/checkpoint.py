"""Reads the authors' checkpoint files without running anything pickled in them, and splits them into parts.

The released file is a DeepSpeed checkpoint: the state dict lies under `module`, each key behind one more component,
beside optimizer and trainer state. Plain `state_dict` files, the base LVDM file without EchoReel parts, and our own
safetensors conversions of any of them are read by the same function.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig, check_weights
from ..action.prism import ActionPrismConfig
from ..errors import EchoReelError
from ..files import check_file, read_tensors, reason
from .names import PRISM_PREFIX, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, adapter_from_released, unet_from_released
from .torch_file import read_torch_file
from .unet import LVDMConfig, LVDMUNet

_IMPOSSIBLE_SIZES = (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError)
"""Raised for tensors whose sizes or number of axes do not fit the model."""
_NEVER_RUN = re.compile(r"\.(video_inject_attn3|video_inject_norm6|latent_to_S)\.")


@dataclass
class ReleasedCheckpoint:
    """The parts of a checkpoint, as views of the file's memory.

    Attributes:
        unet: LVDM weights, named as in `LVDMUNet`.
        adapter: EchoReel weights, named as in `EchoReelAdapter`; empty for a base model.
        adapter_config: None for a base model.
        vae, text: keyed as in the file, without `first_stage_model.` and `cond_stage_model.`; may be empty.
        kept: the tensors behind all of these, under their released keys.
        dropped: what was left out, by reason.
    """

    unet: dict[str, Tensor]
    unet_config: LVDMConfig
    adapter: dict[str, Tensor]
    adapter_config: AdapterConfig | None
    vae: dict[str, Tensor]
    text: dict[str, Tensor]
    kept: dict[str, Tensor]
    dropped: dict[str, list[str]] = field(default_factory=dict)


def read_state_dict(path: str | os.PathLike) -> tuple[dict[str, Tensor], list[str]]:
    """Reads a checkpoint file of any of the known kinds; nothing in it is executed.

    Args:
        path: a safetensors or a torch file, told apart by what is in it; memory-mapped, but for torch files in the
            format of before 2020, which are read whole.

    Returns: the state dict under its released keys, and the names of other top-level entries that were left out.
    Raises: EchoReelError, naming the file and the reason, if it is damaged, not a checkpoint, or wants code to run.
    """
    path = Path(path)
    check_file(path, "checkpoint")
    with open(path, "rb") as file:
        start = file.read(9)
    left_out: list[str] = []
    if start[8:] == b"{":
        content = read_tensors(path)
    elif start.startswith((b"PK", b"\x80")):
        if path.suffix == ".safetensors":  # the host chooses its reader by the suffix
            raise EchoReelError(
                f"{path.name} is a torch file with a .safetensors name: rename it so that it ends with .pt."
            )
        content = read_torch_file(path)
    else:
        raise EchoReelError(
            f"{path.name} is neither a safetensors nor a torch file, or it is damaged: download it again."
        )
    if isinstance(content, Mapping):
        for entry in ("module", "state_dict"):
            if isinstance(content.get(entry), Mapping):
                left_out = [key for key in content if isinstance(key, str) and key != entry]
                content = content[entry]
                break
    if not isinstance(content, Mapping):
        raise EchoReelError(f"{path.name} is not a model checkpoint: it has no dictionary of tensors in it.")
    weights = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return _strip_wrapper(weights), left_out


def _strip_wrapper(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes the component that a trainer put before every key (`_forward_module.`)."""
    marked = next((key for key in weights if UNET_PREFIX in key), None)
    if marked is None or marked.startswith(UNET_PREFIX):
        return weights
    wrapper = marked[: marked.index(UNET_PREFIX)]
    return {key.removeprefix(wrapper): value for key, value in weights.items()}


def load_released(path: str | os.PathLike) -> ReleasedCheckpoint:
    """Reads a checkpoint and splits it into parts; sizes are read from the tensors.

    Raises: EchoReelError, naming the file and the first thing wrong, if it is damaged, unsafe or another model's.
    """
    weights, left_out = read_state_dict(path)
    checkpoint = split_released(weights, Path(path).name)
    if left_out:
        checkpoint.dropped["optimizer and trainer state"] = left_out
    return checkpoint


def split_released(weights: Mapping[str, Tensor], name: str) -> ReleasedCheckpoint:
    """Takes a state dict with released keys apart; `name` is the file's, for messages.

    Raises EchoReelError as above.
    """
    kept, dropped = {}, {}

    def drop(reason: str, key: str) -> None:
        dropped.setdefault(reason, []).append(key)

    for key, tensor in weights.items():
        if _NEVER_RUN.search(key):
            drop("spatial EchoReel layers, never run", key)
        elif key.endswith("position_ids"):
            drop("constant buffers", key)
        elif key.startswith((UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX)):
            kept[key] = tensor
        else:
            drop("noise schedule and other buffers", key)

    unet = {key.removeprefix(UNET_PREFIX): value for key, value in kept.items() if key.startswith(UNET_PREFIX)}
    if not unet:
        raise EchoReelError(f"{name} has a different architecture: no tensor name begins with {UNET_PREFIX!r}.")
    echoreel = {key: value for key, value in unet.items() if "video_inject_" in key}
    base = unet_from_released({key: value for key, value in unet.items() if key not in echoreel})
    try:
        unet_config = LVDMConfig.from_state_dict(base)
        with torch.device("meta"):
            expected = {key: value.shape for key, value in LVDMUNet(unet_config).state_dict().items()}
    except _IMPOSSIBLE_SIZES as error:
        raise EchoReelError(f"{name} has a different architecture ({reason(error)}).") from None
    check_weights(name, base, expected)

    adapter, adapter_config = {}, None
    if echoreel:
        try:
            adapter_config = _adapter_config(echoreel, unet_config)
            with torch.device("meta"):
                expected = {key: value.shape for key, value in EchoReelAdapter(adapter_config).state_dict().items()}
        except KeyError as key:
            raise EchoReelError(f"{name} is incomplete: the tensor {UNET_PREFIX}{key.args[0]} is missing.") from None
        except _IMPOSSIBLE_SIZES as error:
            raise EchoReelError(f"{name} has EchoReel parts with a different architecture ({reason(error)}).") from None
        adapter = adapter_from_released(echoreel, [site.name for site in adapter_config.sites])
        check_weights(name, adapter, expected)

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in kept.items() if key.startswith(prefix)}

    return ReleasedCheckpoint(
        unet=base,
        unet_config=unet_config,
        adapter=adapter,
        adapter_config=adapter_config,
        vae=part(VAE_PREFIX),
        text=part(TEXT_PREFIX),
        kept=kept,
        dropped=dropped,
    )


def _adapter_config(weights: Mapping[str, Tensor], unet: LVDMConfig) -> AdapterConfig:
    """Sizes of the EchoReel parts, read off their tensors (released keys without `model.diffusion_model.`)."""

    def shape(key: str) -> torch.Size:
        return weights[key].shape

    with torch.device("meta"):
        sites = LVDMUNet(unet).sites()
    layer = f"{sites[0].name}.video_inject_attn3_tmp"
    action_dim = shape(f"{layer}.to_k.weight")[1]
    width, patch_values = shape(f"{PRISM_PREFIX}video_to_latent.weight")
    context_width, text_width = shape(f"{PRISM_PREFIX}input_to_latent.weight")
    out_channels = shape(f"{PRISM_PREFIX}latent_to_T.2.weight")[0]
    positions, head_dim = shape(f"{PRISM_PREFIX}net.0.attn1_tmp.relative_position_k.embeddings_table")
    side = round((action_dim / out_channels) ** 0.5)
    prism = ActionPrismConfig(
        latent_channels=unet.in_channels,
        grid=(side, side),
        text_width=text_width,
        context_width=context_width,
        width=width,
        depth=sum(1 for key in weights if re.fullmatch(rf"{PRISM_PREFIX}net\.\d+\.norm1\.weight", key)),
        heads=shape(f"{PRISM_PREFIX}net.0.attn1.to_q.weight")[0] // head_dim,
        head_dim=head_dim,
        out_channels=out_channels,
        max_frames=positions // 2,
        patch=round((patch_values / unet.in_channels) ** 0.5),
    )
    site_configs = []
    for site in sites:
        dim = shape(f"{site.name}.video_inject_norm7.weight")[0]
        inner = shape(f"{site.name}.video_inject_attn3_tmp.to_q.weight")[0]
        site_head_dim = shape(f"{site.name}.video_inject_attn3_tmp.relative_position_k.embeddings_table")[1]
        site_configs.append(SiteConfig(site.name, dim, inner // site_head_dim, site_head_dim))
    return AdapterConfig(
        host="lvdm",
        prism=prism,
        sites=tuple(site_configs),
        position="relative_vectors",
        max_distance=shape(f"{layer}.relative_position_k.embeddings_table")[0] // 2,
        training={"frames": prism.max_frames},
    )


def build(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Loads `weights` into a module made on the meta device, keeping them as they are (memory-mapped, their dtype)."""
    module.load_state_dict(dict(weights), assign=True)
    return module.requires_grad_(False).eval()
