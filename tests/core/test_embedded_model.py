"""The files that are shipped: the embedded model follows actions it never saw, and the judge knows them."""

from __future__ import annotations

import json

import pytest
import torch

from echoreel_core.embedded_files import EMBEDDED_FILE
from echoreel_core.pixel_actions.acting import generate, noise_for
from echoreel_core.pixel_actions.actions import UNSEEN
from echoreel_core.pixel_actions.evaluate import balanced
from echoreel_core.pixel_actions.export import load_embedded
from echoreel_core.pixel_actions.judge import load_judge
from echoreel_core.pixel_actions.latents import decode, encode
from echoreel_core.pixel_actions.tracker import background_of, colour_of, track, trajectory_correlation
from echoreel_core.pixel_actions.world import recast, render

FOLDER = EMBEDDED_FILE.parent


@pytest.fixture(scope="module")
def clips():
    return balanced(tuple(UNSEEN), 16, seed=31)


@pytest.fixture(scope="module")
def embedded():
    return load_embedded(EMBEDDED_FILE)


def test_it_is_small():
    assert EMBEDDED_FILE.stat().st_size <= 20e6


def test_all_of_it_is_in_half_precision_and_finite():
    from safetensors import safe_open

    with safe_open(EMBEDDED_FILE, "pt") as file:
        for key in file.keys():
            tensor = file.get_tensor(key)
            assert tensor.dtype == torch.float16 and tensor.isfinite().all(), key


def test_it_follows_the_reference_and_only_with_it(embedded, clips):
    """Two clips of each unseen action: the path is the reference's, figure and place are the prompt's."""
    model, autoencoder = embedded
    reference = encode(autoencoder, render(recast(clips, 32)))
    captions = recast(clips, 32).captions()
    found = {}
    for name, references in (("with", [(reference, captions)]), ("without", [])):
        latents = generate(model, clips.captions(), noise_for(16, 33), *references, steps=10, dtype=torch.float32)
        pixels = decode(autoencoder, latents)
        background = background_of(pixels)
        path = trajectory_correlation(track(pixels, background), clips.track()).nanmean()
        colour = (colour_of(pixels, background) == clips.colour).float().mean()
        found[name] = path.item(), colour.item(), (background == clips.background).float().mean().item()
    assert found["with"][0] > 0.8 > 0.4 > abs(found["without"][0]), found
    assert min(*found["with"][1:], *found["without"][1:]) > 0.8, found


def test_the_judge_knows_the_unseen_actions(clips):
    clips = balanced(tuple(UNSEEN), 160, seed=34)
    action, _ = load_judge(FOLDER / "judge.safetensors")(render(clips))
    assert (action.argmax(1) == clips.action).float().mean() >= 0.97


def test_results_are_of_all_arms_with_their_intervals():
    results = json.loads((FOLDER / "results.json").read_text())
    assert {f"unseen/{arm}" for arm in ("real", "base", "echoreel", "wrong", "still", "shuffled")} <= results.keys()
    for cell in results.values():
        for name, value in cell.items():
            if name != "clips":
                mean, low, high = value
                assert low <= mean <= high, name
