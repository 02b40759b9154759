"""How clips get noise, what the model must predict, and how much each noise level counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .trainable import NoiseLevel, Prediction

Weighting = Literal["none", "clean", "velocity", "min-snr"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)

Spread = Literal["uniform", "logit-normal"]

GOLDEN = 0.6180339887498949


def seed_of(*parts: object) -> int:
    """A 32-bit seed that depends on all parts; torch's CPU generator takes no more."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "little")


@dataclass(frozen=True)
class NoiseLevels:
    """Which noise levels u training draws, on top of how the model's own `noise_level` spreads them.

    Attributes:
        spread: "uniform", or "logit-normal": the middle more often (Esser et al. 2024, section 3.1, m = 0, s = 1).
        bias: the noisy end more often: u^(1 / (1 + bias)), of density (1 + bias) · u^bias where the spread is uniform.
        shift: the same as flow models do it, shift · u / (1 + (shift - 1) · u) (Esser et al. 2024, equation 23); it
            multiplies the model's own shift. 1 is none.
    """

    spread: Spread = "uniform"
    bias: float = 0.0
    shift: float = 1.0

    def of(self, u: Tensor) -> Tensor:
        """Levels for even draws u in [0, 1)."""
        u = u ** (1 / (1 + self.bias))
        if self.spread == "logit-normal":
            u = torch.special.ndtri(u).sigmoid()
        return self.shift * u / (1 + (self.shift - 1) * u)


def drawn_level(seed: int, sample: int, levels: NoiseLevels) -> Tensor:
    """The noise level u of the sample of this running number, a scalar in float64.

    The levels run through [0, 1) in steps of the golden ratio, which spreads those of any few consecutive samples
    evenly (low-discrepancy sampler, Kingma et al. 2021, appendix I).
    """
    start = seed_of(seed, "noise level") / 2**32
    return levels.of(torch.tensor((start + sample * GOLDEN) % 1.0, dtype=torch.float64))


@dataclass(frozen=True)
class Draws:
    """The random draws for the samples of a batch.

    Attributes:
        u: [B] noise levels, 0 (clean) to 1.
        noise: [B, C, T, H, W].
        drop_text, drop_reference: [B] booleans.
    """

    u: Tensor
    noise: Tensor
    drop_text: Tensor
    drop_reference: Tensor

    def of(self, rows: list[int]) -> Draws:
        """The draws of some of the samples."""
        return Draws(self.u[rows], self.noise[rows], self.drop_text[rows], self.drop_reference[rows])


def draw(
    seed: int,
    samples: Sequence[int],
    shape: Sequence[int],
    *,
    levels: NoiseLevels = NoiseLevels(),
    noise_offset: float = 0.0,
    text_dropout: float = 0.0,
    reference_dropout: float = 0.0,
) -> Draws:
    """Draws for the samples of these running numbers, each a function of (seed, number) alone.

    So nothing has to be stored to continue a run exactly, and neither the batch size, gradient accumulation nor the
    number of processes changes what is drawn. The noise levels are those of `drawn_level`.

    Args:
        shape: [C, T, H, W] of the latents.
        levels: which noise levels are drawn how often.
        noise_offset: standard deviation of what is added to all values of a channel alike
            (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
    """
    u, noise, chances = [], [], []
    for sample in samples:
        generator = torch.Generator().manual_seed(seed_of(seed, sample))
        # one by one: vectorised functions round otherwise at the ends of a batch
        u.append(drawn_level(seed, sample, levels))
        chances.append(torch.rand(2, generator=generator))
        noise.append(torch.randn(*shape, generator=generator))
        if noise_offset:
            per_channel = (shape[0], *[1] * (len(shape) - 1))
            noise[-1] += noise_offset * torch.randn(per_channel, generator=generator)
    chance = torch.stack(chances)
    return Draws(
        u=torch.stack(u),
        noise=torch.stack(noise),
        drop_text=chance[:, 0] < text_dropout,
        drop_reference=chance[:, 1] < reference_dropout,
    )


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).reshape(-1, *[1] * (like.dim() - 1))


def add_noise(latents: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """signal · latents + noise level · noise, each sample at its own level."""
    return _per_sample(level.signal, latents) * latents + _per_sample(level.noise, latents) * noise


def target(prediction: Prediction, latents: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """What the model must predict."""
    if prediction == "noise":
        return noise
    if prediction == "flow":
        return noise - latents
    return _per_sample(level.signal, latents) * noise - _per_sample(level.noise, latents) * latents


def prediction_of(prediction: Prediction, clean: Tensor, noisy: Tensor, level: NoiseLevel) -> Tensor:
    """The model's prediction behind the clean latents that it implies; what `target` gives for the true ones."""
    signal, noise = _per_sample(level.signal, noisy), _per_sample(level.noise, noisy)
    if prediction == "noise":
        return (noisy - signal * clean) / noise
    if prediction == "flow":
        return (noisy - clean) / noise
    return (signal * noisy - clean) / noise


def loss_weight(weighting: Weighting, prediction: Prediction, level: NoiseLevel, gamma: float = 5.0) -> Tensor:
    """Factor [B] on the model's own squared error, so that the loss is:

    - "none": that error as it is;
    - "clean": the error of the clean latents it implies (noise prediction: 1 / SNR);
    - "velocity": that of the velocity, (SNR + 1) times the clean latents' (Salimans & Ho 2022);
    - "min-snr": min(SNR, gamma) times the clean latents' (Hang et al. 2023).

    SNR = signal² / noise². An error in the clean latents shows in the model's own prediction SNR times (noise),
    SNR + 1 times (velocity) or 1 / noise² times (flow). Both sides are multiplied by noise² here, which leaves nothing
    to divide by zero at the clean end.
    """
    signal, noise = level.signal.square(), level.noise.square()
    if weighting == "none":
        return torch.ones_like(signal)
    wanted = {"clean": noise, "velocity": signal + noise, "min-snr": torch.minimum(signal, gamma * noise)}[weighting]
    own = {"noise": signal, "velocity": signal + noise, "flow": torch.ones_like(signal)}[prediction]
    return wanted / own
