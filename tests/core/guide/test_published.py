"""One guided step against the published loop, written with torch's own Adam and automatic differentiation."""

import pytest
import torch
import torch.nn.functional as F

from echoreel_core.guide.gradient import MotionLoss
from echoreel_core.guide.published import guided_step, regulated

SHAPE = (2, 4, 6, 3, 5)


def latents(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(x: torch.Tensor) -> torch.Tensor:
    """A velocity that depends on all of x, not on each value by itself."""
    return torch.sin(x) + 0.3 * x.roll(1, 2) - 0.2 * x.mean((3, 4), keepdim=True)


def loss(x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    def differences(x):
        pairs = (x[:, :, :, None] - x[:, :, None]).abs().flatten(2, 3)
        return torch.cat([pairs, (x[:, :, 1:] - x[:, :, :-1]).abs()], 2)

    return 20 * F.mse_loss(x, r) + 5 * F.mse_loss(differences(x), differences(r))


@pytest.mark.parametrize("sigma", [1.0, 0.96])
def test_a_step_is_the_published_one(sigma):
    start, reference = latents(0), latents(1)
    x = start if sigma == 1 else (1 - sigma) * latents(2) + sigma * start
    ours = guided_step(x, sigma, 0.9, start, model, reference, MotionLoss())

    moved = x.clone().requires_grad_(True)
    adam = torch.optim.Adam([moved], lr=0.003)
    for _ in range(3):
        with torch.no_grad():
            velocity = model(moved)
        adam.zero_grad()
        loss(moved - sigma * velocity, reference).backward()
        adam.step()
    moved = moved.detach()
    velocity = model(moved)
    if sigma < 1:
        mean = (moved - start) / (sigma - 1)
        for sample in range(SHAPE[0]):
            for channel in range(SHAPE[1]):
                v, u = velocity[sample, channel].flatten(), mean[sample, channel].flatten()
                along = torch.dot(v, u) / torch.dot(u, u) * u
                velocity[sample, channel] = (along + 0.1 * (v - along)).view(SHAPE[2:])
    theirs = moved + (0.9 - sigma) * velocity
    assert (theirs - (x + (0.9 - sigma) * model(x))).abs().max() > 1e-3
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_velocity_along_the_mean_stays_as_it_is():
    mean = latents(3)
    assert torch.allclose(regulated(2.5 * mean, mean), 2.5 * mean)
