"""The second base: its world, its captions, its optimizer and its sampler, each against what it must equal."""

from __future__ import annotations

import pytest
import torch

from echoreel_core.pixel_actions.actions import SEEN
from echoreel_core.pixel_actions.tracker import background_of, track, trajectory_correlation
from echoreel_core.pixel_actions.wan.captions import Captions
from echoreel_core.pixel_actions.wan.latents import FRAMES, MEAN, RESOLUTION, STD, seen, seen_frames
from echoreel_core.pixel_actions.wan.optimize import Optimizer, orthogonalised
from echoreel_core.pixel_actions.wan.sampling import euler
from echoreel_core.pixel_actions.wan.vae import WanVAE, standardise
from echoreel_core.pixel_actions.words import END_ROW, UNKNOWN, content_rows, ids
from echoreel_core.pixel_actions.world import backgrounds, draw_clips, render


@pytest.fixture(scope="module")
def clips():
    return draw_clips(40, 5, tuple(SEEN))


def test_larger_and_longer_clips_are_the_same_world(clips):
    some = clips[:12]
    small = torch.nn.functional.avg_pool2d(backgrounds(64), 2)
    assert torch.allclose(small, backgrounds(), atol=1e-6)
    pixels = render(some, RESOLUTION, FRAMES)
    assert pixels.shape == (12, FRAMES, 3, RESOLUTION, RESOLUTION)
    looked_at = seen(pixels)
    assert torch.equal(background_of(looked_at), some.background)
    truth = seen_frames(some.track(FRAMES))
    assert trajectory_correlation(track(looked_at, some.background), truth).nanmean() > 0.985
    ends = render(some)[:, [0, -1]]  # the first and the last frame are the same moment in both
    assert (looked_at[:, [0, -1]] - ends).abs().mean() < 0.01


def dropped(clips, **chances):
    captions = Captions(clips, "cpu", **{"empty": 0.0, "action": 0.0, "words": 0.0, **chances})
    torch.manual_seed(0)
    return captions.dropped(torch.arange(len(clips)))


def test_captions_whole_and_empty(clips):
    assert torch.equal(dropped(clips), ids(clips.captions()))
    assert torch.equal(dropped(clips, empty=1.0), ids([""] * len(clips)))


def test_a_withheld_action_is_one_to_five_unknown_words_in_its_place(clips):
    counts = set()
    for text, line in zip(clips.captions(), dropped(clips, action=1.0), strict=True):
        words, count = text.split(), int((line == UNKNOWN).sum())
        counts.add(count)
        expected = " ".join([*words[:4], *["?"] * count, *words[-4:]])
        assert torch.equal(line, ids([expected])[0])
    assert counts == {1, 2, 3, 4, 5}


def test_withheld_words_are_those_that_mean_something(clips):
    whole, given = ids(clips.captions()), dropped(clips, words=1.0)
    means = torch.isin(whole, torch.tensor(sorted(content_rows())))
    assert torch.equal(given[~means], whole[~means])
    lost = given[means] == UNKNOWN
    assert 0.2 < lost.float().mean() < 0.4
    assert torch.equal(given[means][~lost], whole[means][~lost])
    assert (whole == END_ROW).any()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)).float())
    assert values.min() > 0.3 and values.max() < 1.4


def test_optimizer_takes_the_steps_of_the_librarys_muon():
    torch.manual_seed(0)
    ours = torch.nn.Linear(12, 8, bias=False)
    theirs = torch.nn.Linear(12, 8, bias=False)
    theirs.load_state_dict(ours.state_dict())
    start, bias = ours.weight.detach().clone(), torch.nn.Parameter(torch.zeros(3))
    one = Optimizer([("weight", ours.weight), ("bias", bias)], 1e-2, plain=())
    one.factor.fill_(1.0)
    other = torch.optim.Muon(theirs.parameters(), 1e-2, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = 0.05 * torch.randn(8, 12)  # too short to be clipped
        one.step([gradient.clone(), torch.zeros(3)])
        theirs.weight.grad = gradient.clone()
        other.step()
    moved, expected = ours.weight - start, theirs.weight - start
    assert (moved - expected).norm() < 0.02 * expected.norm()  # bfloat16 in another order


def test_standardised_latents_show_the_same_pixels():
    torch.manual_seed(0)
    vae = WanVAE(8).requires_grad_(False)
    pixels = torch.rand(4, 3, 5, 16, 16) * 2 - 1
    before, shown = vae.encode(pixels), vae.decode(vae.encode(pixels))
    flat = before.transpose(0, 1).flatten(1)
    standardise(vae, flat.mean(1), flat.std(1), MEAN, STD)
    after = vae.encode(pixels)
    flat = after.transpose(0, 1).flatten(1)
    assert torch.allclose(flat.mean(1), MEAN, atol=1e-3) and torch.allclose(flat.std(1), STD, atol=1e-3)
    assert torch.allclose(vae.decode(after), shown, atol=1e-4)


def test_euler_follows_a_straight_flow_exactly():
    clean, noise = torch.randn(2, 16, 9, 8, 8), torch.randn(2, 16, 9, 8, 8)
    for steps, shift in ((1, 3.0), (4, 8.0)):
        assert torch.allclose(euler(lambda x, level: noise - clean, noise, steps, shift), clean, atol=1e-5)
