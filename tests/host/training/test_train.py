"""Train EchoReel and Save EchoReel Adapter in the host, on its own models."""

import json
from contextlib import nullcontext

import av
import comfy.model_management
import comfy.model_sampling
import comfy.sample
import pytest
import tiny_models
import torch
from checkpoints import SHIPPED_NAME, save_as_deepspeed, toy_state_dict
from conditioning import noise, prompt, sample, untouched
from encoders import Pixels, Words, encoders_for
from tiny_families import build
from training_runs import losses, settings, write_actions
from video_clips import write_clip

STEPS = 40


@pytest.fixture(scope="module")
def nodes(pack):
    from echoreel_pack.nodes import train_echoreel

    return train_echoreel


@pytest.fixture(scope="module", autouse=True)
def data(folders):
    write_actions(folders / "input" / "moves", ("JumpingJack", "HandStand"))


def fall(run, folders, name):
    """What is left of the loss at the end of a run; `run(settings)` trains.

    The noise of a step depends on nothing but the seed, so the loss is set beside that of a run that learns nothing.
    """
    run(settings(name=name, steps=STEPS))
    run(settings(name=f"{name}-idle", steps=STEPS, learning_rate=1e-8))
    learned, idle = losses(folders, name), losses(folders, f"{name}-idle")
    assert len(learned) == len(idle) == STEPS
    return sum(learned[-10:]) / sum(idle[-10:])


@pytest.fixture(scope="module")
def lvdm(folders, pack):
    """The toy checkpoint's model, CLIP and VAE, and a small fresh adapter to start from."""
    from adapters import TINY_PRISM
    from echoreel_pack.echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter
    from echoreel_pack.echoreel_core.action.prism import ActionPrismConfig
    from echoreel_pack.nodes.load_echoreel import LoadCheckpoint
    from echoreel_pack.nodes.models.adapter import load_adapter

    save_as_deepspeed(toy_state_dict(), folders / "models" / "checkpoints" / SHIPPED_NAME)
    with torch.inference_mode():  # as a server loads them
        model, clip, vae, released = LoadCheckpoint.execute(SHIPPED_NAME).result
    prism = ActionPrismConfig(latent_channels=4, text_width=64, **TINY_PRISM)
    path = folders / "models" / "echoreel" / "start.safetensors"
    EchoReelAdapter(AdapterConfig("lvdm", prism, released.config.sites, "relative_bias", 4)).save(path)
    return model, clip, vae, load_adapter(str(path))


def test_trains_on_the_released_kind_of_model(nodes, lvdm, folders):
    from echoreel_pack.nodes.models.adapter import load_adapter
    from echoreel_pack.nodes.save_adapter import SaveAdapter

    model, clip, vae, start = lvdm
    results = []
    with torch.inference_mode(), untouched(model):
        left = fall(
            lambda s: results.append(nodes.TrainEchoReel.execute(model, vae, clip, **s, echoreel=start)),
            folders,
            "lvdm",
        )
    assert left < 0.9
    trained, curve = results[0].result
    assert trained.id != start.id
    assert curve.shape[0] == 1 and curve.shape[-1] == 4 and 0 <= curve.min() < curve.max() <= 1
    # saved, it is the same adapter, and Load EchoReel Adapter finds it
    name = SaveAdapter.execute(trained, "moves", "float16").result[0]
    saved = load_adapter(str(folders / "models" / "echoreel" / name))
    assert saved.id == trained.id and saved.config == trained.config
    assert SaveAdapter.execute(trained, "moves", "float16").result[0] != name


