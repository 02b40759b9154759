"""Reads the authors' checkpoint files without running anything pickled in them, and splits them into parts.

The released file is a DeepSpeed checkpoint: the state dict lies under `module`, each key behind one more component,
beside optimizer and trainer state. Plain `state_dict` files, the base LVDM file without EchoReel parts, and our own
safetensors conversions of any of them are read by the same function.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig, check_weights
from ..action.prism import ActionPrismConfig
from ..errors import EchoReelError
from ..files import read_tensors, reason
from .unet import LVDMConfig, LVDMUNet, from_released

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model."
PRISM_PREFIX = "video_inject_process."

_IMPOSSIBLE_SIZES = (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError)
"""Raised for tensors whose sizes or number of axes do not fit the model."""
_NEVER_RUN = re.compile(r"\.(video_inject_attn3|video_inject_norm6|latent_to_S)\.")
_LAYER_NAMES = {
    "attn1.": "spatial.",
    "attn1_tmp.": "temporal.",
    "attn2.": "text.",
    "attn2_tmp.": "temporal_2.",
    **{f"norm{2 * i + 1}.": f"norms.{i}." for i in range(4)},
    **{f"norm{2 * i + 2}.": f"feed_forward_norms.{i}." for i in range(4)},
    **{f"ff{i + 1}.net.0.proj.": f"feed_forwards.{i}.proj_in." for i in range(4)},
    **{f"ff{i + 1}.net.2.": f"feed_forwards.{i}.proj_out." for i in range(4)},
}


class _Inert:
    """A stand-in for a class of the trainer: takes anything, keeps nothing, does nothing."""

    def __init__(self, *_args, **_kwargs) -> None: ...

    def __setstate__(self, _state) -> None: ...


class _InertDict:
    """A stand-in for a dictionary type: an empty plain dictionary, which torch lets the file fill."""

    def __new__(cls, *_args) -> dict:
        return {}


# What trainers leave in their files beside tensors. All of it is replaced by stand-ins; the list only tells a file
# with a trainer's state from one that was made to do harm, so that the user hears of the latter.
_TRAINER_NAMES = re.compile(
    r"(deepspeed|pytorch_lightning|lightning|lightning_fabric|omegaconf|numpy|pathlib|torch\.optim)\."
    r"|argparse\.Namespace$|typing\.Any$|collections\.defaultdict$"
    r"|(builtins|__builtin__)\.(bool|bytes|dict|float|int|list|object|slice|str|tuple)$"
)
_DICTIONARIES = ("AttributeDict", "defaultdict")


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
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise EchoReelError(f"{path.name} cannot be opened ({error.strerror}): check its name and folder.") from None
    left_out: list[str] = []
    if start[8:] == b"{":
        content = read_tensors(path)
    elif start.startswith((b"PK", b"\x80")):
        if path.suffix == ".safetensors":  # torch.load would go by the name
            raise EchoReelError(
                f"{path.name} is a torch file with a .safetensors name: rename it so that it ends with .pt."
            )
        content = _unpickle(path, zipped=start.startswith(b"PK"))
    else:
        raise EchoReelError(
            f"{path.name} is neither a safetensors nor a torch file, or it is damaged: download it again."
        )
    if isinstance(content, Mapping):
        for entry in ("module", "state_dict"):
            if isinstance(content.get(entry), Mapping):
                left_out = [str(key) for key in content if key != entry]
                content = content[entry]
                break
    if not isinstance(content, Mapping):
        raise EchoReelError(f"{path.name} is not a model checkpoint: it has no dictionary of tensors in it.")
    return _strip_wrapper({str(key): value for key, value in content.items() if isinstance(value, Tensor)}), left_out


def _unpickle(path: Path, zipped: bool) -> object:
    """Reads a torch file with torch's restricted unpickler, every name the trainer left in it replaced by a stand-in.

    `zipped` is the format since torch 1.6; the older one can neither be searched for names nor be memory-mapped.
    """
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise EchoReelError(
            f"{path.name} cannot be read safely with PyTorch {torch.__version__}: update PyTorch to 2.6 or newer, or "
            "use a safetensors file."
        )
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
        foreign = sorted(name for name in names if not _TRAINER_NAMES.match(name))
        if not foreign:
            stand_ins = [(_InertDict if name.endswith(_DICTIONARIES) else _Inert, name) for name in names]
            with torch.serialization.safe_globals(stand_ins):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:  # its message tells how to run the code all the same
        foreign = ["or is damaged"]
    except Exception as error:  # whatever a damaged file makes torch run into
        raise EchoReelError(
            f"{path.name} cannot be read because it is incomplete or damaged: download it again ({reason(error)})."
        ) from None
    raise EchoReelError(
        f"{path.name} was not loaded because it tries to run code ({', '.join(foreign[:3])}): "
        "use the authors' file, or a safetensors file."
    )


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
    base = from_released({key: value for key, value in unet.items() if key not in echoreel})
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
        adapter = _adapter_weights(echoreel, adapter_config)
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


def _adapter_weights(weights: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """Renames the released EchoReel tensors to those of `EchoReelAdapter`; views, not copies."""
    site_index = {site.name: index for index, site in enumerate(config.sites)}
    return {_adapter_key(key, site_index): value for key, value in weights.items()}


def _adapter_key(key: str, site_index: Mapping[str, int]) -> str:
    key = key.replace("to_out.0.", "to_out.")
    key = re.sub(r"relative_position_([kv])\.embeddings_table", r"position_\1", key)
    if not key.startswith(PRISM_PREFIX):
        site, _, rest = key.rpartition(".video_inject_")
        rest = rest.removeprefix("attn3_tmp.").replace("norm7.", "norm.")
        return f"attentions.{site_index.get(site, site)}.{rest}"
    key = key.removeprefix(PRISM_PREFIX)
    heads = {"input_to_latent.": "text_in.", "video_to_latent.": "latent_in.", "latent_to_T.": "out."}
    for old, new in heads.items():
        if key.startswith(old):
            return f"prism.{new}{key.removeprefix(old)}"
    _, index, rest = key.split(".", 2)
    for old, new in _LAYER_NAMES.items():
        if rest.startswith(old):
            return f"prism.layers.{index}.{new}{rest.removeprefix(old)}"
    return f"prism.{key}"


def build(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Loads `weights` into a module made on the meta device, keeping them as they are (memory-mapped, their dtype)."""
    module.load_state_dict(dict(weights), assign=True)
    return module.requires_grad_(False).eval()
