"""Rows of a call take the half of their role and the part of the mask and the action that they see."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from conditioning import noise, prompt, sample
from cutting import cut, one_by_one, reordered, shortened, tiles_apart, tiles_at_once
from tiny_families import Tiny, build, from_config

FRAMES, HEIGHT, WIDTH = 4, 8, 12
LATENTS = torch.zeros(1, 16, FRAMES, HEIGHT, WIDTH)

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "context_dim": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
"""Stable Diffusion 1.5, which AnimateDiff animates."""


@pytest.fixture(scope="module", params=["svd", "animatediff", "lvdm"])
def frames_in_batch(pack, folders, tmp_path_factory, request):
    """How a family whose frames lie in the batch is sampled: MODEL → latents; the MODEL with an action, and without."""
    import adapters
    from echoreel_pack.nodes.families import find_family
    from echoreel_pack.nodes.load_echoreel import EMBEDDED, LoadCheckpoint

    width = 64
    if request.param == "lvdm":
        model, _, _, echoreel = LoadCheckpoint.execute(EMBEDDED).result
        width = 48
    else:
        animatediff = Tiny("animatediff", from_config("SD15", UNET), torch.zeros(1), {}, channels=4)
        tiny = build("svd") if request.param == "svd" else animatediff
        model, unet = tiny.model, tiny.model.model.diffusion_model
        path = tmp_path_factory.mktemp("adapter") / f"{request.param}.safetensors"
        echoreel = adapters.adapter_for(path, tiny, find_family(unet).sites(unet))
    patched = apply(model, echoreel, adapters.random_action(echoreel), mask=noise(FRAMES, 8, 8).sigmoid())
    positive = prompt(width, area=(8, 4, 0, 4), strength=1.0) + prompt(width, tokens=6, seed=3)
    prompts = positive, prompt(width, tokens=4, seed=2)
    return lambda model: sample(model, torch.zeros(FRAMES, 4, 8, 8), *prompts, steps=1), patched, model


def apply(model, echoreel, action, **control):
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.sampling.control import Control

    return apply_action(model, echoreel, action, 1.0, control=Control(**control))


def run(model, positive=None, negative=None, **options):
    return sample(model, LATENTS, positive or prompt(4096), negative or prompt(4096, seed=2), **{"steps": 2, **options})


@pytest.mark.parametrize("how", [one_by_one, shortened, reordered], ids=lambda how: how.__name__)
@pytest.mark.parametrize("areas", [False, True])
def test_a_batch_that_is_cut_is_the_same(model, echoreel, action, how, areas):
    """Also where areas of one size have one text, as those that the host copies into the negative list have."""
    sides = [prompt(4096, area=(8, 6, 0, left), strength=1.0, set_area_to_bounds=False) for left in (0, 6)]
    patched = apply(model, echoreel, action, mask=noise(2, HEIGHT, WIDTH).sigmoid())
    prompts = {"positive": sides[0] + sides[1]} if areas else {}
    torch.testing.assert_close(run(cut(patched, how), **prompts), run(patched, **prompts), rtol=1e-3, atol=1e-4)


def test_a_batch_of_frames_that_is_cut_is_the_same(frames_in_batch):
    outcome, patched, plain = frames_in_batch
    expected = outcome(patched)
    assert not torch.allclose(outcome(plain), expected, atol=1e-3)
    for how in (one_by_one, shortened, reordered):
        assert (outcome(cut(patched, how)) - expected).norm() < 1e-5 * expected.norm(), how.__name__


@pytest.mark.parametrize("masked", [False, True])
def test_tiles_in_one_call_are_as_tiles_in_many(model, echoreel, action, masked):
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[..., : WIDTH // 2] = 1
    control = {"mask": mask} if masked else {}
    together, apart = (run(cut(apply(model, echoreel, action, **control), way)) for way in (tiles_at_once, tiles_apart))
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-4)
    if masked:  # black over the whole right tile: there it is the plain model
        plain = run(cut(model, tiles_apart), steps=1)
        one = run(cut(apply(model, echoreel, action, **control), tiles_at_once), steps=1)
        torch.testing.assert_close(one[..., WIDTH // 2 :], plain[..., WIDTH // 2 :], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(one[..., : WIDTH // 2], plain[..., : WIDTH // 2], atol=1e-3)


def test_a_smaller_second_model_is_refused_in_a_sentence(model, echoreel, action):
    from echoreel_pack.nodes.sampling.patch import CallState, RunState

    patch = apply(model, echoreel, action).wrappers["apply_model"]
    ((found,),) = patch.values()
    small = tiny_models.wan(layers=1)
    with (
        pytest.raises(ValueError, match="no blocks.1"),
        found.__self__._hooked(small.model, RunState(), CallState(1.0)),
    ):
        pass


def test_prompts_in_batches_of_unlike_size(echoreel):
    from echoreel_pack.echoreel_core.action.action import Reference

    width = echoreel.config.prism.action_dim
    one, two, three = (noise(count, 4, width) for count in (1, 2, 3))
    assert Reference(two, one).negative.shape == two.shape
    with pytest.raises(ValueError, match="batch of 2, the negative one of 3"):
        Reference(two, three)