def test_trains_on_wan_and_the_result_can_be_applied(nodes, folders, tmp_path):
    from adapters import random_action, wan_adapter
    from echoreel_pack.nodes.apply_echoreel import apply_action

    model = tiny_models.wan()
    model.cached_patcher_init = (lambda disable_dynamic=False: tiny_models.wan(), ())
    start = wan_adapter(tmp_path / "start.safetensors", fresh=True)
    results = []
    with torch.inference_mode(), untouched(model):
        left = fall(
            lambda s: results.append(nodes.TrainEchoReel.execute(model, Pixels(), Words(4096), **s, echoreel=start)),
            folders,
            "wan",
        )
    assert left < 0.9
    trained = results[0].result[0]
    latents = torch.zeros(1, 16, 4, 8, 8)
    plain, moved = (
        sample(m, latents, prompt(4096), prompt(4096, seed=2))
        for m in (model, apply_action(model, trained, random_action(trained), 1.0))
    )
    assert not torch.equal(plain, moved)


def test_an_interrupt_saves_and_the_next_run_goes_on(nodes, lvdm, folders, monkeypatch):
    from echoreel_pack.echoreel_core.training import run as run_module

    model, clip, vae, start = lvdm
    save = run_module.save_checkpoint
    stopped_at = []
    monkeypatch.setattr(
        run_module, "save_checkpoint", lambda trainer, *a: stopped_at.append(trainer.step) or save(trainer, *a)
    )
    step = run_module.Trainer.train_step

    def train_step(self):
        result = step(self)
        if result.step == 2 and 2 not in stopped_at:
            comfy.model_management.interrupt_current_processing(True)
        return result

    monkeypatch.setattr(run_module.Trainer, "train_step", train_step)
    few = settings(name="stopped", steps=4)
    with torch.inference_mode():
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            nodes.TrainEchoReel.execute(model, vae, clip, **few, echoreel=start)
        assert stopped_at == [0, 2]  # the first of them after the prism's start
        nodes.TrainEchoReel.execute(model, vae, clip, **few, echoreel=start)
    assert stopped_at == [0, 2, 4]
    assert len(losses(folders, "stopped")) == 4


