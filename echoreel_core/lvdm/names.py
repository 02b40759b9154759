"""The released tensor names and ours: one table, read forwards to load a checkpoint and backwards to write one.

The released kernels have a time axis of length one: a 1 x 3 x 3 convolution is a frame's 2-D one, and the 1 x 1 x 1
convolutions around a transformer are linear layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model."
PRISM_PREFIX = "video_inject_process."

_Table = tuple[tuple[str, str], ...]
"""Pairs of (our name, released name)."""

_PARTS: _Table = (
    (".to_out.", ".to_out.0."),
    (".ff.proj_in.", ".ff.net.0.proj."),
    (".ff.proj_out.", ".ff.net.2."),
    (".position_k", ".relative_position_k.embeddings_table"),
    (".position_v", ".relative_position_v.embeddings_table"),
)
"""Anywhere in a name, of the UNet and of EchoReel's parts."""
_ADDED_LAYER: _Table = (("norm.", ".video_inject_norm7."), ("", ".video_inject_attn3_tmp."))
"""What follows `attentions.3.` with us, and the name of the site with them."""
_PRISM: _Table = (("text_in.", "input_to_latent."), ("latent_in.", "video_to_latent."), ("out.", "latent_to_T."))
_PRISM_LAYER: _Table = (
    ("spatial.", "attn1."),
    ("temporal.", "attn1_tmp."),
    ("text.", "attn2."),
    ("temporal_2.", "attn2_tmp."),
    *((f"norms.{i}.", f"norm{2 * i + 1}.") for i in range(4)),
    *((f"feed_forward_norms.{i}.", f"norm{2 * i + 2}.") for i in range(4)),
    *((f"feed_forwards.{i}.proj_in.", f"ff{i + 1}.net.0.proj.") for i in range(4)),
    *((f"feed_forwards.{i}.proj_out.", f"ff{i + 1}.net.2.") for i in range(4)),
)
_LAYERS = ("layers.", "net.")
_AROUND_TRANSFORMER = re.compile(r"\.1\.proj_(in|out)\.weight$")


def unet_from_released(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the released UNet's tensors to those of `LVDMUNet`, without the time axis; views, not copies."""

    def reshape(key: str, weight: Tensor) -> Tensor:
        if weight.dim() != 5:
            return weight
        return weight.flatten(1) if _AROUND_TRANSFORMER.search(key) else weight.squeeze(2)

    return {_replace(key, _backwards(_PARTS)): reshape(key, weight) for key, weight in weights.items()}


def unet_to_released(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `unet_from_released`."""

    def reshape(key: str, weight: Tensor) -> Tensor:
        if _AROUND_TRANSFORMER.search(key):
            return weight[:, :, None, None, None]
        return weight.unsqueeze(2) if weight.dim() == 4 else weight

    return {_replace(key, _PARTS): reshape(key, weight) for key, weight in weights.items()}


def adapter_from_released(weights: Mapping[str, Tensor], sites: Sequence[str]) -> dict[str, Tensor]:
    """Renames EchoReel's released tensors to those of `EchoReelAdapter`; `sites` are the blocks with an added layer.

    Names that are in no table, or of a site that is not there, stay recognisable, for messages.
    """
    index = {site: str(number) for number, site in enumerate(sites)}

    def rename(key: str) -> str:
        key = _replace(key, _backwards(_PARTS))
        if not key.startswith(PRISM_PREFIX):
            for ours, released in _ADDED_LAYER:
                site, found, rest = key.partition(released)
                if found:
                    return f"attentions.{index.get(site, site)}.{ours}{rest}"
            return key
        return "prism." + _rename_prism(key.removeprefix(PRISM_PREFIX), backwards=True)

    return {rename(key): weight for key, weight in weights.items()}


def adapter_to_released(weights: Mapping[str, Tensor], sites: Sequence[str]) -> dict[str, Tensor]:
    """The reverse of `adapter_from_released`."""

    def rename(key: str) -> str:
        part, _, rest = key.partition(".")
        if part == "prism":
            return PRISM_PREFIX + _rename_prism(rest, backwards=False)
        number, _, rest = rest.partition(".")
        return sites[int(number)] + _replace_start(rest, _ADDED_LAYER)

    return {_replace(rename(key), _PARTS): weight for key, weight in weights.items()}


def _rename_prism(key: str, backwards: bool) -> str:
    """A name within the prism: of one of its layers, or of what is around them."""
    ours, released = _LAYERS[::-1] if backwards else _LAYERS
    turn = _backwards if backwards else tuple
    if not key.startswith(ours):
        return _replace_start(key, turn(_PRISM))
    number, _, rest = key.removeprefix(ours).partition(".")
    return f"{released}{number}.{_replace_start(rest, turn(_PRISM_LAYER))}"


def _backwards(table: _Table) -> _Table:
    return tuple(pair[::-1] for pair in table)


def _replace(key: str, table: _Table) -> str:
    for old, new in table:
        key = key.replace(old, new)
    return key


def _replace_start(key: str, table: _Table) -> str:
    for old, new in table:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
