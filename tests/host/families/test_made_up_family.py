"""A family is one entry: one that only these tests know is applied, trained, refused and documented as any other."""

import pytest
import torch
from calling import call
from conditioning import untouched
from encoders import encoders_for
from families_page import PAGE, problems
from training_runs import settings, write_actions


@pytest.fixture
def made_up(pack):
    """Registers it, for one test."""
    from echoreel_pack.nodes.families import FAMILIES
    from made_up import MADE_UP

    FAMILIES.append(MADE_UP)
    yield MADE_UP
    FAMILIES.remove(MADE_UP)


@pytest.fixture
def tiny(pack):
    import made_up

    return made_up.tiny()


def test_without_its_entry_it_is_refused_by_name(tiny):
    from echoreel_pack.nodes.families import find_family

    with pytest.raises(ValueError, match="does not know the model MadeUpModel"):
        find_family(tiny.model.model.diffusion_model)


def test_apply_takes_it(made_up, tiny, tmp_path):
    import adapters
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.sampling.control import Control

    sites = made_up.sites(tiny.model.model.diffusion_model)
    echoreel = adapters.adapter_for(tmp_path / "random.safetensors", tiny, sites)
    action, plain = adapters.random_action(echoreel), call(tiny)
    # at the last block, so that what is added at a frame stays there: by its frame rate, the third latent frame
    control = Control(span=(5 / made_up.fps, 9 / made_up.fps), block_factors=(0.0, 1.0))
    with untouched(tiny.model):
        result = call(tiny, apply_action(tiny.model, echoreel, action, 1.0, control=control))
    assert ((result - plain).abs().amax(dim=(0, 1, 3, 4)) > 0).tolist() == [False, False, True]
    assert torch.equal(call(tiny), plain)


def train(tiny, name):
    from echoreel_pack.nodes.train_echoreel import TrainEchoReel

    inputs = settings(data="made-up moves", name=name, steps=2, frame_count=9, every_nth=2)
    with torch.inference_mode():
        return TrainEchoReel.execute(tiny.model, *encoders_for(tiny)[:2], **inputs).result[0]


def test_train_takes_it(made_up, tiny, folders):
    """With a fresh adapter of the sizes that the entry says, and with what it says that the model is given."""
    import adapters
    from echoreel_pack.nodes.apply_echoreel import apply_action

    write_actions(folders / "input" / "made-up moves")
    trained = train(tiny, "made up")
    assert (trained.config.host, trained.config.prism.width) == ("made_up", 16)
    result = call(tiny, apply_action(tiny.model, trained, adapters.random_action(trained), 1.0))
    assert not torch.equal(result, call(tiny))


def test_the_model_is_given_what_its_entry_says(made_up, tiny):
    from echoreel_pack.nodes.training.encoders import NodeEncoders

    vae, clip, _ = encoders_for(tiny)
    given = NodeEncoders(tiny.model, vae, clip).image_conditioning(torch.zeros(9, 64, 64, 3), 12.5)
    assert given == {"frame_rate": 12.5}


def test_train_refuses_what_its_entry_refuses(made_up, folders):
    from made_up import MadeUpUpscaler
    from made_up import tiny as build

    write_actions(folders / "input" / "made-up moves")
    with pytest.raises(ValueError, match="A made-up upscaler moves nothing: train on MadeUp."):
        train(build(MadeUpUpscaler), "made-up upscaler")
    assert not (folders / "output" / "echoreel_training" / "made-up upscaler").exists()


def test_the_page_of_families_takes_it(made_up):
    from echoreel_pack.nodes.families import FAMILIES

    page = PAGE.read_text(encoding="utf-8")
    assert len(problems(page, FAMILIES)) == 2  # a row is missing in each table
    head, variants = page.split("\n\n## Variants")
    row = "| `made_up` | Made-up Video | 12 | yes, except the upscaler | its frame rate |"
    more = "| `made_up` | Made-up Video | never | exact | |"
    variants = variants.replace("| --- | --- | --- | --- | --- |", f"| --- | --- | --- | --- | --- |\n{more}")
    assert problems(f"{head}\n{row}\n\n## Variants{variants}", FAMILIES) == []
    for right, wrong in (("12", "16"), ("Made-up Video", "Video"), (", except the upscaler", "")):
        page = f"{head}\n{row.replace(right, wrong)}\n\n## Variants{variants}"
        assert len(problems(page, FAMILIES)) == 1, right
