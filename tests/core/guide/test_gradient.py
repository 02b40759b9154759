"""The closed form against automatic differentiation of the published loss, in float64."""

import pytest
import torch
import torch.nn.functional as F

from echoreel_core.guide.gradient import MotionLoss, moving_region


def latents(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def differences(x: torch.Tensor) -> torch.Tensor:
    """|x_i − x_j| for all pairs of frames, and for neighbours once more."""
    pairs = (x[:, :, :, None] - x[:, :, None]).abs().flatten(2, 3)
    return torch.cat([pairs, (x[:, :, 1:] - x[:, :, :-1]).abs()], 2)


def published_loss(x: torch.Tensor, r: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    return alpha * F.mse_loss(x, r) + beta * F.mse_loss(differences(x), differences(r))


def by_autograd(loss, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(x), x)
    return gradient * x.numel()


@pytest.mark.parametrize("frames", [2, 5, 16])
@pytest.mark.parametrize(("alpha", "beta"), [(20.0, 5.0), (20.0, 0.0), (0.0, 5.0)])
def test_it_is_the_gradient_of_the_published_loss(frames, alpha, beta):
    x, r = latents(2, 4, frames, 3, 5, seed=0), latents(2, 4, frames, 3, 5, seed=1)
    ours = MotionLoss(place=alpha, change=beta).gradient(x, r)
    assert torch.allclose(ours, by_autograd(lambda x: published_loss(x, r, alpha, beta), x), rtol=1e-12, atol=1e-12)


def test_all_pairs_alone():
    x, r = latents(1, 4, 6, 3, 5, seed=2), latents(1, 4, 6, 3, 5, seed=3)

    def pairs(x):
        return (x[:, :, :, None] - x[:, :, None]).abs()

    ours = MotionLoss(place=0.0, change=1.0, neighbours=False).gradient(x, r)
    assert torch.allclose(ours, by_autograd(lambda x: F.mse_loss(pairs(x), pairs(r)), x), rtol=1e-12, atol=1e-12)


def test_without_the_mean_over_time_it_is_the_gradient_of_what_is_left():
    x, r = latents(1, 4, 6, 3, 5, seed=4), latents(1, 4, 6, 3, 5, seed=5)

    def changes(x):
        return x - x.mean(2, keepdim=True)

    loss = MotionLoss(place=3.0, change=0.0, keeps_mean=False)
    ours = loss.gradient(x, r)
    assert torch.allclose(ours, by_autograd(lambda x: 3 * F.mse_loss(changes(x), changes(r)), x), rtol=1e-12)
    assert torch.allclose(loss.gradient(x, r + latents(1, 4, 1, 3, 5, seed=6)), ours)


def test_one_reference_serves_a_batch():
    x, r = latents(3, 4, 6, 3, 5, seed=7), latents(1, 4, 6, 3, 5, seed=8)
    whole = MotionLoss().gradient(x, r)
    for row in range(3):
        assert torch.equal(whole[row : row + 1], MotionLoss().gradient(x[row : row + 1], r))


def test_the_region_is_where_something_is_that_moves():
    r = latents(1, 4, 1, 6, 6, seed=9).repeat(1, 1, 8, 1, 1)
    assert not moving_region(r).any()
    assert not moving_region(r[:, :, :1].expand(-1, -1, 8, -1, -1)).any()
    r[:, :, 3, 2, 4] += 2.0
    region = moving_region(r)
    assert region.shape == (1, 1, 8, 6, 6)
    assert region[0, 0, 3, 2, 4] == 1 and region.sum() == 1
