import math

import pytest
import torch

from echoreel_core.guide.course import Course, Fade
from echoreel_core.guide.gradient import MotionLoss

SHAPE = (2, 4, 6, 3, 5)
SIGMAS = [1.0, 0.9, 0.75, 0.5, 0.2, 0.0]


def latents(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clean(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """A model of flow matching."""
    return x - sigma * (torch.sin(x) + 0.3 * x.roll(1, 2))


def course(**options) -> Course:
    settings = {"strength": 0.6, "fade": Fade(0.0, 0.6), "place": lambda sigma: 1 - sigma, "deviation": lambda _: 1.0}
    return Course(latents(1)[:1], MotionLoss(), **settings | options)


def euler(model, x, sigmas=SIGMAS, after=lambda x, clean, sigma, following: x):
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        predicted = model(x, sigma)
        x = x + (following - sigma) * (x - predicted) / sigma
        x = after(x, predicted, sigma, following)
    return x


def through(state: Course, sigmas=SIGMAS):
    """The model as a sampler meets it."""

    def model(x, sigma):
        predicted = clean(state.moved(x, sigma), sigma)
        state.observe(predicted, sigma)
        return predicted

    return model


def test_with_euler_it_is_a_move_after_the_step():
    state = course()

    def after(x, predicted, sigma, following):
        share = state.fade.share(1 - sigma, 1 - following)
        return x - 0.6 * share * MotionLoss().gradient(predicted, state.reference).sign()

    expected = euler(clean, latents(0), after=after)
    assert (expected - euler(clean, latents(0))).abs().max() > 0.1
    assert torch.allclose(euler(through(state), latents(0)), expected, rtol=1e-10, atol=1e-10)


def test_two_runs_one_after_the_other_are_one():
    whole = euler(through(course()), latents(0))
    first = course()
    x = euler(through(first), latents(0), SIGMAS[:3])
    second = course()
    halves = euler(through(second), x + first.rest(SIGMAS[2]), SIGMAS[2:])
    assert second.noise is not None
    assert torch.allclose(halves, whole, rtol=1e-10, atol=1e-10)
    assert first.rest(0.0) is None


def test_a_second_call_at_the_same_step_changes_nothing():
    once, twice = course(), course()
    for state, calls in ((once, 1), (twice, 2)):
        for _ in range(calls):
            through(state)(latents(0), 1.0)
        state.moved(latents(0), 0.9)
    assert torch.equal(once.noise, twice.noise)


def test_after_the_end_of_the_range_the_model_is_left_alone():
    state = course(fade=Fade(0.0, 0.3))
    model = through(state)
    for sigma in (0.65, 0.5, 0.2):
        assert torch.equal(model(latents(0), sigma), clean(latents(0), sigma))
    assert state.rest(0.2) is None


def test_only_the_region_moves():
    region = torch.zeros(1, 1, 1, 3, 5)
    region[..., 1, 2] = 1
    state = course(region=region)
    model = through(state)
    model(latents(0), 1.0)
    moved = state.moved(latents(0), 0.9) != latents(0)
    assert moved[..., 1, 2].all() and moved.sum() == moved[..., 1, 2].sum()


def test_a_single_step_never_makes_the_whole_move():
    state = course()
    through(state)(latents(0), 1.0)
    moved = state.moved(latents(0), 0.25) - latents(0)
    assert torch.allclose(moved.abs(), torch.full_like(moved, 0.6 * 0.6))


@pytest.mark.parametrize("steps", [4, 10, 50])
def test_the_strength_does_not_depend_on_the_number_of_steps(steps):
    fade = Fade(0.0, 0.5)
    places = [i / steps for i in range(steps + 1)]
    shares = [fade.share(a, b) for a, b in zip(places, places[1:], strict=False)]
    assert math.isclose(sum(shares), 1.0)
    assert all(later <= share + 1e-9 for share, later in zip(shares, shares[1:], strict=False))
    assert shares[0] > 0 and shares[-1] == 0
