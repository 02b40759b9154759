"""An EchoReel adapter in the host: its two networks, each under the host's memory management."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...echoreel_core.action.action import Action
from ...echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter, content_id, exact_id, read_adapter
from ...echoreel_core.lvdm.checkpoint import build, load_released

ModelPatcher = comfy.model_patcher.ModelPatcher


@dataclass(frozen=True)
class LoadedAdapter:
    """What travels along an ECHOREEL wire.

    The prism is needed while an action is encoded, the added layers while a model samples: the host loads and offloads
    them apart.

    Attributes:
        id: names the adapter by its content. former_id: the name that actions saved before hold.
    """

    config: AdapterConfig
    id: str
    former_id: str
    prism: ModelPatcher
    attentions: ModelPatcher

    def made(self, action: Action) -> bool:
        """Whether an action is this adapter's own."""
        return bool({self.id, self.former_id} & action.adapter_ids)

    @property
    def prism_dtype(self) -> torch.dtype:
        """The dtype the prism computes in on its device: that of its weights where the device is good at it."""
        stored = comfy.utils.weight_dtype(self.prism.model.state_dict())
        return comfy.model_management.unet_manual_cast(stored, self.prism.load_device) or stored


def _build_parts(config: AdapterConfig, weights: Mapping[str, Tensor]) -> tuple[torch.nn.Module, torch.nn.Module]:
    with torch.device("meta"):
        adapter = EchoReelAdapter(config, operations=comfy.ops.manual_cast, attention=optimized_attention)
    build(adapter, weights)
    comfy.model_management.archive_model_dtypes(adapter)
    return adapter.prism, adapter.attentions


def _patcher(module: torch.nn.Module, disable_dynamic: bool = False) -> ModelPatcher:
    # looked up at call time: the host swaps the class when it starts with dynamic memory
    patcher_class = ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return patcher_class(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _reload(read: Callable[[str], tuple[AdapterConfig, dict[str, Tensor]]], path: str, disable_dynamic: bool = False):
    """Fresh patchers from the file, as the host wants them for every further GPU."""
    return tuple(_patcher(part, disable_dynamic) for part in _build_parts(*read(path)))


def _read_checkpoint(path: str) -> tuple[AdapterConfig, dict[str, Tensor]]:
    checkpoint = load_released(path)
    return checkpoint.adapter_config, checkpoint.adapter


def load_adapter(path: str) -> LoadedAdapter:
    """Loads an adapter file. Raises: EchoReelError as `read_adapter` does."""
    return adapter_from_weights(*read_adapter(path), path, read_adapter)


def adapter_from_weights(
    config: AdapterConfig, weights: Mapping[str, Tensor], path: str, read: Callable = _read_checkpoint
) -> LoadedAdapter:
    """Puts an adapter's weights, read from `path` by `read`, under the host's memory management."""
    patchers = [_patcher(part) for part in _build_parts(config, weights)]
    for index, patcher in enumerate(patchers):
        patcher.cached_patcher_init = (_reload, (read, path), index)
    return LoadedAdapter(config, content_id(weights), exact_id(weights), *patchers)


def adapter_weights(echoreel: LoadedAdapter) -> dict[str, Tensor]:
    """An adapter's weights, named as in `EchoReelAdapter`, float32 on the CPU."""
    parts = {"prism": echoreel.prism, "attentions": echoreel.attentions}
    return {
        f"{name}.{key}": value.to("cpu", torch.float32).clone()
        for name, patcher in parts.items()
        for key, value in patcher.model.state_dict().items()
    }
