"""Train EchoReel through the queue of a real server, on the model that comes with the pack."""

import pytest
import torch
from comfy_server import ComfyServer
from safetensors.torch import load_file
from training_runs import settings, write_actions
from workflow_files import Prompt, id_of, shipped, to_prompt

EMBEDDED = "Pixel Actions (comes with EchoReel)"


@pytest.fixture(scope="module")
def moves(server):
    write_actions(server.base / "input" / "moves")
    return server.base / "input" / "moves"


def training(**changes) -> Prompt:
    """Two steps of the embedded model's own adapter, then saved under the run's name."""
    inputs = settings(**{"steps": 2, "width": 32, "height": 32, "name": "queued", **changes})
    wired = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "echoreel": ["load", 3]}
    saved = {"echoreel": ["train", 0], "filename_prefix": inputs["name"], "precision": "float32"}
    return {
        "load": {"class_type": "EchoReelLoadCheckpoint", "inputs": {"checkpoint": EMBEDDED}},
        "train": {"class_type": "EchoReelTrain", "inputs": {**wired, **inputs}},
        "save": {"class_type": "EchoReelSaveAdapter", "inputs": saved},
    }


def applied(server: ComfyServer, object_info, adapter: str | None = None) -> torch.Tensor:
    """The latents of the template that needs nothing downloaded, with another adapter in place of the embedded one."""
    prompt = to_prompt(shipped("your own clip", size=(32, 32)), object_info)
    if adapter:
        for node in prompt.values():
            if "echoreel" in node["inputs"]:
                node["inputs"]["echoreel"] = ["adapter", 0]
        prompt["adapter"] = {"class_type": "EchoReelLoadAdapter", "inputs": {"adapter": adapter}}
    saving = {"samples": [id_of(prompt, "KSampler"), 0], "filename_prefix": "trained"}
    run = server.run({**prompt, "out": {"class_type": "SaveLatent", "inputs": saving}})
    return load_file(server.file(run, ".latent"))["latent_tensor"]


def test_trained_in_a_server_saved_loaded_and_applied(server, object_info, moves):
    server.run(training(sample_every=2))
    assert list((server.base / "output" / "echoreel_training" / "queued" / "samples").glob("*.mp4"))
    (saved,) = (server.base / "models" / "echoreel").glob("queued_*.safetensors")
    before, after = applied(server, object_info), applied(server, object_info, saved.name)
    assert torch.isfinite(after).all() and not torch.equal(before, after)
