"""The files that are shipped: the embedded model follows actions it never saw, and the judge knows them all."""

from __future__ import annotations

import json

import pytest
import torch

from echoreel_core.pixel_actions.evaluation.guided import CELLS
from echoreel_core.pixel_actions.evaluation.judge import load_judge
from echoreel_core.pixel_actions.evaluation.table import ARMS, balanced
from echoreel_core.pixel_actions.evaluation.tracker import background_of, colour_of, track, trajectory_correlation
from echoreel_core.pixel_actions.model.adapted_model import generate, noise_for
from echoreel_core.pixel_actions.model.embedded import load_embedded
from echoreel_core.pixel_actions.model.files import EMBEDDED_FILE
from echoreel_core.pixel_actions.model.latents import decode, encode
from echoreel_core.pixel_actions.world.actions import NAMES, UNSEEN
from echoreel_core.pixel_actions.world.clips import render, with_other_subject

FOLDER = EMBEDDED_FILE.parents[1]


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
    reference = encode(autoencoder, render(with_other_subject(clips, 32)))
    captions = with_other_subject(clips, 32).captions()
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


def test_the_judge_knows_every_action():
    judge, clips = load_judge(FOLDER / "evaluation" / "judge.safetensors"), balanced(NAMES, 480, seed=34)
    named = torch.cat([judge(render(clips[rows]))[0].argmax(1) for rows in torch.arange(480).split(48)])
    assert (named == clips.action).float().mean() >= 0.97


def test_without_a_reference_it_is_the_base_model_bit_for_bit(embedded, clips):
    """A base model that no adapter was added to, against one that has just followed a reference."""
    model, autoencoder = embedded
    untouched, few = load_embedded(EMBEDDED_FILE)[0], clips[torch.arange(2)]
    reference = encode(autoencoder, render(with_other_subject(few, 36))), with_other_subject(few, 36).captions()

    def made(by, *references):
        return generate(by, few.captions(), noise_for(2, 35), *references, steps=4, dtype=torch.float32)

    assert not torch.equal(made(model, reference), made(untouched))
    assert torch.equal(made(model), made(untouched))


def test_results_are_of_all_arms_with_their_intervals():
    results = json.loads((FOLDER / "results" / "lvdm.json").read_text())
    cells = {f"{split}/{arm}" for split in ("seen", "unseen") for arm in ARMS}
    assert cells | {"blend/first", "blend/half", "blend/second"} | set(CELLS) == results.keys()
    for name, cell in results.items():
        assert cell["clips"] >= (200 if name not in CELLS[1:] else 16), name
        for measure, value in cell.items():
            if measure != "clips":
                mean, low, high = value
                assert low <= mean <= high, (name, measure)
    assert results["seen/no_reference"]["same_as_base"] == [1, 1, 1]
