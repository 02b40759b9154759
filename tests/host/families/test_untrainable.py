"""Models that an action can be applied to, but that nobody can train an adapter on, are refused in one sentence."""

from types import SimpleNamespace

import comfy.model_base
import pytest


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("svd", "SV3D_u", "circles around an object"),
        ("svd", "SV3D_p", "circles around an object"),
        ("hunyuan_video", "HunyuanVideo15_SR_Distilled", "upscales a video"),
    ],
)
def test_what_makes_no_video(pack, family, name, reason):
    from echoreel_pack.nodes.families import family_named

    cls = getattr(comfy.model_base, name)
    with pytest.raises(ValueError, match=f"The model {name} {reason} and adds no motion: train on"):
        family_named(family).check_trainable(cls.__new__(cls))
    parent = cls.__mro__[1]
    family_named(family).check_trainable(parent.__new__(parent))


@pytest.mark.parametrize(("channels", "refused"), [(16, False), (32, False), (48, True)])
def test_inpainting(pack, channels, refused):
    """By its channels: the latents, those of a start image, and those of a mask and what is under it."""
    from echoreel_pack.nodes.families import family_named

    base = SimpleNamespace(
        diffusion_model=SimpleNamespace(in_channels=channels), latent_format=SimpleNamespace(latent_channels=16)
    )
    if not refused:
        family_named("cogvideox").check_trainable(base)
        return
    with pytest.raises(ValueError, match="CogVideoX for inpainting"):
        family_named("cogvideox").check_trainable(base)
