"""The shipped workflows on a real ComfyUI, through its HTTP API, from a video file to a video file."""

import numpy as np
import pytest
import torch
from comfy_server import PromptRefused
from safetensors.torch import load_file
from video_clips import read_back, write_clip
from workflow_files import ALWAYS, BYPASSED, MUTED, id_of, of_type, shipped, to_prompt

PRISM, PRISM_LAYER, UNET = "ActionPrism", "ActionPrismLayer", "HostLVDMUNet"
ENCODE, APPLY, LOAD_ACTION = "EchoReelActionPrismEncode", "EchoReelApply", "EchoReelLoadAction"


@pytest.fixture(scope="module")
def prompt_of(object_info):
    """The API form of a shipped workflow, made quick."""
    return lambda name, **options: to_prompt(shipped(name, **options), object_info)


def sampled(server, prompt) -> torch.Tensor:
    """Runs a prompt and returns the latents its video is decoded from (encoders of video do not repeat exactly)."""
    saving = {"class_type": "SaveLatent", "inputs": {"samples": [id_of(prompt, "KSampler"), 0], "filename_prefix": "x"}}
    run = server.run({**prompt, "save": saving})
    assert server.file(run, ".mp4").is_file()
    return load_file(server.file(run, ".latent"))["latent_tensor"]


def video_of(server, prompt) -> np.ndarray:
    """Runs a prompt and returns the frames of the video file."""
    return read_back(server.file(server.run(prompt), ".mp4"))[0]


