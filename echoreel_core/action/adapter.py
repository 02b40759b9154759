"""An EchoReel adapter: one Action Prism and one added attention layer per site of the model it was trained for."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EchoReelError
from ..files import read_description, read_tensors, reason, write_safetensors
from ..modules.attention import AttentionFunction, scaled_dot_product
from .attention import ActionAttention, Position
from .prism import ActionPrism, ActionPrismConfig

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SiteConfig:
    """One added layer: the block it belongs to, the width of that block's hidden state, and the layer's heads."""

    name: str
    dim: int
    heads: int
    head_dim: int


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter consists of, and the model it belongs to.

    Attributes:
        host: the model family, e.g. "lvdm" or "wan".
        prism: sizes of the Action Prism.
        sites: the added layers, in the order of the host's forward pass.
        position: see `ActionAttention`.
        max_distance: in reference frames.
        training: facts for the user: frames, fps, width, height, steps, … (any JSON value).
    """

    host: str
    prism: ActionPrismConfig
    sites: tuple[SiteConfig, ...]
    position: Position = "relative_vectors"
    max_distance: int = 16
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready description, with the format's version."""
        return {"format": "adapter", "version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> AdapterConfig:
        """The config described by `to_json`. Raises: EchoReelError if an entry is missing or has the wrong type."""
        try:
            prism = dict(description["prism"])
            if not isinstance(description["host"], str) or not isinstance(description.get("training", {}), dict):
                raise TypeError("host or training")
            return cls(
                host=description["host"],
                prism=ActionPrismConfig(**{**prism, "grid": tuple(prism["grid"])}),
                sites=tuple(SiteConfig(**site) for site in description["sites"]),
                position=description["position"],
                max_distance=description["max_distance"],
                training=description.get("training", {}),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EchoReelError(f"its description is incomplete or damaged ({error})") from None


class EchoReelAdapter(nn.Module):
    """`prism` distils the action; `attentions[i]` adds it at `config.sites[i]`."""

    def __init__(self, config: AdapterConfig, operations=nn, attention: AttentionFunction = scaled_dot_product) -> None:
        super().__init__()
        self.config = config
        self.prism = ActionPrism(config.prism, operations, attention)
        self.attentions = nn.ModuleList(
            ActionAttention(
                site.dim,
                config.prism.action_dim,
                heads=site.heads,
                head_dim=site.head_dim,
                max_distance=config.max_distance,
                position=config.position,
                operations=operations,
            )
            for site in config.sites
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes one safetensors file with the config in its metadata, whole or not at all."""
        write_safetensors(path, self.state_dict(), self.config.to_json())


def read_adapter(path: str | os.PathLike) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Config and weights (memory-mapped, as stored) of an adapter file.

    Raises: EchoReelError, naming the file and the reason, if it is no adapter, damaged, or its weights do not fit
        its own description.
    """
    name = Path(path).name
    description = read_description(path, "adapter", FORMAT_VERSION)
    weights = read_tensors(path)
    try:
        config = AdapterConfig.from_json(description)
        # Each layer and each site has tensors of its own: what claims more would take for ever to be built.
        if max(config.prism.depth, len(config.sites)) > len(weights):
            raise ValueError(
                f"it claims {config.prism.depth} layers and {len(config.sites)} sites with {len(weights)} tensors"
            )
        with torch.device("meta"):
            expected = {key: tensor.shape for key, tensor in EchoReelAdapter(config).state_dict().items()}
    except (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError) as error:  # sizes that no module can have
        raise EchoReelError(f"{name} cannot be used: its description is damaged ({reason(error)}).") from None
    check_weights(name, weights, expected)
    return config, weights


def check_weights(
    name: str, weights: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], *, others: bool = False
) -> None:
    """Raises EchoReelError naming the first tensor that is missing, unexpected, or of the wrong shape.

    Args:
        others: whether unexpected tensors are allowed.
    """
    for key in [*expected, *([] if others else weights)]:
        if key not in weights:
            raise EchoReelError(f"{name} is incomplete: the tensor {key} is missing.")
        if key not in expected:
            raise EchoReelError(f"{name} holds a tensor that does not belong to it: {key}.")
        if tuple(weights[key].shape) != tuple(expected[key]):
            raise EchoReelError(
                f"{name} is damaged: the tensor {key} has the shape {list(weights[key].shape)}, "
                f"but its description says {list(expected[key])}."
            )


def content_id(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits that name an adapter by its content, the same in float32, float16 and bfloat16.

    All that rounding never changes, whatever the two numbers lie between, is a number's sign. So the name is made of
    the signs of the first 1,024 values of every tensor; where all of these are the same, as in a norm's scale, also of
    how large they are, as a power of two. A file of gigabytes is not read for its name.
    """
    digest = hashlib.sha256()
    for key, shape, values in _leading_values(weights):
        signs = values.float().signbit()
        digest.update(f"{key}{shape}".encode() + signs.to(torch.uint8).numpy().tobytes())
        if signs.all() or not signs.any():
            size = min(values.double().abs().mean().item(), 65504.0) if len(values) else 0.0
            digest.update(f"{round(math.log2(size)) if size > 1e-4 else None}".encode())
    return digest.hexdigest()[:16]


def exact_id(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits that name weights by their first 1,024 values, the same in float32 and rounded to float16.

    It names what a cache was made with; and it named adapters, in actions that were saved before.
    """
    digest = hashlib.sha256()
    for key, shape, values in _leading_values(weights):
        digest.update(f"{key}{shape}".encode())
        digest.update(values.to(torch.float16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _leading_values(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, list[int], Tensor]]:
    """(name, shape, the first 1,024 values on the CPU) of every tensor, by name."""
    for key in sorted(weights):
        yield key, list(weights[key].shape), weights[key].detach().flatten()[:1024].to("cpu")
