"""Rows of a call take the half of their role and the part of the mask and the action that they see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from conditioning import noise, prompt, sample

FRAMES, HEIGHT, WIDTH = 4, 8, 12
LATENTS = torch.zeros(1, 16, FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def model(pack):
    return tiny_models.wan()


@pytest.fixture(scope="module")
def echoreel(pack, tmp_path_factory):
    import adapters

    return adapters.wan_adapter(tmp_path_factory.mktemp("adapter") / "wan.safetensors")


@pytest.fixture(scope="module")
def action(echoreel):
    import adapters

    return adapters.random_action(echoreel)


def apply(model, echoreel, action, **control):
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.sampling.control import Control

    return apply_action(model, echoreel, action, 1.0, control=Control(**control))


def run(model, positive=None, negative=None, **options):
    return sample(model, LATENTS, positive or prompt(4096), negative or prompt(4096, seed=2), **{"steps": 2, **options})


def area(size, start, **options):
    """A prompt for a part of the latents: (frames, height, width) in their units."""
    return prompt(4096, area=(*size, *start), strength=1.0, set_area_to_bounds=False, **options)


def cut(model, how):
    """Another pack that hands the batch on in parts."""
    model = model.clone()
    model.set_model_unet_function_wrapper(how)
    return model


def one_by_one(apply_model, args):
    """Each half on its own, its `cond_or_uncond` as it was."""
    x, t, c = args["input"], args["timestep"], args["c"]
    halves = []
    for i in range(len(x)):
        part = {key: value[i : i + 1] if torch.is_tensor(value) else value for key, value in c.items()}
        halves.append(apply_model(x[i : i + 1], t[i : i + 1], **part))
    return torch.cat(halves)


def shortened(apply_model, args):
    """Each half on its own, its `cond_or_uncond` without `uuids` that fit."""
    x, t, c = args["input"], args["timestep"], args["c"]
    halves = []
    for i, which in enumerate(args["cond_or_uncond"]):
        part = {key: value[i : i + 1] if torch.is_tensor(value) else value for key, value in c.items()}
        part["transformer_options"] = {**c["transformer_options"], "cond_or_uncond": [which]}
        halves.append(apply_model(x[i : i + 1], t[i : i + 1], **part))
    return torch.cat(halves)


def reordered(apply_model, args):
    """Both halves in the other order."""
    x, t, c = args["input"], args["timestep"], args["c"]
    flipped = {key: value.flip(0) if torch.is_tensor(value) else value for key, value in c.items()}
    options = c["transformer_options"]
    flipped["transformer_options"] = {
        **options,
        "cond_or_uncond": options["cond_or_uncond"][::-1],
        "uuids": options["uuids"][::-1],
    }
    return apply_model(x.flip(0), t.flip(0), **flipped).flip(0)


@pytest.mark.parametrize("how", [one_by_one, shortened, reordered], ids=lambda how: how.__name__)
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_batch_that_is_cut_is_the_same(model, echoreel, action, how, order):
    expected = run(apply(model, echoreel, action))
    if order == "before":
        patched = apply(cut(model, how), echoreel, action)
    else:
        patched = cut(apply(model, echoreel, action), how)
    torch.testing.assert_close(run(patched), expected, rtol=1e-3, atol=1e-4)


def tiled(at_once):
    """The picture in a left and a right half."""

    def call(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        tiles = x.chunk(2, dim=-1)
        if not at_once:
            return torch.cat([apply_model(tile.contiguous(), t, **c) for tile in tiles], dim=-1)
        twice = {key: torch.cat([value] * 2) if torch.is_tensor(value) else value for key, value in c.items()}
        return torch.cat(apply_model(torch.cat(tiles), torch.cat([t] * 2), **twice).chunk(2), dim=-1)

    return call


@pytest.mark.parametrize("masked", [False, True])
def test_tiles_in_one_call_are_as_tiles_in_many(model, echoreel, action, masked):
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[..., : WIDTH // 2] = 1
    control = {"mask": mask} if masked else {}
    together, apart = (run(cut(apply(model, echoreel, action, **control), tiled(at_once))) for at_once in (True, False))
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-4)
    if masked:  # black over the whole right tile: there it is the plain model
        plain = run(cut(model, tiled(False)), steps=1)
        one = run(cut(apply(model, echoreel, action, **control), tiled(True)), steps=1)
        torch.testing.assert_close(one[..., WIDTH // 2 :], plain[..., WIDTH // 2 :], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(one[..., : WIDTH // 2], plain[..., : WIDTH // 2], atol=1e-3)


class TestAreas:
    def test_an_area_over_everything_changes_nothing(self, model, echoreel, action):
        everything = area((FRAMES, HEIGHT, WIDTH), (0, 0, 0))
        for control in ({}, {"mask": torch.rand(1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))}):
            patched = apply(model, echoreel, action, **control)
            torch.testing.assert_close(run(patched, everything), run(patched), rtol=1e-3, atol=1e-4)

    def test_the_role_is_the_lists(self, model, echoreel, action):
        """The host copies a prompt with an area into the other list; the copy is negative there."""
        reference = action.references[0]
        positive_only = replace(action, groups=((replace(reference, negative=reference.positive),),))
        same = replace(action, groups=((replace(reference, positive=reference.negative),),))
        part = area((FRAMES, HEIGHT, WIDTH // 2), (0, 0, 0))
        both = part + prompt(4096, seed=3)
        roles = []
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        layers = ActionPatch._layers

        def spy(self, model, state, call, frames):
            roles.append(call.chunks)
            return layers(self, model, state, call, frames)

        ActionPatch._layers = spy
        try:
            results = [run(apply(model, echoreel, each), both) for each in (action, positive_only, same)]
        finally:
            ActionPatch._layers = layers
        assert {chunk.role for chunks in roles for chunk in chunks} == {"positive", "negative"}
        in_area = [chunk for chunk in sum(roles, ()) if chunk.place is not None]
        assert {chunk.role for chunk in in_area} == {"positive", "negative"}
        assert not torch.allclose(results[0], results[1], atol=1e-3)

    def test_the_mask_is_the_pictures(self, model, echoreel, action):
        """White over the left half only: a prompt for the right half is the plain model's."""
        mask = torch.zeros(1, HEIGHT, WIDTH)
        mask[..., : WIDTH // 2] = 1
        patched = apply(model, echoreel, action, mask=mask)
        right = area((FRAMES, HEIGHT, WIDTH // 2), (0, 0, WIDTH // 2))
        options = {"cfg": 1.0, "steps": 1}
        torch.testing.assert_close(run(patched, right, **options), run(model, right, **options), rtol=1e-4, atol=1e-5)
        left = area((FRAMES, HEIGHT, WIDTH // 2), (0, 0, 0))
        whole = run(apply(model, echoreel, action), left, **options)
        torch.testing.assert_close(run(patched, left, **options), whole, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(whole, run(model, left, **options), atol=1e-3)

    def test_frames_are_the_clips(self, model, echoreel, action):
        """Two prompts for a half of the time each, in one batch: each is at its own frames of the action."""
        halves = [area((2, HEIGHT, WIDTH), (start, 0, 0)) for start in (0, 2)]
        asked = []
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        context = ActionPatch._context

        def spy(self, call, rows):
            asked.append((call.frames[0].at, call.frames[0].total))
            return context(self, call, rows)

        ActionPatch._context = spy
        try:
            together = run(apply(model, echoreel, action), halves[0] + halves[1], cfg=1.0, steps=1)
            alone = [run(apply(model, echoreel, action), half, cfg=1.0, steps=1) for half in halves]
        finally:
            ActionPatch._context = context
        assert set(asked) == {((0.0, 1.0), 4), ((2.0, 3.0), 4)}
        torch.testing.assert_close(together[:, :, :2], alone[0][:, :, :2], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(together[:, :, 2:], alone[1][:, :, 2:], rtol=1e-3, atol=1e-4)


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