@pytest.mark.parametrize("name", ["", "../elsewhere", "a/b", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(nodes, name):
    with pytest.raises(ValueError, match="cannot be used for a folder"):
        nodes.TrainEchoReel.execute(None, None, None, **settings(name=name))


def test_what_is_held_out_is_measured_and_sample_videos_are_made(nodes, lvdm, folders):
    model, clip, vae, start = lvdm
    for take in range(3, 9):
        write_clip(folders / "input" / "moves" / "HandStand" / f"v_HandStand_g0{take}_c01.mp4", 20, size=(64, 64))
    more = {"held_out": 0.5, "sample_every": 2, "sample_guidance": 2.0}
    with torch.inference_mode():
        nodes.TrainEchoReel.execute(model, vae, clip, **settings(name="shown", steps=2), echoreel=start, **more)
    folder = folders / "output" / "echoreel_training" / "shown"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["step"] == 0 and len(records[0]["held_out_levels"]) == 9
    for name in ("step-0000002-1.mp4", "step-0000002-2.mp4"):
        with av.open(str(folder / "samples" / name)) as file:
            sizes = [(frame.width, frame.height) for frame in file.decode(video=0)]
        assert sizes == [(64 + 8 + 64 + 8 + 64, 64)] * 4


def test_holding_all_pairs_out_is_refused(nodes, lvdm, monkeypatch):
    from echoreel_pack.echoreel_core.training.data import pairs

    model, clip, vae, start = lvdm
    monkeypatch.setattr(pairs, "_is_held_out", lambda name, share: True)
    few = settings(name="held out", steps=1)
    with torch.inference_mode(), pytest.raises(ValueError, match="no pair left to train on"):
        nodes.TrainEchoReel.execute(model, vae, clip, **few, echoreel=start, held_out=0.9)


def test_the_flow_of_samples_is_the_hosts_own_sampler(nodes):
    """Without an adapter, the sample videos' sampler and the host's Euler make the same clip of the same noise."""
    from echoreel_pack.nodes.training.trainable import TrainableHostModel

    model = tiny_models.wan()
    host, latents = TrainableHostModel(model), torch.zeros(1, 16, 3, 8, 8)
    told, untold = ({"cross_attn": noise(5, 4096, seed=seed), "pooled_output": None} for seed in (1, 2))
    start = comfy.sample.prepare_noise(latents, 0)

    def work():
        with torch.no_grad():
            return host.sample(start, told, untold, steps=3, guidance=3.0, attach=lambda role: nullcontext())

    ours = model.model.process_latent_out(host.sampling_run(latents, work))
    theirs = sample(model, latents, prompt(4096), prompt(4096, seed=2), steps=3, cfg=3.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["svd", "hunyuan"])
def test_what_a_model_has_to_be_told_and_is_not_is_named(nodes, name):
    tiny = build(name)
    tiny.model.cached_patcher_init = (lambda disable_dynamic=False: build(name).model, ())
    vae, clip, _ = encoders_for(tiny)
    if name == "hunyuan":
        clip = Without(clip.width)
    message = {"svd": "connect the one from its checkpoint to clip_vision", "hunyuan": "needs 'pooled_output'"}
    with torch.inference_mode(), pytest.raises(ValueError, match=message[name]):
        nodes.TrainEchoReel.execute(tiny.model, vae, clip, **settings(name=f"no {name}", frame_count=9, every_nth=2))


def test_text_of_another_width_is_refused(nodes, lvdm):
    svd = build("svd")
    svd.model.cached_patcher_init = (lambda disable_dynamic=False: build("svd").model, ())
    vae, _, sight = encoders_for(svd)
    small = settings(name="narrow", frame_count=4, every_nth=2)
    with torch.inference_mode(), pytest.raises(ValueError, match="images as tokens that are 64 wide, .* are 16"):
        nodes.TrainEchoReel.execute(svd.model, vae, Words(16), **small, clip_vision=sight)
    model, _, vae, start = lvdm
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match="reads text tokens that are 64 wide, but the text encoder's are 16"),
    ):
        nodes.TrainEchoReel.execute(model, vae, Words(16), **small, echoreel=start)


class Without(Words):
    """A text encoder that gives its tokens only."""

    def encode_from_tokens_scheduled(self, text):
        return [[self.tokens(text), {}]]


def test_a_model_that_predicts_otherwise_is_refused(nodes):
    model = tiny_models.wan()

    class Other(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.IMG_TO_IMG_FLOW):
        pass

    model.add_object_patch("model_sampling", Other())
    with torch.inference_mode(), pytest.raises(ValueError, match="with IMG_TO_IMG_FLOW prediction"):
        nodes.TrainEchoReel.execute(model, Pixels(), Words(4096), **settings(name="other"))


def test_a_model_that_can_not_be_loaded_again_is_copied_or_refused(nodes, tmp_path, monkeypatch):
    """Where the host streams the weights in, only the loader can make a copy. A LoRA is not in it twice."""
    from adapters import wan_adapter
    from echoreel_pack.nodes.training.trainable import own_copy

    with torch.inference_mode():
        model = tiny_models.wan()
        weights = {key: value.clone() for key, value in model.model.state_dict().items()}
        name = "diffusion_model.blocks.0.ffn.0.weight"
        model.add_patches({name: (torch.ones(64, 128),)})
        comfy.model_management.load_models_gpu([model])
    copied = own_copy(model)
    own = copied.model.state_dict()
    assert weights.keys() == own.keys() and copied.patches.keys() == {name}
    assert all(torch.equal(weights[key], own[key]) and not own[key].is_inference() for key in weights)
    before = {value.data_ptr() for value in model.model.state_dict().values()}
    assert before.isdisjoint(value.data_ptr() for value in own.values())

    start = wan_adapter(tmp_path / "start.safetensors", fresh=True)
    monkeypatch.setattr(type(model), "is_dynamic", lambda self: True)
    with torch.inference_mode(), pytest.raises(ValueError, match="with one of ComfyUI's own loaders"):
        nodes.TrainEchoReel.execute(model, Pixels(), Words(4096), **settings(name="no loader"), echoreel=start)


