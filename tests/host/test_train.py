"""Train EchoReel and Save EchoReel Adapter in the host, on its own models."""

import json

import comfy.model_management
import pytest
import tiny_models
import torch
from checkpoints import SHIPPED_NAME, save_as_deepspeed, toy_state_dict
from conditioning import noise, untouched
from video_clips import write_clip

STEPS = 40


class Words:
    """Stands in for CLIP: every text has tokens of its own."""

    def __init__(self, width):
        self.width, self.cond_stage_model = width, torch.nn.Linear(1, 1)

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, text):
        return noise(1, 5, self.width, seed=len(text))


class Pixels:
    """Stands in for a video VAE of factor 8 that halves time: 16 channels of the frames' own pixels."""

    latent_dim = 3

    def __init__(self):
        self.first_stage_model = torch.nn.Linear(1, 1)

    def spacial_compression_encode(self):
        return 8

    def encode(self, frames):
        small = torch.nn.functional.interpolate(frames.movedim(-1, 1), scale_factor=1 / 8, mode="area")
        return small.mean(1, keepdim=True).expand(-1, 16, -1, -1).movedim(0, 1)[None]


@pytest.fixture(scope="module")
def nodes(pack):
    from echoreel_pack.nodes import train_echoreel

    return train_echoreel


@pytest.fixture(scope="module", autouse=True)
def data(folders):
    """Two actions of two clips each, as UCF-101 lays them out."""
    for action in ("JumpingJack", "HandStand"):
        for take in (1, 2):
            folder = folders / "input" / "moves" / action
            folder.mkdir(parents=True, exist_ok=True)
            write_clip(folder / f"v_{action}_g0{take}_c01.mp4", 20, size=(64, 64))


def settings(**changes):
    return {
        "data": "moves",
        "name": "run",
        "steps": STEPS,
        "learning_rate": 3e-3,
        "batch_size": 2,
        "frame_count": 4,
        "every_nth": 4,
        "width": 64,
        "height": 64,
        "weighting": "none",
        "gradient_checkpointing": True,
        "seed": 0,
        **changes,
    }


def fall(run, folders, name):
    """What is left of the loss at the end of a run; `run(settings)` trains.

    The noise of a step depends on nothing but the seed, so the loss is set beside that of a run that learns nothing.
    """
    run(settings(name=name))
    run(settings(name=f"{name}-idle", learning_rate=1e-8))
    learned, idle = losses(folders, name), losses(folders, f"{name}-idle")
    assert len(learned) == len(idle) == STEPS
    return sum(learned[-10:]) / sum(idle[-10:])


def losses(folders, name):
    lines = (folders / "output" / "echoreel_training" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def lvdm(folders, pack):
    """The toy checkpoint's model, CLIP and VAE, and a small fresh adapter to start from."""
    from adapters import TINY_PRISM
    from echoreel_pack.echoreel_core.action_prism import ActionPrismConfig
    from echoreel_pack.echoreel_core.adapter import AdapterConfig, EchoReelAdapter
    from echoreel_pack.nodes.loaded_adapter import load_adapter
    from echoreel_pack.nodes.loaders import LoadCheckpoint

    save_as_deepspeed(toy_state_dict(), folders / "models" / "checkpoints" / SHIPPED_NAME)
    model, clip, vae, released = LoadCheckpoint.execute(SHIPPED_NAME).result
    prism = ActionPrismConfig(latent_channels=4, text_width=64, **TINY_PRISM)
    path = folders / "models" / "echoreel" / "start.safetensors"
    EchoReelAdapter(AdapterConfig("lvdm", prism, released.config.sites, "relative_bias", 4)).save(path)
    return model, clip, vae, load_adapter(str(path))


@pytest.fixture
def sensible(monkeypatch):
    """Mends an untrained model's worst fault: it hands the noise through, as a trained one would."""
    from echoreel_pack.nodes.training_host import ModelTrainingHost

    predict = ModelTrainingHost.predict

    def mended(self, noisy, time, text):
        sigma = self._base.model_sampling.sigma(time) if self.prediction == "noise" else time / 1000
        noise_level = sigma / (1 + sigma**2) ** 0.5 if self.prediction == "noise" else sigma
        share = 1 / noise_level.clamp(min=0.2)  # right where the clip's own latents are small
        return 0.2 * predict(self, noisy, time, text).float() + share.view(-1, 1, 1, 1, 1) * noisy

    monkeypatch.setattr(ModelTrainingHost, "predict", mended)


def test_trains_on_the_released_kind_of_model(nodes, lvdm, folders, sensible):
    from echoreel_pack.nodes.loaded_adapter import load_adapter

    model, clip, vae, start = lvdm
    results = []
    with torch.inference_mode(), untouched(model):
        left = fall(
            lambda s: results.append(nodes.TrainEchoReel.execute(model, vae, clip, **s, echoreel=start)),
            folders,
            "lvdm",
        )
    assert left < 0.5
    trained, curve = results[0].result
    assert trained.id != start.id
    assert curve.shape[0] == 1 and curve.shape[-1] == 3 and 0 <= curve.min() < curve.max() <= 1
    # saved, it is the same adapter, and Load EchoReel Adapter finds it
    name = nodes.SaveAdapter.execute(trained, "moves", "float16").result[0]
    saved = load_adapter(str(folders / "models" / "echoreel" / name))
    assert saved.id == trained.id and saved.config == trained.config
    assert nodes.SaveAdapter.execute(trained, "moves", "float16").result[0] != name


def test_trains_on_wan_and_the_result_can_be_applied(nodes, folders, sensible, tmp_path):
    from adapters import random_action, wan_adapter
    from conditioning import prompt, sample
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
    assert left < 0.5
    trained = results[0].result[0]
    latents = torch.zeros(1, 16, 4, 8, 8)
    plain, moved = (
        sample(m, latents, prompt(4096), prompt(4096, seed=2))
        for m in (model, apply_action(model, trained, random_action(trained), 1.0))
    )
    assert not torch.equal(plain, moved)


def test_an_interrupt_saves_and_the_next_run_goes_on(nodes, lvdm, folders, monkeypatch, sensible):
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
        if result.step == 2 and not stopped_at:
            comfy.model_management.interrupt_current_processing(True)
        return result

    monkeypatch.setattr(run_module.Trainer, "train_step", train_step)
    few = settings(name="stopped", steps=4)
    with torch.inference_mode():
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            nodes.TrainEchoReel.execute(model, vae, clip, **few, echoreel=start)
        assert stopped_at == [2]
        nodes.TrainEchoReel.execute(model, vae, clip, **few, echoreel=start)
    assert stopped_at == [2, 4]
    assert len(losses(folders, "stopped")) == 4


@pytest.mark.parametrize("name", ["", "../elsewhere", "a/b", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(nodes, name):
    with pytest.raises(ValueError, match="can not be a folder's name"):
        nodes.TrainEchoReel.execute(None, None, None, **settings(name=name))


def test_a_model_that_needs_an_image_is_refused(nodes):
    model = tiny_models.wan("i2v", in_channels=36)
    model.cached_patcher_init = (lambda disable_dynamic=False: tiny_models.wan("i2v", in_channels=36), ())
    with torch.inference_mode(), pytest.raises(ValueError, match="text-to-video"):
        nodes.TrainEchoReel.execute(model, Pixels(), Words(4096), **settings(name="i2v"))


@pytest.mark.parametrize("data", ["../secrets", "nowhere"])
def test_data_outside_the_input_folder_is_refused(nodes, data):
    with pytest.raises(ValueError, match="no data set"):
        nodes.TrainEchoReel.execute(None, None, None, **settings(data=data))
