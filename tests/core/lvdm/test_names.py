"""The released tensor names: read forwards and backwards from one table."""

from __future__ import annotations

import pytest
import torch
from released_weights import shapes_of

from echoreel_core.action.adapter import EchoReelAdapter
from echoreel_core.lvdm.checkpoint import split_released
from echoreel_core.lvdm.names import (
    UNET_PREFIX,
    adapter_from_released,
    adapter_to_released,
    unet_from_released,
    unet_to_released,
)
from echoreel_core.lvdm.unet import LVDMUNet


@pytest.mark.parametrize("layout", ["small", "released"])
def test_every_name_and_shape_comes_back(layout):
    """A released checkpoint's tensors, to our names and back, and the modules' own tensors the other way round."""
    with torch.device("meta"):
        whole = split_released({key: torch.empty(shape) for key, shape in shapes_of(layout).items()}, layout)
        unet, adapter = LVDMUNet(whole.unet_config), EchoReelAdapter(whole.adapter_config)
    sites = [site.name for site in whole.adapter_config.sites]
    released = {key.removeprefix(UNET_PREFIX): tensor for key, tensor in whole.kept.items() if UNET_PREFIX in key}
    assert len(released) == len(whole.unet) + len(whole.adapter)

    back = unet_to_released(whole.unet) | adapter_to_released(whole.adapter, sites)
    assert {key: tensor.shape for key, tensor in back.items()} == {key: t.shape for key, t in released.items()}

    again = unet_from_released(unet_to_released(unet.state_dict()))
    assert {key: tensor.shape for key, tensor in again.items()} == {k: t.shape for k, t in unet.state_dict().items()}
    again = adapter_from_released(adapter_to_released(adapter.state_dict(), sites), sites)
    assert again.keys() == adapter.state_dict().keys()
