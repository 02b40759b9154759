"""Train EchoReel through the queue of a real server, on the model that comes with the pack."""

import json
import re
import shutil

import pytest
import torch
from comfy_server import ComfyServer
from safetensors.torch import load_file
from training_runs import settings, write_actions
from video_clips import write_clip
from workflow_files import Prompt, id_of, shipped, to_prompt

UNET = "HostLVDMUNet"
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
    prompt[id_of(prompt, "KSampler")]["inputs"]["steps"] = 2
    saving = {"samples": [id_of(prompt, "KSampler"), 0], "filename_prefix": "trained"}
    run = server.run({**prompt, "out": {"class_type": "SaveLatent", "inputs": saving}})
    return load_file(server.file(run, ".latent"))["latent_tensor"]


def test_trained_in_a_server_saved_loaded_and_applied(server, object_info, moves):
    server.run(training(sample_every=2))
    assert list((server.base / "output" / "echoreel_training" / "queued" / "samples").glob("*.mp4"))
    (saved,) = (server.base / "models" / "echoreel").glob("queued_*.safetensors")
    before, after = applied(server, object_info), applied(server, object_info, saved.name)
    assert torch.isfinite(after).all() and not torch.equal(before, after)


def test_it_says_how_far_it_is_and_cancel_saves_what_was_learned(server, moves):
    prompt = training(name="cancelled", steps=10_000)
    told = []  # quick clips and steps are not all told
    with server.progress_texts() as next_line:
        id_ = server.submit(prompt)
        try:
            while not told or "loss" not in told[-1]:
                told.append(next_line(""))
            passes = server.probe()[UNET]
        finally:
            server.interrupt()
        run = server.wait(id_)
    assert told[0] == "Checking the clips"
    *caching, last = [line for line in told if " of 7: " in line]
    left = r"\d of 7: (encoded|text) .+, [\d.e-]+ s a clip, \d+ seconds? left"
    assert [line for line in caching if not re.fullmatch(left, line)] == []
    assert re.fullmatch(r"7 of 7: text '.+', [\d.e-]+ s a clip", last)
    assert re.fullmatch(r"step \d+ of 10000, loss [\d.]+, [\d.]+ s a step, \d+ (minute|hour)s? left", told[-1])
    assert run.interrupted
    assert server.probe()[UNET] - passes <= 2  # of two passes a step
    folder = server.base / "output" / "echoreel_training" / "cancelled" / "checkpoints"
    (kept,) = folder.iterdir()
    step = int(kept.name.removeprefix("step-"))
    assert step >= int(told[-1].split()[1])
    prompt["train"]["inputs"]["steps"] = step + 1
    server.run(prompt)
    assert {path.name for path in folder.iterdir()} == {kept.name, f"step-{step + 1:07d}"}


def test_a_fresh_prisms_start_is_told_and_cancel_ends_it(server, moves):
    prompt = training(name="starting", steps=10_000)
    del prompt["train"]["inputs"]["echoreel"]
    with server.progress_texts() as next_line:
        id_ = server.submit(prompt)
        try:
            line = next_line("The prism")
        finally:
            server.interrupt()
        run = server.wait(id_)
    number = r"[\d.e-]+"
    words = rf"The prism first learns by itself: step \d+ of 300, loss {number}, {number} s a step, \d+ \w+ left"
    assert re.fullmatch(words, line)
    assert run.interrupted
    assert not (server.base / "output" / "echoreel_training" / "starting" / "checkpoints").exists()


@pytest.mark.parametrize("posed", [True, False])
def test_keypoints_beside_the_clips_are_learned_in_the_start_and_after_it(server, posed):
    name, clips = f"posed {posed}", server.base / "input" / f"posed {posed}"
    write_actions(clips, ("Hop",))
    poses = [{"people": [{"pose_keypoints_2d": [0.02 * frame, 0.5, 1.0, 0.6, 0.5, 1.0]}]} for frame in range(22)]
    for clip in (clips / "Hop").glob("*.mp4") if posed else ():
        frames = int(clip.stem[-5]) + 20  # as `write_actions` has them
        clip.with_suffix(".pose.json").write_text(json.dumps(poses[:frames]))
    prompt = training(name=name, data=clips.name, steps=2, prism_start_steps=1, motion_loss=0.1, optimizer="muon")
    del prompt["train"]["inputs"]["echoreel"]
    server.run(prompt)
    checkpoints = server.base / "output" / "echoreel_training" / name / "checkpoints"
    start, end = (load_file(checkpoints / f"step-{step:07d}" / "state.safetensors") for step in (0, 2))
    maps = "reader_weights.maps.weight"
    assert maps in start and torch.equal(start[maps], end[maps]) is not posed
    assert ("reader.maps.weight.momentum_buffer" in end) is posed


def test_it_runs_again_where_clips_were_added_or_its_folder_is_gone(server, moves):
    prompt = training(name="again", data="more moves", steps=1)
    write_actions(server.base / "input" / "more moves", ("Hop",))
    server.run(prompt)
    assert "train" in server.run(prompt).cached
    write_clip(server.base / "input" / "more moves" / "Hop" / "v_Hop_g03_c01.mp4", 20, size=(64, 64))
    assert "train" not in server.run(prompt).cached
    folder = server.base / "output" / "echoreel_training" / "again"
    assert len(json.loads((folder / "cache" / "manifest.json").read_text())["pairs"]) == 3
    poses = [{"people": [{"pose_keypoints_2d": [0.25, 0.5, 1.0]}]}] * 20
    (server.base / "input" / "more moves" / "Hop" / "v_Hop_g03_c01.pose.json").write_text(json.dumps(poses))
    assert "train" not in server.run(prompt).cached
    kept = [load_file(path).get("keypoints") for path in (folder / "cache" / "latents").iterdir()]
    assert [points[:, 0].tolist() for points in kept if points is not None] == [[[-0.5, 0.0]] * 4]
    shutil.rmtree(folder)
    assert "train" not in server.run(prompt).cached
    assert (folder / "again.safetensors").is_file()
    assert "train" in server.run(prompt).cached
