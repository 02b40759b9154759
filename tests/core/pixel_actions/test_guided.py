"""The base model guided by a clip, in a run short enough for a test."""

from pathlib import Path

import torch

from echoreel_core.pixel_actions.evaluation.guidance import Guidance
from echoreel_core.pixel_actions.evaluation.guided import CELLS, evaluate_guided
from echoreel_core.pixel_actions.evaluation.judge import load_judge
from echoreel_core.pixel_actions.evaluation.lvdm import LVDMPipeline, generate_guided
from echoreel_core.pixel_actions.evaluation.table import MEASURES
from echoreel_core.pixel_actions.model.adapted_model import generate, noise_for
from echoreel_core.pixel_actions.model.embedded import load_embedded
from echoreel_core.pixel_actions.model.files import EMBEDDED_FILE
from echoreel_core.pixel_actions.model.latents import encode
from echoreel_core.pixel_actions.world.clips import draw_clips, render, with_other_subject

JUDGE = Path(__file__).resolve().parents[3] / "echoreel_core/pixel_actions/evaluation/judge.safetensors"


def test_it_moves_towards_the_reference_and_a_still_one_leaves_the_base_model_alone():
    model, autoencoder = load_embedded(EMBEDDED_FILE)
    clips = draw_clips(2, 5, ("swing",))
    reference = encode(autoencoder, render(with_other_subject(clips, 6)))
    noise, settings = noise_for(2, 7), {"steps": 5, "guidance": 2.0}
    settings["dtype"] = torch.float32
    alone = generate(model, clips.captions(), noise, **settings)

    def guided(reference):
        return generate_guided(model.base, clips.captions(), noise, reference, Guidance(), **settings)

    assert torch.allclose(guided(reference[:, :, 8:9].expand_as(reference)), alone, atol=1e-4)
    result = guided(reference)

    def away(latents):
        changes, wanted = (x - x.mean(2, keepdim=True) for x in (latents, reference))
        return (changes - wanted).square().mean()

    assert away(result) < 0.9 * away(alone)


def test_every_arm_has_every_measure():
    model, autoencoder = load_embedded(EMBEDDED_FILE)
    result = evaluate_guided(LVDMPipeline(model, autoencoder, steps=1), load_judge(JUDGE), count=16, each=1)
    assert set(result) == set(CELLS)
    for name, cell in result.items():
        assert set(cell) == {*MEASURES, "clips"} and cell["clips"] == (8 if name.startswith("unseen") else 16)
