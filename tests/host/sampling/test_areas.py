"""Prompts for a part of the picture or of the time, alone and in context windows."""

from __future__ import annotations

from dataclasses import replace

import comfy.context_windows
import pytest
import torch
from conditioning import noise, prompt, sample

FRAMES, HEIGHT, WIDTH = 6, 8, 12
LATENTS = torch.zeros(1, 16, FRAMES, HEIGHT, WIDTH)
LEFT, RIGHT = (8, 6, 0, 0), (8, 6, 0, 6)


def apply(model, echoreel, action, **control):
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.sampling.control import Control

    return apply_action(model, echoreel, action, 1.0, control=Control(**control))


def run(model, positive=None, negative=None, **options):
    return sample(model, LATENTS, positive or prompt(4096), negative or prompt(4096, seed=2), **{"steps": 1, **options})


def area(*numbers, seed=1, **options):
    """A prompt for a part of the latents: sizes, then starts, in their units."""
    return prompt(4096, seed=seed, area=numbers, strength=1.0, set_area_to_bounds=False, **options)


def windowed(model, length=4, overlap=2, anchor=False, **options):
    """The host's context windows."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode as Node

    schedule, fuse = comfy.context_windows.ContextSchedules, comfy.context_windows.ContextFuseMethods
    order = (length, overlap, schedule.STATIC_STANDARD, 1, False, fuse.PYRAMID, 2, False)
    return Node.execute(model, *order, causal_window_fix=anchor, **options).result[0]


def whole(model):
    return model


@pytest.fixture(params=[whole, windowed], ids=lambda how: how.__name__)
def seen_as(request):
    """How the model sees the clip."""
    return request.param


@pytest.fixture
def spans(monkeypatch):
    """The frames of the clip that each set of rows was made ready for."""
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    found, context = [], ActionPatch._context

    def spy(self, call, rows):
        found.append((call.frames[0].at, call.frames[0].total))
        return context(self, call, rows)

    monkeypatch.setattr(ActionPatch, "_context", spy)
    return found


def left_half(count=1):
    mask = torch.zeros(count, HEIGHT, WIDTH)
    mask[..., : WIDTH // 2] = 1
    return mask


def test_an_area_over_everything_changes_nothing(model, echoreel, action, seen_as):
    for control in ({}, {"mask": noise(2, HEIGHT, WIDTH).sigmoid()}):
        patched = seen_as(apply(model, echoreel, action, **control))
        torch.testing.assert_close(run(patched, area(8, 12, 0, 0)), run(patched), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("split", [False, True])
def test_the_copy_of_an_area_takes_the_half_of_the_list_that_it_is_copied_into(model, echoreel, action, split):
    """The host copies prompts with an area into the other list, and may then give each window one of them only."""
    reference = action.references[0]
    other = noise(*reference.positive.shape, seed=9)
    halves = {
        role: replace(action, groups=((replace(reference, **{role: other}),),)) for role in ("positive", "negative")
    }
    prompts = area(*LEFT) + area(*RIGHT, seed=3) + prompt(4096, seed=4)

    def outcome(action, cfg):
        patched = apply(model, echoreel, action)
        return run(windowed(patched, split_conds_to_windows=split) if split else patched, prompts, cfg=cfg)

    for cfg, used, unused in [(1.0, "positive", "negative"), (0.0, "negative", "positive")]:
        expected = outcome(action, cfg)
        assert torch.equal(outcome(halves[unused], cfg), expected)
        assert not torch.allclose(outcome(halves[used], cfg), expected, atol=1e-3)


def test_the_mask_is_the_pictures(model, echoreel, action, seen_as):
    """White over the left half only: a prompt for the right half is the plain model's."""
    masked, unmasked = (seen_as(apply(model, echoreel, action, **control)) for control in ({"mask": left_half()}, {}))
    plain = seen_as(model)
    for prompts, expected in [(area(*RIGHT), plain), (area(*LEFT), unmasked)]:
        outcome = run(masked, prompts, cfg=1.0)
        torch.testing.assert_close(outcome, run(expected, prompts, cfg=1.0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(run(unmasked, area(*LEFT), cfg=1.0), run(plain, area(*LEFT), cfg=1.0), atol=1e-3)


def test_several_areas_are_each_alone(model, echoreel, action, seen_as):
    """Side by side in one batch, under a mask that changes over the clip."""
    patched = seen_as(apply(model, echoreel, action, mask=noise(FRAMES, HEIGHT, WIDTH).sigmoid(), clip_length=2.0))
    together = run(patched, area(*LEFT) + area(*RIGHT, seed=3), cfg=1.0)
    for columns, alone in [(slice(0, 6), area(*LEFT)), (slice(6, 12), area(*RIGHT, seed=3))]:
        torch.testing.assert_close(
            together[..., columns], run(patched, alone, cfg=1.0)[..., columns], rtol=1e-3, atol=1e-4
        )


def test_frames_are_the_clips(model, echoreel, action, spans):
    """Two prompts for a half of the time each, in one batch: each is at its own frames of the action."""
    halves = [area(3, 8, 12, start, 0, 0) for start in (0, 3)]
    together = run(apply(model, echoreel, action), halves[0] + halves[1], cfg=1.0)
    alone = [run(apply(model, echoreel, action), half, cfg=1.0) for half in halves]
    assert set(spans) == {((0.0, 1.0, 2.0), 6), ((3.0, 4.0, 5.0), 6)}
    torch.testing.assert_close(together[:, :, :3], alone[0][:, :, :3], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together[:, :, 3:], alone[1][:, :, 3:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("anchor", [False, True])
def test_a_time_in_a_window_is_at_the_windows_frames(model, echoreel, action, spans, anchor):
    """The host counts an area's frames from each window's first."""
    patched = windowed(apply(model, echoreel, action), anchor=anchor)
    run(patched, area(2, 8, 6, 1, 0, 6) + prompt(4096, seed=3), cfg=1.0)
    later = ((2.0, 3.0), (1.0, 2.0, 3.0, 4.0, 5.0)) if anchor else ((3.0, 4.0), (2.0, 3.0, 4.0, 5.0))
    assert {at for at, _ in spans} == {(1.0, 2.0), (0.0, 1.0, 2.0, 3.0), *later}
    assert {total for _, total in spans} == {FRAMES}
