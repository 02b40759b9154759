"""Train EchoReel on every host family that this version of the host has, through the node."""

import json

import comfy.clip_vision
import comfy.model_base
import comfy.nested_tensor
import comfy.sample
import pytest
import torch
from conditioning import sample, untouched
from encoders import encoders_for
from tiny_hosts import CASES, build
from video_clips import write_clip

STEPS, FRAMES, SIDE = 12, 9, 64
NOT_TRAINED = {
    "ltxv with guides": "guide frames are a matter of sampling",
    "hunyuan with reference": "reference latents are a matter of sampling",
    "wan phantom": "the same model as wan t2v, with references that are a matter of sampling",
    "wan causal, by chunks": "made chunk by chunk, a clip is sampled and not trained on",
}


@pytest.fixture(scope="module", autouse=True)
def data(folders):
    """Two actions of two clips each, with names of different lengths."""
    for action in ("Hop", "HandStand"):
        for take in (1, 2):
            folder = folders / "input" / "small moves" / action
            folder.mkdir(parents=True, exist_ok=True)
            write_clip(folder / f"v_{action}_g0{take}_c01.mp4", 20 + take, size=(SIDE, SIDE))


class Trained:
    """A tiny host with what is wired in beside it, an adapter that was trained on it, and the losses on the way."""

    def __init__(self, name, tiny, folders):
        import adapters
        from echoreel_pack.nodes.hosts import find_host
        from echoreel_pack.nodes.loaded_adapter import load_adapter

        self.name, self.tiny, self.model, self.folders = name, tiny, tiny.model, folders
        self.model.cached_patcher_init = (lambda disable_dynamic=False: build(name).model, ())
        self.vae, self.clip, self.sight = encoders_for(tiny)
        sites = find_host(self.model.model.diffusion_model).sites(self.model.model.diffusion_model)
        path = folders / "models" / "echoreel" / "start.safetensors"
        adapters.fresh_adapter(tiny, sites, text_width=self.clip.width).save(path)
        self.start = load_adapter(str(path))

    def run(self, name, **changes):
        from echoreel_pack.nodes.train_echoreel import TrainEchoReel

        settings = {
            "data": "small moves",
            "name": f"{self.name} {name}",
            "steps": STEPS,
            "learning_rate": 3e-3,
            "batch_size": 2,
            "frame_count": FRAMES,
            "every_nth": 2,
            "width": SIDE,
            "height": SIDE,
            "weighting": "none",
            "gradient_checkpointing": True,
            "seed": 0,
            "echoreel": self.start,
            "clip_vision": self.sight,
        }
        with torch.inference_mode():
            result = TrainEchoReel.execute(self.model, self.vae, self.clip, **{**settings, **changes}).result[0]
        return result, self.losses(name)

    def losses(self, name):
        path = self.folders / "output" / "echoreel_training" / f"{self.name} {name}" / "metrics.jsonl"
        return [json.loads(line)["loss"] for line in path.read_text().splitlines()]

    def told(self):
        """A clip to make, and what the model is told of it."""
        from echoreel_pack.echoreel_core.training.cache import CachedPairs
        from echoreel_pack.echoreel_core.training.conditioning import mapped

        with torch.inference_mode(False):
            batch = CachedPairs(
                self.folders / "output" / "echoreel_training" / f"{self.name} learned" / "cache"
            ).batch([0], [0])
            return batch.target, mapped({**batch.prompt[0], **batch.shown[0]}, torch.clone)


@pytest.fixture(scope="module", params=[name for name in CASES if name not in NOT_TRAINED])
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
    """The noise of a step depends on nothing but the seed, so the loss is set beside that of a run that learns nothing.

    A model of random weights predicts nothing, so there is little to gain; but that little is gained.
    """
    assert len(case.learned) == len(case.idle) == STEPS
    assert all(torch.isfinite(torch.tensor(case.learned + case.idle)))
    assert case.learned[0] == case.idle[0]
    print(case.name, sum(case.learned[-4:]) / sum(case.idle[-4:]))
    assert sum(case.learned[-4:]) < sum(case.idle[-4:])


def test_applied_it_does_what_it_did_in_training(case, folders):
    """In the host's own sampling run, with the adapter as a file and the action folded in."""
    import adapters
    from echoreel_pack.echoreel_core.action import Action, Reference
    from echoreel_pack.echoreel_core.adapter import EchoReelAdapter
    from echoreel_pack.echoreel_core.training.config import TrainingSettings
    from echoreel_pack.echoreel_core.training.loop import Trainer
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.train_echoreel import _weights
    from echoreel_pack.nodes.training_host import ModelTrainingHost

    adapter = EchoReelAdapter(case.adapter.config)
    adapter.load_state_dict(_weights(case.adapter))
    tokens = adapters.noise(1, 4, adapter.config.prism.action_dim, seed=3)
    action = Action.of(Reference(tokens, tokens), case.adapter.id, case.tiny.family)
    target, told = case.told()

    def run(model, attach):
        host = ModelTrainingHost(model)

        def call():
            with torch.no_grad(), attach(host):
                level = host.noise_level(torch.tensor([0.6]))
                return host.predict(target, level.time, told["cross_attn"][None], [told])

        return host.sampling_run(target, call)

    def attached(host):
        return Trainer(host, adapter, [0], TrainingSettings()).attached(tokens, target.shape[2])

    plain = run(case.model, lambda host: torch.no_grad())
    trained = run(case.model, attached)
    applied = run(apply_action(case.model, case.adapter, action, 1.0), lambda host: torch.no_grad())
    assert (trained - plain).norm() > 1e-6 * plain.norm()
    assert (applied - trained).norm() < 1e-3 * (trained - plain).norm() + 1e-6 * plain.norm()


def test_the_model_is_told_what_a_sampler_would_tell_it(case, monkeypatch):
    """The model's inputs in training are those in a run of the host's sampler with the same conditioning."""
    from echoreel_pack.nodes.training_host import ModelTrainingHost
    from echoreel_pack.nodes.training_images import KNOWN, KNOWN_MASK, LEADING, as_the_host_has_it

    calls = []
    inner = comfy.model_base.BaseModel._apply_model

    def spy(self, x, t, **inputs):
        inputs.pop("transformer_options")
        calls.append({name: value for name, value in inputs.items() if value is not None})
        return inner(self, x, t, transformer_options={"cond_or_uncond": [0]}, **inputs)

    target, told = case.told()
    host = ModelTrainingHost(case.model)
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
    if host.pass_limit == 1 and latents.dim() == 5 and case.tiny.family != "minimax_h3":
        latents = latents[0].transpose(0, 1)
    if case.tiny.family == "minimax_h3":
        latents = comfy.nested_tensor.NestedTensor((latents, host._silence(latents)))
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
