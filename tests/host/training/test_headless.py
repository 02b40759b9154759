"""Training without a graph or a server: `python train.py my.toml`, with ComfyUI as a library."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import comfy.model_management
import comfy.sd
import pytest
import tiny_models
import torch
from encoders import encoders_for
from places import COMFYUI
from safetensors.torch import load_file, save_file
from test_train_families import NOT_TRAINED
from tiny_families import CASES, IMAGE_CASES, build, write_model
from tiny_files import write_ltxv, write_wan
from tiny_text import TINY_TEXT
from training_runs import assert_applied_as_trained, write_actions

TRAIN = Path(__file__).parents[1] / "tiny_train.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the model's files in ComfyUI's layout, and clips."""
    folder = tmp_path_factory.mktemp("headless")
    write_wan(folder)
    write_actions(folder / "moves")
    return folder


def settings(folder: Path, run: Path, **sections: dict) -> Path:
    """A settings file for the tiny Wan in `folder`, by the names that a loader node shows."""
    tables = {
        "model": {
            "comfyui": str(COMFYUI),
            "comfyui_options": ["--base-directory", str(folder)],
            "device": "cpu",
            "diffusion_model": "wan.safetensors",
            "vae": "wan.safetensors",
            "text_encoders": ["wan.safetensors"],
            "text_encoder_type": "wan",
        },
        "data": {"pairs": str(folder / "moves"), "cache": str(folder / "cache")},
        "video": {"frames": 9, "every_nth": 2, "width": 64, "height": 64},
        "adapter": {"width": 32, "depth": 1, "heads": 2, "head_dim": 16, "out_channels": 2},
        "training": {"steps": 4, "learning_rate": 1e-3, "prism_start_steps": 2},
        "output": {"folder": str(run), "stored_as": "float32", "log_every": 1, "checkpoint_every": 0},
    }
    for name, table in sections.items():
        tables[name] |= table
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path = run.with_suffix(".toml")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def by_path(folder: Path) -> dict:
    """The tiny Wan's files, for a process in which ComfyUI has other folders."""
    model, vae, text = (
        str(folder / "models" / kind / "wan.safetensors") for kind in ("diffusion_models", "vae", "text_encoders")
    )
    return {"diffusion_model": model, "vae": vae, "text_encoders": [text]}


def two_experts(data: Path, folder: Path) -> dict:
    """Such files with a second model, which is written into `folder`."""
    files, low = by_path(data), folder / "low.safetensors"
    save_file({name: -weight for name, weight in load_file(files["diffusion_model"]).items()}, low)
    return {**files, "low_noise_model": str(low)}


