"""Train EchoReel on every host family that this version of the host has, through the node."""

import comfy.model_base
import comfy.nested_tensor
import comfy.sample
import pytest
import torch
from conditioning import untouched
from encoders import encoders_for
from tiny_families import CASES, IMAGE_CASES, build
from training_runs import assert_applied_as_trained, losses, settings, small_start, write_actions

NOT_TRAINED = {
    "ltxv with guides": "guide frames are a matter of sampling",
    "hunyuan with reference": "reference latents are a matter of sampling",
    "wan phantom": "the same model as wan t2v, with references that are a matter of sampling",
    "wan causal, by chunks": "made chunk by chunk, a clip is sampled and not trained on",
}


@pytest.fixture(scope="module", autouse=True)
def data(folders):
    write_actions(folders / "input" / "small moves")


class Trained:
    """A tiny host with what is wired in beside it, an adapter that was trained on it, and the losses on the way."""

    def __init__(self, name, tiny, folders):
        self.name, self.tiny, self.model, self.folders = name, tiny, tiny.model, folders
        self.model.cached_patcher_init = (lambda disable_dynamic=False: build(name).model, ())
        self.vae, self.clip, self.sight = encoders_for(tiny)
        self.start = small_start(folders, tiny, self.clip.width)

    def run(self, name, **changes):
        from echoreel_pack.nodes.train_echoreel import TrainEchoReel

        inputs = settings(data="small moves", name=f"{self.name} {name}", frame_count=9, every_nth=2)
        more = {"echoreel": self.start, "clip_vision": self.sight, **changes}
        with torch.inference_mode():
            result = TrainEchoReel.execute(self.model, self.vae, self.clip, **{**inputs, **more}).result[0]
        return result, losses(self.folders, inputs["name"])

    def conditioning_of(self):
        """A clip to make, and what the model is told of it."""
        from echoreel_pack.echoreel_core.training.data.cached_pairs import CachedPairs
        from echoreel_pack.echoreel_core.training.data.conditioning import map_tensors

        folder = self.folders / "output" / "echoreel_training" / f"{self.name} learned" / "cache"
        batch = CachedPairs(folder).batch([0], [0])
        return batch.target, map_tensors(batch.conditioning_of(0), torch.clone)


@pytest.fixture(scope="module", params=[name for name in (*CASES, *IMAGE_CASES) if name not in NOT_TRAINED])
def case(request, pack, folders):
    tiny = build(request.param)
    if tiny is None:
        pytest.skip(f"this ComfyUI has no {request.param}")
    trained = Trained(request.param, tiny, folders)
    with untouched(tiny.model):
        trained.adapter, trained.learned = trained.run("learned")
        _, trained.idle = trained.run("idle", learning_rate=1e-8)
    return trained


def test_the_loss_falls(case):
    """Beside that of a run that learns nothing: the noise of a step depends on the seed alone."""
    assert len(case.learned) == len(case.idle) == 12
    assert torch.isfinite(torch.tensor(case.learned + case.idle)).all()
    assert case.learned[0] == case.idle[0]
    assert sum(case.learned[-4:]) < 0.9 * sum(case.idle[-4:])


def test_applied_it_does_what_it_did_in_training(case):
    assert_applied_as_trained(case.model, case.adapter, *case.conditioning_of())


def test_the_model_is_told_what_a_sampler_would_tell_it(case, monkeypatch):
    """The model's inputs in training are those in a run of the host's sampler with the same conditioning."""
    from echoreel_pack.nodes.families import family_named
    from echoreel_pack.nodes.families.clip_conditioning import KNOWN, KNOWN_MASK, LEADING
    from echoreel_pack.nodes.training.image_conditioning import as_the_host_has_it
    from echoreel_pack.nodes.training.trainable import TrainableHostModel

    calls = []
    inner = comfy.model_base.BaseModel._apply_model

    def spy(self, x, t, c_concat, c_crossattn, control, options, **more):
        inputs = {"c_concat": c_concat, "c_crossattn": c_crossattn, **more}
        calls.append({name: value for name, value in inputs.items() if value is not None})
        return inner(self, x, t, c_concat, c_crossattn, control, options, **more)

    target, told = case.conditioning_of()
    host = TrainableHostModel(case.model)
    monkeypatch.setattr(comfy.model_base.BaseModel, "_apply_model", spy)
    with torch.no_grad():
        host.sampling_run(target, lambda: host.predict(target, torch.tensor([0.7]), None, [told]))
    (in_training,) = calls

    told = as_the_host_has_it(told)
    latents = torch.zeros_like(target)
    options = {}
    if LEADING in told:
        latents = torch.cat((latents[:, :, :1], latents), dim=2)
        told.pop(LEADING)
    if KNOWN in told:
        latents, options["noise_mask"] = told.pop(KNOWN), told.pop(KNOWN_MASK)
    family = family_named(case.tiny.family)
    if family.frames_in_batch and latents.dim() == 5:
        latents = latents[0].transpose(0, 1)
    if family.silence is not None:
        latents = comfy.nested_tensor.NestedTensor((latents, family.silence(latents)))
    prompt = [[told.pop("cross_attn")[None], told]]
    calls.clear()
    comfy.sample.sample(
        case.model,
        comfy.sample.prepare_noise(latents, 0),
        1,
        1.0,
        "euler",
        "simple",
        prompt,
        [],
        latents,
        disable_pbar=True,
        seed=0,
        **options,
    )
    assert calls[0].keys() == in_training.keys()
    for name, value in calls[0].items():
        same(value, in_training[name], name)


def same(one, other, name):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), name
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{name}.{place}")
    elif isinstance(one, (int, float, str, bool, type(None))):
        assert one == other, name
