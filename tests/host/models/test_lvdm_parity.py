"""The released model as a host model gives the authors' numbers, through the host's own samplers."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from released_weights import FIXTURES, make_state_dict
from safetensors.torch import load_file, save_file


def relative_error(ours, reference):
    return ((ours.double() - reference.double()).norm() / reference.double().norm()).item()


@pytest.fixture(scope="module")
def fixture():
    return load_file(FIXTURES / "small.safetensors")


@pytest.fixture(scope="module")
def loaded(pack, folders):
    from echoreel_pack.nodes import load_echoreel as loaders

    save_file(make_state_dict("small"), folders / "models" / "checkpoints" / "small.safetensors")
    model, clip, vae, echoreel = loaders.LoadCheckpoint.execute("small.safetensors").result
    assert clip is None
    return model, vae, echoreel


@pytest.fixture(scope="module")
def action(pack, loaded, fixture):
    from echoreel_pack.echoreel_core.action.action import Action, Reference

    _, _, echoreel = loaded
    return Action.of(Reference(fixture["action"], fixture["action_uncond"]), echoreel.id, echoreel.config.host)


def as_frames(latents):
    """[1, C, T, H, W] → [T, C, H, W], as the host carries a clip."""
    return latents[0].movedim(1, 0)


def sample(model, fixture, calls, cfg=12.0, steps=1, sampler="euler", seed=0):
    """One step of the host's KSampler from the fixture's x, recording the model's noise predictions."""
    diffusion_model = model.get_model_object("diffusion_model")
    handle = diffusion_model.register_forward_hook(
        lambda _m, args, kwargs, out: calls.append(
            (args[0], args[1], kwargs["transformer_options"]["cond_or_uncond"], out)
        ),
        with_kwargs=True,
    )
    try:
        timestep = fixture["t"].item()
        sigma = model.get_model_object("model_sampling").sigmas[timestep]
        # the host scales its noisy latents by 1 / sqrt(sigma² + 1) to get the model's input
        noisy = as_frames(fixture["x"]) * (sigma**2 + 1) ** 0.5
        return comfy.sample.sample_custom(
            model,
            noise=torch.zeros_like(noisy),
            cfg=cfg,
            sampler=comfy.samplers.sampler_object(sampler),
            sigmas=torch.tensor([sigma, 0.0]),
            positive=[[fixture["context"], {}]],
            negative=[[fixture["uncond_context"], {}]],
            latent_image=noisy / model.get_model_object("latent_format").scale_factor,
            disable_pbar=True,
            seed=seed,
        )
    finally:
        handle.remove()


def chunks_of(calls):
    """{position in the guider's list: noise prediction [T, C, H, W]} of one step."""
    return {
        index: chunk for _, _, order, out in calls for index, chunk in zip(order, out.chunk(len(order)), strict=True)
    }


def test_noise_predictions_are_the_fixtures(pack, loaded, action, fixture):
    from echoreel_pack.nodes.apply_echoreel import apply_action

    model, _, echoreel = loaded
    calls = []
    sample(apply_action(model, echoreel, action, 1.0), fixture, calls)
    assert all((t == fixture["t"]).all() for _, t, _, _ in calls)
    by_role = chunks_of(calls)
    assert relative_error(by_role[0], as_frames(fixture["eps"])) < 1e-4
    assert relative_error(by_role[1], as_frames(fixture["eps_uncond"])) < 1e-4


def test_the_base_is_the_fixtures_base(loaded, fixture):
    model, _, _ = loaded
    calls = []
    sample(model, fixture, calls)
    assert relative_error(chunks_of(calls)[0], as_frames(fixture["eps_base"])) < 1e-4
