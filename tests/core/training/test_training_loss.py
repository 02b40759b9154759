"""Noise levels, targets and weights of the training loss."""

from __future__ import annotations

import pytest
import torch

from echoreel_core.lvdm.ddim import alphas_cumprod
from echoreel_core.training.data.batches import pair_index
from echoreel_core.training.loss import WEIGHTINGS, NoiseLevels, add_noise, draw, loss_weight, prediction_of, target
from echoreel_core.training.trainable import NoiseLevel

SHAPE = (4, 2, 3, 3)


def level(prediction: str) -> NoiseLevel:
    """Levels from nearly clean to nearly pure noise; flow's signal and noise add up to 1, the others' squares do."""
    u = torch.tensor([0.02, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64)
    if prediction == "flow":
        return NoiseLevel(1 - u, u, u)
    return NoiseLevel((1 - u**2).sqrt(), u, u)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "flow"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_make_the_loss_what_they_say(prediction, weighting):
    clean, guess, noise = (torch.randn(5, *SHAPE, dtype=torch.float64) for _ in range(3))
    at = level(prediction)
    signal, sigma = (v.view(-1, 1, 1, 1, 1) for v in (at.signal, at.noise))
    noisy = add_noise(clean, noise, at)
    assert torch.equal(noisy, signal * clean + sigma * noise)
    implied_noise = (noisy - signal * guess) / sigma
    own = (
        (target(prediction, guess, implied_noise, at) - target(prediction, clean, noise, at))
        .square()
        .flatten(1)
        .mean(1)
    )
    of_clean = (guess - clean).square().flatten(1).mean(1)
    snr = (at.signal / at.noise).square()
    expected = {
        "none": own,
        "clean": of_clean,
        "velocity": (snr + 1) * of_clean,
        "min-snr": snr.clamp(max=3.0) * of_clean,
    }[weighting]
    torch.testing.assert_close(loss_weight(weighting, prediction, at, gamma=3.0) * own, expected)


def test_targets():
    clean, noise = torch.randn(1, *SHAPE), torch.randn(1, *SHAPE)
    at = NoiseLevel(torch.tensor([0.8]), torch.tensor([0.6]), torch.tensor([500]))
    assert target("noise", clean, noise, at) is noise
    torch.testing.assert_close(target("velocity", clean, noise, at), 0.8 * noise - 0.6 * clean)
    torch.testing.assert_close(target("flow", clean, noise, at), noise - clean)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "flow"])
def test_the_true_clean_latents_imply_the_target(prediction):
    clean, noise = (torch.randn(5, *SHAPE, dtype=torch.float64) for _ in range(2))
    at = level(prediction)
    implied = prediction_of(prediction, clean, add_noise(clean, noise, at), at)
    torch.testing.assert_close(implied, target(prediction, clean, noise, at))


def test_the_cleanest_level_of_flow_has_a_finite_weight():
    zero = NoiseLevel(torch.ones(1), torch.zeros(1), torch.zeros(1))
    assert [loss_weight(name, "flow", zero).item() for name in ("clean", "velocity", "min-snr")] == [0.0, 1.0, 0.0]


def test_draws_depend_on_the_sample_alone():
    whole = draw(7, range(10, 18), SHAPE, text_dropout=0.5, reference_dropout=0.5)
    parts = [draw(7, range(a, a + 4), SHAPE, text_dropout=0.5, reference_dropout=0.5) for a in (10, 14)]
    for name, values in vars(whole).items():
        assert torch.equal(values, torch.cat([getattr(part, name) for part in parts])), name
    other = draw(8, range(10, 18), SHAPE)
    assert not torch.equal(other.u, whole.u) and not torch.equal(other.noise, whole.noise)
    assert not torch.equal(whole.noise[0], whole.noise[1])
    assert not other.drop_text.any() and not other.drop_reference.any()


def test_draws_are_distributed_as_asked():
    drawn = draw(0, range(4000), (1,), text_dropout=0.1, reference_dropout=0.3)
    assert abs(drawn.noise.mean()) < 0.05 and abs(drawn.noise.std() - 1) < 0.05
    assert abs(drawn.drop_text.float().mean() - 0.1) < 0.02 and abs(drawn.drop_reference.float().mean() - 0.3) < 0.03
    for bias in (0.0, 1.0, 3.0):  # the share of u below x is x^(1 + bias)
        u = draw(0, range(500), (1,), levels=NoiseLevels(bias=bias)).u
        for x in (0.25, 0.5, 0.9):
            assert abs((u < x).double().mean() - x ** (1 + bias)) < 0.01
    four = draw(0, range(100, 104), (1,)).u.sort().values
    assert (four.diff() > 0.1).all()  # few samples are spread evenly already


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = [[pair_index(sample, 10, seed=3) for sample in range(start, start + 10)] for start in (0, 10)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    assert epochs[0] != [pair_index(sample, 10, seed=4) for sample in range(10)]


def test_lvdm_levels_are_the_schedules():
    from echoreel_core.training.lvdm.trainable import TrainableLVDM

    at = TrainableLVDM(torch.nn.Module()).noise_level(torch.tensor([0.0, 0.0015, 0.5, 1.0], dtype=torch.float64))
    assert at.time.tolist() == [0, 1, 500, 999]
    torch.testing.assert_close(at.signal.square(), alphas_cumprod()[[0, 1, 500, 999]])
    torch.testing.assert_close(at.signal.square() + at.noise.square(), torch.ones(4, dtype=torch.float64))