def test_a_kernel_without_a_gradient_is_told_in_one_sentence(nodes):
    from echoreel_pack.nodes.training.trainable import TrainableHostModel

    host = TrainableHostModel(tiny_models.wan())
    with pytest.raises(ValueError, match="Wan 2.1 and 2.2 cannot be trained in this version of ComfyUI"):
        with host.gradient_context():
            raise RuntimeError("Trying to backward through x but no autograd formula was registered")
    assert not comfy.model_management.in_training


@pytest.mark.parametrize(("name", "copied"), [("wan t2v", False), ("ltxv", True)])
def test_activations_are_copied_for_models_alone_that_write_into_their_own(nodes, name, copied):
    from echoreel_pack.nodes.training.trainable import TrainableHostModel

    host = TrainableHostModel(build(name).model)
    with host.gradient_context():
        hidden = noise(3).requires_grad_() * 1
        squared = hidden.square()
    assert (squared.grad_fn._saved_self.data_ptr() != hidden.data_ptr()) is copied


@pytest.mark.parametrize("name", ["apply_rope_split_half", "rms_rope_split_half"])
def test_the_hosts_kernels_have_gradients_in_training(nodes, name):
    from echoreel_pack.nodes.training.kernels import kernels_with_gradients

    kitchen = pytest.importorskip("comfy_kitchen")
    before = getattr(kitchen, name)
    angles = noise(1, 3, 1, 2).double()
    rotation = torch.stack((angles.cos(), -angles.sin(), angles.sin(), angles.cos()), dim=-1).unflatten(-1, (2, 2))
    query, key = (noise(1, 3, 2, 4, seed=seed).double().requires_grad_() for seed in (1, 2))
    more = [rotation, *(noise(4, seed=seed).double() for seed in (3, 4) if name.startswith("rms"))]
    single = [tensor.detach().float() for tensor in (query, key, *more)]  # the kernel knows no double precision
    plain = before(*single)
    with kernels_with_gradients([name]):
        twin = getattr(kitchen, name)
        for one, other in zip(plain, twin(*single), strict=True):
            torch.testing.assert_close(one, other)
        assert torch.autograd.gradcheck(lambda *both: twin(*both, *more), (query, key))
    assert getattr(kitchen, name) is before


def test_the_caches_key_names_all_that_decides_what_is_encoded(lvdm):
    """Layer and patches of the text encoder change it; that a patched one was in use does not."""
    from echoreel_pack.nodes.training.encoders import NodeEncoders

    model, clip, vae, _ = lvdm
    plain = NodeEncoders(model, vae, clip).identity
    skipped = clip.clone()
    skipped.clip_layer(-2)
    name = next(key for key in clip.cond_stage_model.state_dict() if key.endswith("q_proj.weight"))
    weight = clip.cond_stage_model.state_dict()[name]
    keys = {plain, NodeEncoders(model, vae, skipped).identity}
    with torch.inference_mode():
        for strength, seed in ((1.0, 1), (0.5, 1), (1.0, 2)):
            patched = clip.clone()
            assert patched.add_patches({name: ("diff", (noise(*weight.shape, seed=seed),))}, strength)
            keys.add(NodeEncoders(model, vae, patched).identity)
            patched.encode_from_tokens(patched.tokenize("a word"))
            assert NodeEncoders(model, vae, clip).identity == plain
    assert len(keys) == 5


@pytest.mark.parametrize("data", ["../secrets", "nowhere"])
def test_data_outside_the_input_folder_is_refused(nodes, data):
    with pytest.raises(ValueError, match="no data set"):
        nodes.TrainEchoReel.execute(None, None, None, **settings(data=data))