def ran(*arguments) -> str:
    """What a Python program says, which has to succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def two_processes(data):
    """The folder of a run by two processes, as `accelerate launch` starts them for several GPUs; it fills the cache."""
    pytest.importorskip("accelerate")
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", TRAIN]
    said = ran(*launch, settings(data, data / "two"))
    assert "filling it first" in said and "on 2 x cpu" in said and said.count("Done:") == 1
    return data / "two"


@pytest.fixture(scope="module")
def one_process(data, two_processes, pack):
    """The folder of a run by one process, with two micro-batches in place of two processes, cut in two."""
    model = by_path(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.sd, "load_clip", partial(comfy.sd.load_clip, model_options=TINY_TEXT))
        for steps in (2, 4):
            training = {"steps": steps, "accumulation": 2}
            assert train_here(settings(data, data / "one", model=model, training=training)) == 0
    return data / "one"


def train_here(config: Path, command: str = "train") -> int:
    """Trains, or does what else the command line can, in this process, which has a ComfyUI already."""
    from echoreel_pack.echoreel_core.training.command import command_line
    from echoreel_pack.nodes.training.headless import HeadlessModel

    return command_line("train.py", lambda config, _: HeadlessModel(config), [command, str(config)])


def test_two_processes_give_the_weights_of_one(two_processes, one_process):
    for name in ("adapter", "state"):
        two, one = (
            load_file(run / "checkpoints" / "step-0000004" / f"{name}.safetensors")
            for run in (two_processes, one_process)
        )
        assert two.keys() == one.keys()
        for key, value in two.items():
            torch.testing.assert_close(
                value, one[key], rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_the_adapter_does_in_a_graph_what_it_did_in_training(data, one_process, pack):
    from echoreel_pack.echoreel_core.training.data.cached_pairs import CachedPairs
    from echoreel_pack.nodes.models.adapter import load_adapter

    batch = CachedPairs(data / "cache").batch([0], [0])
    loaded = load_adapter(str(one_process / "echoreel-adapter.safetensors"))
    assert loaded.config.training["base_model"] == "wan.safetensors"
    assert_applied_as_trained(tiny_models.wan(), loaded, batch.target, batch.conditioning_of(0))


def test_two_experts_come_from_two_files(data, tmp_path, pack):
    from echoreel_pack.echoreel_core.training.config import read_config
    from echoreel_pack.nodes.training.headless import HeadlessModel

    model = HeadlessModel(read_config(settings(data, tmp_path / "run", model=two_experts(data, tmp_path))))
    model.check()
    biases = [expert.model.patch_embedding.bias for expert in model.host.experts]
    assert model.host.boundary == 0.875 and torch.equal(biases[0], -biases[1])
    told = model.config.model.names()
    assert told == {"base_model": "wan.safetensors", "low_noise_model": "low.safetensors"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_run_of_two_experts_killed_at_any_moment_ends_with_the_same_weights(data, tmp_path, monkeypatch, pack):
    """ECHOREEL_KILLS=10 kills more often than the usual twice."""
    monkeypatch.setattr(comfy.sd, "load_clip", partial(comfy.sd.load_clip, model_options=TINY_TEXT))
    more = {"model": two_experts(data, tmp_path), "training": {"steps": 4}, "output": {"checkpoint_every": 1}}
    whole, config = (settings(data, tmp_path / name, **more) for name in ("whole", "run"))
    assert train_here(whole, "cache") == 0
    wanted, final = (tmp_path / name / "echoreel-adapter.safetensors" for name in ("whole", "run"))
    rng, killed, kills = random.Random(0), 0, int(os.environ.get("ECHOREEL_KILLS", 2))
    began = time.monotonic()
    assert train_here(whole) == 0
    length = time.monotonic() - began
    while killed < kills:
        child = os.fork()
        if not child:
            os._exit(train_here(config))
        time.sleep(rng.uniform(0, 0.7 * length))
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        if final.exists():  # the run was over: from the beginning
            assert_same_weights(final, wanted)
            shutil.rmtree(tmp_path / "run")
    assert train_here(config) == 0
    assert_same_weights(final, wanted)


def assert_same_weights(one: Path, other: Path) -> None:
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


FEW = ("svd", "ltxv", "hunyuan", "cogvideox")
ALL = bool(os.environ.get("ECHOREEL_EVERY_FAMILY"))
EVERY = tuple(name for name in (*CASES, *IMAGE_CASES) if name not in NOT_TRAINED)


@pytest.mark.parametrize("name", EVERY if ALL else FEW)
def test_every_family_trains(name, data, tmp_path, monkeypatch, capsys, pack):
    """From a file that the host recognises, where its detection takes small sizes (not of SVD, Mochi, Cosmos, and two
    kinds of Wan); encoders stand in for files. ECHOREEL_EVERY_FAMILY=1 tries them all."""
    from echoreel_pack.echoreel_core.training.data.cached_pairs import CachedPairs
    from echoreel_pack.echoreel_core.training.data.conditioning import map_tensors
    from echoreel_pack.nodes.models.adapter import load_adapter
    from echoreel_pack.nodes.training import headless

    tiny = build(name)
    if tiny is None:
        pytest.skip(f"this ComfyUI has no {name}")
    vae, clip, sight = encoders_for(tiny)
    file = tmp_path / "model.safetensors"
    if not write_model(tiny, file):
        monkeypatch.setattr(headless, "load_model", lambda _: tiny.model)
    monkeypatch.setattr(headless, "load_encoders", lambda _: (vae, clip, sight))
    model, cache = {"diffusion_model": str(file)}, {"cache": str(tmp_path / "cache")}
    training = {"steps": 2, "gradient_checkpointing": True}
    assert train_here(settings(data, tmp_path / "run", model=model, data=cache, training=training)) == 0, (
        capsys.readouterr()
    )
    batch = CachedPairs(tmp_path / "cache").batch([0], [0])
    loaded = load_adapter(str(tmp_path / "run" / "echoreel-adapter.safetensors"))
    assert_applied_as_trained(tiny.model, loaded, batch.target, map_tensors(batch.conditioning_of(0), torch.clone))


def test_ltx_video_trains_from_its_own_files(data, tmp_path, monkeypatch, capsys, pack):
    """Model, VAE and text encoder; with ECHOREEL_EVERY_FAMILY=1 in a process of its own."""
    from echoreel_pack.echoreel_core.training.data.cached_pairs import CachedPairs
    from echoreel_pack.nodes.models.adapter import load_adapter

    write_ltxv(tmp_path)
    files = {name: str(tmp_path / "models" / name / "ltxv.safetensors") for name in ("diffusion_models", "vae")}
    model = {"diffusion_model": files["diffusion_models"], "vae": files["vae"], "text_encoder_type": "ltxv"}
    model["text_encoders"] = [str(tmp_path / "models" / "text_encoders" / "ltxv.safetensors")]
    training = {"steps": 2, "gradient_checkpointing": True, "learning_rate": 1e-2}
    config = settings(data, tmp_path / "run", model=model, data={"cache": str(tmp_path / "cache")}, training=training)
    if ALL:
        ran(TRAIN, config)
    else:
        monkeypatch.setattr(comfy.sd, "load_clip", partial(comfy.sd.load_clip, model_options=TINY_TEXT))
        assert train_here(config) == 0, capsys.readouterr()
    batch = CachedPairs(tmp_path / "cache").batch([0], [0])
    loaded = load_adapter(str(tmp_path / "run" / "echoreel-adapter.safetensors"))
    assert loaded.config.host == "ltxv"
    patcher = comfy.sd.load_diffusion_model(files["diffusion_models"])
    assert_applied_as_trained(patcher, loaded, batch.target, batch.conditioning_of(0))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"diffusion_model": "gone.safetensors"}, "names gone.safetensors, which is neither in ComfyUI's models/diff"),
        ({"low_noise_model": "gone.safetensors"}, "low_noise_model names gone.safetensors, which is neither"),
        ({"diffusion_model": "torn.safetensors"}, "ComfyUI cannot load torn.safetensors"),
        ({"text_encoder_type": "wam"}, "text_encoder_type is 'wam': this ComfyUI knows stable_diffusion"),
    ],
)
def test_what_cannot_be_loaded_is_named_in_a_sentence(model, says, data, tmp_path, capsys, pack):
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    assert train_here(settings(data, tmp_path / "run", model={**by_path(data), **model})) == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: ") and says in told and told.count("\n") == 1


def test_a_gguf_file_needs_its_pack(data, tmp_path, monkeypatch, capsys, pack):
    from echoreel_pack.nodes.training import gguf

    monkeypatch.setattr(gguf, "NODE", "no such node")
    monkeypatch.setattr(gguf, "PACK", "No-Such-Pack")
    (tmp_path / "model.GGUF").write_bytes(b"GGUF")
    model = {"diffusion_model": str(tmp_path / "model.GGUF")}
    assert train_here(settings(data, tmp_path / "run", model=model)) == 1
    told = capsys.readouterr().err
    assert told == "Error: model.GGUF needs the pack No-Such-Pack, which is not in ComfyUI's custom_nodes.\n"


def test_room_for_training_is_left_where_it_is_reserved(monkeypatch, pack):
    """And offloaded weights do not come in through shared buffers, which the backward pass would find overwritten."""
    from echoreel_pack.nodes.training.trainable import TrainableHostModel

    management = comfy.model_management
    host, asked = TrainableHostModel(tiny_models.wan()), []
    monkeypatch.setattr(management, "load_models_gpu", lambda models, **how: asked.append(how["force_full_load"]))
    for reserved in (None, 8.0):
        monkeypatch.setattr(management.args, "reserve_vram", reserved)
        host.load()
    assert asked == [True, False]
    monkeypatch.setattr(management, "NUM_STREAMS", 2)
    with host.gradient_context():
        assert management.NUM_STREAMS == 0
    assert management.NUM_STREAMS == 2