class Counted:
    """Calls of the prism and its layers, and of the video model, inside the `with`."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self._before = self.server.probe()
        return self

    def __exit__(self, *_):
        after = self.server.probe()
        self.calls = {name: after[name] - self._before[name] for name in after if name != "hooks"}
        self.hooks = after["hooks"]


def test_text_to_video_as_shipped(server, prompt_of):
    """Only the clip is chosen and the steps are fewer."""
    path = server.file(server.run(prompt_of("text to video", size=(256, 256))), ".mp4")
    frames, facts = read_back(path)
    assert frames.shape == (16, 256, 256, 3)
    assert facts["fps"] == 8 and facts["codec"] == "h264"
    assert frames.std() > 1


def test_the_prism_runs_twice_and_not_again_for_another_seed(server, prompt_of):
    prompt = prompt_of("text to video")
    of_type(prompt, ENCODE)[0]["inputs"]["caption"] = "a caption of its own"
    with Counted(server) as first:
        one = sampled(server, prompt)
    assert first.calls[PRISM] == 2

    prompt[id_of(prompt, "KSampler")]["inputs"]["seed"] = 2
    with Counted(server) as second:
        run = server.run(prompt)
        two = sampled(server, prompt)
    assert second.calls[PRISM] == 0
    assert id_of(prompt, ENCODE) in run.cached and id_of(prompt, "KSampler") not in run.cached
    assert not torch.equal(one, two)


def test_another_prompt_encodes_again(server, prompt_of):
    prompt = prompt_of("text to video")
    server.run(prompt)
    for node in of_type(prompt, "CLIPTextEncode"):
        node["inputs"]["text"] += " on the moon"
    with Counted(server) as counted:
        server.run(prompt)
    assert counted.calls[PRISM] == 2


def test_another_size_and_length_than_the_references(server, prompt_of):
    assert video_of(server, prompt_of("text to video", size=(96, 64), frames=12)).shape == (12, 64, 96, 3)


def test_two_references(server, prompt_of):
    write_clip(server.base / "input" / "other.mp4", 70, picture=lambda i, size: np.roll(disc(size), 3 * i, axis=1))
    prompt = prompt_of("two references")
    one, two = of_type(prompt, "EchoReelLoadReferenceVideo")
    two["inputs"]["file"] = "other.mp4"
    for node in of_type(prompt, "CLIPTextEncode"):
        node["inputs"]["text"] += " in the rain"
    with Counted(server) as counted:
        both = sampled(server, prompt)
    assert counted.calls[PRISM] == 4
    of_type(prompt, "EchoReelCombineActions")[0]["inputs"].update(how="blend", weights="1, 0.5")
    with Counted(server) as counted:
        blended = sampled(server, prompt)
    assert counted.calls[PRISM] == 0
    assert not torch.equal(both, blended)
    combining = of_type(prompt, "EchoReelCombineActions")[0]["inputs"]
    combining.update(how="one after another", weights="", crossfade=0.1, weight_1=2.0)
    in_turn = sampled(server, prompt)
    assert not torch.equal(both, in_turn) and not torch.equal(blended, in_turn)
    combining["weight_1"] = 0.5
    assert not torch.equal(sampled(server, prompt), in_turn)


def test_preview_and_compare(server, prompt_of):
    prompt = prompt_of("text to video")
    encode, decode = of_type(prompt, ENCODE)[0]["inputs"], id_of(prompt, "VAEDecode")
    action = {"action": [id_of(prompt, ENCODE), 0], "echoreel": encode["echoreel"], "frames": encode["frames"]}
    clips = {"clips.clip_0": encode["frames"], "clips.clip_1": [decode, 0]}
    compare = {**clips, "labels": "reference\nwith", "layout": "a video, side by side", "height": 64}
    run = server.run(
        {
            **prompt,
            "preview": {"class_type": "EchoReelPreviewAction", "inputs": action},
            "compare": {"class_type": "EchoReelCompare", "inputs": compare},
            "frames": {"class_type": "PreviewImage", "inputs": {"images": ["compare", 0]}},
        }
    )
    assert len(run.outputs["preview"]["images"]) == 1
    assert len(run.outputs["frames"]["images"]) == 16


def disc(size: tuple[int, int]) -> np.ndarray:
    width, height = size
    y, x = np.mgrid[:height, :width]
    inside = (x - width // 3) ** 2 + (y - height // 2) ** 2 < (height // 4) ** 2
    return np.repeat(inside[..., None].astype(np.uint8) * 200, 3, axis=2)


def test_a_saved_action_gives_the_same_video(server, object_info, prompt_of):
    direct = sampled(server, prompt_of("text to video", seed=3))

    saving = shipped("save and load an action", seed=3)
    server.run(to_prompt(saving, object_info))
    (file,) = (server.base / "output" / "echoreel_actions").glob("skiing_*.safetensors")

    for node in saving["nodes"]:
        node["mode"] = ALWAYS if node["mode"] == MUTED else MUTED
    of_type(saving, LOAD_ACTION)[0]["widgets_values"] = [file.name]
    with Counted(server) as counted:
        loaded = sampled(server, to_prompt(saving, object_info))
    assert counted.calls[PRISM] == 0
    assert torch.equal(loaded, direct)


def test_bypassed_it_is_the_plain_model(server, object_info):
    bypassed = shipped("text to video", seed=4)
    of_type(bypassed, APPLY)[0]["mode"] = BYPASSED
    plain_prompt = to_prompt(bypassed, object_info)
    checkpoint = id_of(plain_prompt, "EchoReelLoadCheckpoint")
    assert plain_prompt[id_of(plain_prompt, "KSampler")]["inputs"]["model"] == [checkpoint, 0]

    plain = sampled(server, plain_prompt)
    prompt = to_prompt(shipped("text to video", seed=4), object_info)
    assert not torch.equal(sampled(server, prompt), plain)
    prompt[id_of(prompt, APPLY)]["inputs"]["strength"] = 0.0
    assert torch.equal(sampled(server, prompt), plain)


def test_interrupt_stops_the_prism_and_the_next_run_works(server, prompt_of):
    prompt = prompt_of("text to video", seed=5)
    expected = sampled(server, prompt)
    encode = prompt[id_of(prompt, ENCODE)]["inputs"]
    caption, encode["caption"] = encode["caption"], "something never encoded before"
    with Counted(server) as counted:
        server.probe(delay=0.5)
        try:
            id_ = server.submit(prompt)
            before = server.probe()[PRISM_LAYER]
            while server.probe()[PRISM_LAYER] == before:
                pass
            server.interrupt()
            run = server.wait(id_)
        finally:
            server.probe(delay=0.0)
    assert run.interrupted
    assert counted.calls[PRISM] == 1 and counted.calls[PRISM_LAYER] == 1
    assert counted.calls[UNET] == 0 and counted.hooks == 0

    with Counted(server) as counted:
        assert not torch.equal(sampled(server, prompt), expected)
    assert counted.calls[PRISM] == 2
    encode["caption"] = caption
    server.forget()
    assert torch.equal(sampled(server, prompt), expected)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("", "No video is chosen: choose or upload one, or connect a video."),
        ("gone.mp4", "There is no video 'gone.mp4' in the input folder: choose another one."),
        ("../output/clip.mp4", "'../output/clip.mp4' is outside ComfyUI's input folder: move the video into it."),
    ],
)
def test_a_clip_that_can_not_be_used_is_refused_before_anything_runs(server, prompt_of, file, sentence):
    prompt = prompt_of("text to video")
    of_type(prompt, "EchoReelLoadReferenceVideo")[0]["inputs"]["file"] = file
    with pytest.raises(PromptRefused) as refused:
        server.submit(prompt)
    assert sentence in " ".join(refused.value.sentences)


def test_a_broken_clip_is_told_in_its_node_and_leaves_nothing_behind(server, prompt_of):
    (server.base / "input" / "broken.mp4").write_bytes(b"this is no video" * 100)
    prompt = prompt_of("text to video", seed=6)
    expected = sampled(server, prompt)
    reference = of_type(prompt, "EchoReelLoadReferenceVideo")[0]["inputs"]
    reference["file"] = "broken.mp4"
    run = server.wait(server.submit(prompt))
    assert run.error["node_type"] == "EchoReelLoadReferenceVideo"
    assert "broken.mp4" in run.error["exception_message"]
    assert server.probe()["hooks"] == 0
    reference["file"] = "clip.mp4"
    server.forget()
    assert torch.equal(sampled(server, prompt), expected)
