"""What the page is told of an adapter file: the frames that Load Reference Video should take for it."""

import pytest
from adapters import wan_adapter
from checkpoints import save_as_deepspeed, toy_state_dict


@pytest.fixture(scope="module")
def told(pack, folders):
    models = folders / "models"
    wan_adapter(models / "echoreel" / "takes.safetensors", training={"frames": 16, "width": 64, "height": 48})
    wan_adapter(models / "echoreel" / "odd.safetensors", training={"width": "64", "height": 10**9})
    (models / "echoreel" / "damaged.safetensors").write_bytes(b"\x08" + bytes(20))
    weights = toy_state_dict()
    save_as_deepspeed(weights, models / "checkpoints" / "takes.pt")
    base = {key: value for key, value in weights.items() if "video_inject_" not in key}
    save_as_deepspeed(base, models / "checkpoints" / "takes_base.pt")
    return pack.nodes.page.adapter_route.taken_by


@pytest.mark.parametrize(
    "asked, expected",
    [
        # 16 latent frames of a VAE that takes 4n + 1 frames
        ({"adapter": "takes.safetensors"}, {"frames": 61, "width": 64, "height": 48}),
        ({"adapter": "odd.safetensors"}, {"frames": 61}),
        ({"checkpoint": "takes.pt"}, {"frames": 16, "width": 64, "height": 64}),
        ({"checkpoint": "Pixel Actions (comes with EchoReel)"}, {"frames": 16, "width": 32, "height": 32}),
    ],
)
def test_frames_and_size_are_the_adapters(told, asked, expected):
    assert told(asked) == expected


@pytest.mark.parametrize(
    "asked",
    [
        {"adapter": "damaged.safetensors"},
        {"adapter": "../../secret.safetensors"},
        {"adapter": "gone.safetensors"},
        {"checkpoint": "takes_base.pt"},
        {},
    ],
)
def test_nothing_is_told_where_there_is_no_adapter(told, asked):
    assert told(asked) == {}
