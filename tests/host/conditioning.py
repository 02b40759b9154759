"""Prompts, latents and sampling runs for the host tests."""

from __future__ import annotations

from contextlib import contextmanager

import comfy.sample
import comfy.samplers
import torch


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal noise that depends on nothing but its shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt(width: int, tokens: int = 5, seed: int = 1, **options) -> list:
    """A conditioning of random text tokens."""
    return [[noise(1, tokens, width, seed=seed), options]]


def sample(model, latents, positive, negative, *, cfg=3.0, steps=2, seed=0, sampler="euler", scheduler="simple"):
    """The host's KSampler; returns the denoised latents."""
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latents, seed),
        steps,
        cfg,
        sampler,
        scheduler,
        positive,
        negative,
        latents,
        disable_pbar=True,
        seed=seed,
    )


def hooks_in(model) -> int:
    """How many forward hooks the model's modules carry."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


@contextmanager
def untouched(model):
    """Asserts that a MODEL, its weights and its options are the same after the block, and that no hook is left."""

    def wrappers():
        return {kind: {key: list(found) for key, found in by_key.items()} for kind, by_key in model.wrappers.items()}

    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    wrappers_before, options_before, hooks_before = wrappers(), repr(model.model_options), hooks_in(model)
    try:
        yield
    finally:
        after = model.model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        assert wrappers() == wrappers_before
        assert repr(model.model_options) == options_before
        assert hooks_in(model) == hooks_before
