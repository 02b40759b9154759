"""What a user reads in the node when something is wrong, on a real ComfyUI; and that it goes on working."""

from __future__ import annotations

import os
import pickle
import re

import av
import pytest
import torch
from checkpoints import SHIPPED_NAME, save_as_deepspeed, toy_state_dict
from comfy_server import PromptRefused
from safetensors.torch import save_file
from video_clips import bars, write_clip, write_sound
from workflow_files import id_of

LOAD_VIDEO, LOAD_CHECKPOINT = "EchoReelLoadReferenceVideo", "EchoReelLoadCheckpoint"
LOAD_ACTION, SAVE_ACTION = "EchoReelLoadAction", "EchoReelSaveAction"


def reference_video(file: str) -> dict:
    """A prompt of Load Reference Video alone."""
    inputs = {"file": file, "start": 0.0, "duration": 0.0, "frame_count": 16, "sampling": "every nth frame"}
    inputs.update(every_nth=4, target_fps=8.0, width=64, height=64, crop="stretch")
    return {
        "1": {"class_type": LOAD_VIDEO, "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def checkpoint(file: str) -> dict:
    """A prompt that loads a checkpoint and decodes something with its VAE."""
    return {
        "1": {"class_type": LOAD_CHECKPOINT, "inputs": {"checkpoint": file}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


def apply_saved_action(file: str) -> dict:
    """A prompt that samples with a saved action."""
    sampler = {"seed": 1, "steps": 1, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["3", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["2", 0]}
    apply = {"model": ["1", 0], "echoreel": ["1", 3], "action": ["5", 0]}
    return {
        **checkpoint(SHIPPED_NAME),
        "3": {
            "class_type": "EchoReelApply",
            "inputs": {**apply, "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
        },
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
        "5": {"class_type": LOAD_ACTION, "inputs": {"file": file}},
        "6": {"class_type": "KSampler", "inputs": {**sampler, **links}},
        "7": {"class_type": "SaveLatent", "inputs": {"samples": ["6", 0], "filename_prefix": "x"}},
    }


def refused(server, prompt: dict, by: str) -> str:
    """The one sentence the node `by` answers a prompt with, before or while it runs; nothing is left hooked in."""
    try:
        run = server.wait(server.submit(prompt))
    except PromptRefused as refusal:
        node = refusal.answer["node_errors"][id_of(prompt, by)]
        (sentence,) = {error["details"] for error in node["errors"]}
    else:
        assert run.error, f"{by} took it"
        assert run.error["node_type"] == by
        sentence = run.error["exception_message"].strip()
        assert run.error["exception_type"] == "echoreel.EchoReelError"  # shown too: no path of the server
    assert "\n" not in sentence and 20 < len(sentence) < 400, sentence
    assert "Traceback" not in sentence and "object at 0x" not in sentence, sentence
    assert server.probe()["hooks"] == 0
    return sentence


def text(path):
    path.write_text("this is no video\n" * 100)


def truncated(path):
    whole = write_clip(path.with_name("whole.mp4"), 60).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def no_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()


BAD_VIDEOS = {
    "text": text,
    "empty": lambda path: path.touch(),
    "truncated": truncated,
    "sound": lambda path: write_sound(path),
    "no_frames": no_frames,
}


@pytest.mark.parametrize("kind", BAD_VIDEOS)
def test_files_that_hold_no_clip(server, kind):
    path = server.base / "input" / f"bad_{kind}.mp4"
    BAD_VIDEOS[kind](path)
    assert path.name in refused(server, reference_video(path.name), LOAD_VIDEO)


ODD_VIDEOS = {
    "one frame": (1, (80, 48)),
    "odd sides": (20, (81, 47)),
    "8k": (1, (7680, 4320)),
    "a line": (3, (640, 2)),
}


@pytest.mark.parametrize("kind", ODD_VIDEOS)
def test_unusual_clips_are_read(server, kind):
    count, size = ODD_VIDEOS[kind]
    path = server.base / "input" / f"{kind.replace(' ', '_')}.mkv"
    write_clip(path, count, size=size, codec="ffv1", pix_fmt="bgr0", picture=lambda i, s: bars(i + 5, s))
    run = server.run(reference_video(path.name))
    assert len(run.outputs["2"]["images"]) == 16


@pytest.mark.parametrize("way", ["up", "absolute", "up from a file", "link"])
def test_files_outside_the_input_folder(server, way):
    outside = server.base / "outside.mp4"
    write_clip(outside, 10)
    file = {"up": "../outside.mp4", "absolute": str(outside), "up from a file": "clip.mp4/../../outside.mp4"}.get(way)
    if way == "link":
        file = "link.mp4"
        os.symlink(outside, server.base / "input" / file)
    assert re.search("is outside|There is no video", refused(server, reference_video(file), LOAD_VIDEO))


class Malice:
    """Makes the file `executed` when it is unpickled the ordinary way."""

    def __init__(self, folder):
        self.marker = folder / "executed"

    def __reduce__(self):
        return open, (str(self.marker), "w")


def truncated_checkpoint(path):
    save_as_deepspeed(toy_state_dict(), path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)


def incomplete(path):
    weights = toy_state_dict()
    del weights["model.diffusion_model.video_inject_process.net.1.norm1.weight"]
    save_as_deepspeed(weights, path)


BAD_CHECKPOINTS = {
    "truncated.pt": truncated_checkpoint,
    "a_web_page.pt": lambda path: path.write_text("<html>404 Not Found</html>"),
    "other_architecture.safetensors": lambda path: save_file(
        {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.zeros(6, 2)}, path
    ),
    "incomplete.pt": incomplete,
    "malicious.pt": lambda path: torch.save({"module": Malice(path.parent)}, path),
    "malicious.ckpt": lambda path: path.write_bytes(pickle.dumps({"state_dict": Malice(path.parent)})),
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_checkpoints(server, name):
    folder = server.base / "models" / "checkpoints"
    BAD_CHECKPOINTS[name](folder / name)
    assert name in refused(server, checkpoint(name), LOAD_CHECKPOINT)
    assert not (folder / "executed").exists()


@pytest.fixture(scope="module")
def saved_action(server):
    """An action of random tokens for an adapter that is not the toy's."""
    from echoreel_pack.echoreel_core.action.action import Action, Reference
    from echoreel_pack.echoreel_core.action.file import save_action

    path = server.base / "output" / "echoreel_actions" / "foreign.safetensors"
    tokens = torch.randn(2, 1, 8, 256)
    save_action(Action.of(Reference(*tokens), "0123456789abcdef", "lvdm"), path)
    return path


def test_an_action_of_another_adapter(server, saved_action):
    sentence = refused(server, apply_saved_action(saved_action.name), "EchoReelApply")
    assert "0123456789abcdef" in sentence


def test_a_damaged_action(server, saved_action):
    damaged = saved_action.with_name("damaged.safetensors")
    damaged.write_bytes(saved_action.read_bytes()[:-50])
    assert damaged.name in refused(server, apply_saved_action(damaged.name), LOAD_ACTION)


def test_a_file_that_is_no_action(server, saved_action):
    other = saved_action.with_name("other.safetensors")
    save_file({"weight": torch.zeros(2, 2)}, other)
    assert other.name in refused(server, apply_saved_action(other.name), LOAD_ACTION)


def test_actions_are_not_saved_outside_their_folder(server, saved_action):
    prompt = {
        "1": {"class_type": LOAD_ACTION, "inputs": {"file": saved_action.name}},
        "2": {"class_type": SAVE_ACTION, "inputs": {"action": ["1", 0], "filename_prefix": "../../escaped"}},
    }
    assert "'../../escaped'" in refused(server, prompt, SAVE_ACTION)
    assert not list(server.base.rglob("escaped*"))
