"""The adapter that a family trains where none is given."""

import pytest
import torch


@pytest.fixture
def fit(pack):
    from echoreel_pack.echoreel_core.training.default_sizes import AdapterInputs

    return AdapterInputs(
        host="any",
        sites=[("a", 64), ("b", 128)],
        latent_channels=4,
        latent_size=(16, 16),
        latent_frames=8,
        text_width=64,
    )


@pytest.mark.parametrize("heads", [4, 8])
def test_the_released_familys_layers_take_over_the_heads_of_its_blocks(fit, heads):
    """As on the command line, `python -m echoreel_core.training train`."""
    from echoreel_pack.echoreel_core.lvdm.unet import LVDMConfig, LVDMUNet
    from echoreel_pack.echoreel_core.training.default_sizes import released_form
    from echoreel_pack.nodes.families import family_named

    with torch.device("meta"):
        unet = LVDMUNet(LVDMConfig(heads=heads))
    config = family_named("lvdm").default_adapter(unet, fit)
    assert config == released_form(fit, block_heads=heads)
    assert [(site.heads, site.head_dim) for site in config.sites] == [(heads, 64 // heads), (heads, 128 // heads)]


def test_all_others_have_the_general_form(fit):
    from echoreel_pack.echoreel_core.training.default_sizes import general_form
    from echoreel_pack.nodes.families import FAMILIES

    others = [family for family in FAMILIES if family.name != "lvdm"]
    assert others and all(family.default_adapter(None, fit) == general_form(fit) for family in others)
