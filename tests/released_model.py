"""The fixtures' model, built from weights drawn by `released_weights`, and what was recorded from it."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from released_weights import FIXTURES, make_state_dict
from safetensors.torch import load_file
from torch import Tensor

from echoreel_core.action.adapter import EchoReelAdapter
from echoreel_core.action.attention import ActionContext
from echoreel_core.action.injection import added_layers
from echoreel_core.lvdm.checkpoint import build, split_released
from echoreel_core.lvdm.unet import LVDMUNet

Form = Literal["plain", "folded"]


@dataclass(repr=False)  # a failing test would print every tensor
class ReleasedModel:
    """UNet and adapter, and the recorded tensors (see tests/fixtures)."""

    unet: LVDMUNet
    adapter: EchoReelAdapter
    recorded: dict[str, Tensor]

    @classmethod
    def load(cls, layout: str) -> ReleasedModel:
        """Draws the weights of `layout` ("small" or "released") and takes them apart as a checkpoint's are."""
        parts = split_released(make_state_dict(layout, "model."), layout)
        with torch.device("meta"):
            unet, adapter = LVDMUNet(parts.unet_config), EchoReelAdapter(parts.adapter_config)
        recorded = load_file(FIXTURES / f"{layout}.safetensors")
        return cls(build(unet, parts.unet), build(adapter, parts.adapter), recorded)

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> ReleasedModel:
        """A copy: weights and inputs of that dtype on that device."""
        unet, adapter = (copy.deepcopy(module).to(device, dtype) for module in (self.unet, self.adapter))
        recorded = {
            key: value.to(device, dtype if value.is_floating_point() else None) for key, value in self.recorded.items()
        }
        return ReleasedModel(unet, adapter, recorded)

    @torch.no_grad()
    def action(self, context: str = "context") -> Tensor:
        """The prism's tokens for the recorded reference and prompt: [B, S, action_dim]."""
        text = torch.cat((self.recorded[context], self.recorded["reference_text"]), dim=1)
        return self.adapter.prism(self.recorded["reference_latent"], text)

    @torch.no_grad()
    def predict_noise(
        self, x: Tensor, timesteps: Tensor, context: Tensor, action: ActionContext | Tensor | None, form: Form
    ) -> Tensor:
        """One pass of the UNet with the added layers in either form; without them where action is None."""
        added = nullcontext()
        if action is not None:
            if isinstance(action, Tensor):
                action = ActionContext.plain(action, x.shape[2])
            layers = [
                layer.fold(action, x.dtype, x.device) if form == "folded" else partial(layer, context=action)
                for layer in self.adapter.attentions
            ]
            added = added_layers(self.unet.sites(), layers)
        with added:
            return self.unet(x, timesteps, context)


def relative_error(result: Tensor, reference: Tensor) -> float:
    """Norm of the difference over norm of the reference, in float64."""
    reference = reference.double()
    return ((result.double() - reference).norm() / reference.norm()).item()
