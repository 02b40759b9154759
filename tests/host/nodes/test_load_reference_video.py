"""Load Reference Video in the real host: its VIDEO types, its folders, its validation."""

import asyncio
import io
import json
import os
from fractions import Fraction
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch
from PIL import Image
from video_clips import bars, numbers, turn, write_clip

INPUTS = "file start duration frame_count sampling every_nth target_fps width height crop video".split()
OUTPUTS = "frames fps caption info".split()


@pytest.fixture
def node(pack):
    return pack.nodes.load_reference_video.LoadReferenceVideo


@pytest.fixture
def folder(tmp_path):
    """An input folder of our own, with clip.mp4: a hundred frames in four seconds."""
    import folder_paths

    before = folder_paths.get_input_directory(), folder_paths.get_output_directory()
    inputs, outputs = tmp_path / "input", tmp_path / "output"
    inputs.mkdir()
    outputs.mkdir()
    folder_paths.set_input_directory(str(inputs))
    folder_paths.set_output_directory(str(outputs))
    write_clip(inputs / "clip.mp4", 100, title="bars")
    yield inputs
    folder_paths.set_input_directory(before[0])
    folder_paths.set_output_directory(before[1])


def run(node, file="clip.mp4", **inputs):
    defaults = {
        "start": 0.0,
        "duration": 0.0,
        "frame_count": 4,
        "sampling": "every nth frame",
        "every_nth": 4,
        "target_fps": 8.0,
        "width": 80,
        "height": 48,
        "crop": "stretch",
    }
    output = node.execute(file=file, **{**defaults, **inputs})
    return output.args


def tall_square(index, size):
    """A black square, slightly moving, in the middle of a white picture that is higher than wide."""
    picture = np.full((size[1], size[0], 3), 255, np.uint8)
    picture[28:52, 10 + index % 4 : 34 + index % 4] = 0
    return picture


def host_video(path, **trim):
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(path if isinstance(path, io.BytesIO) else str(path), **trim)


def test_ids_and_their_order_are_what_saved_workflows_know(node, folder):
    schema = node.define_schema()
    assert schema.node_id == "EchoReelLoadReferenceVideo"
    assert [i.id for i in schema.inputs] == INPUTS
    assert [o.id for o in schema.outputs] == OUTPUTS
    assert not set(INPUTS) & set(OUTPUTS)
    assert all(i.tooltip for i in schema.inputs)
    assert schema.inputs[4].options == ["every nth frame", "spread evenly", "fixed fps"]
    assert schema.inputs[9].options == ["stretch", "center", "pad"]
    assert node.INPUT_TYPES()["required"]["file"][1]["video_upload"] is True


def test_an_example_that_comes_with_the_pack(node, folder):
    frames, _, caption, info = run(node, "figure eight [echoreel]", frame_count=16, every_nth=1, width=32, height=32)
    assert frames.shape == (16, 32, 32, 3)
    assert caption == "a big pink star tracing figure eights on a maroon background"
    assert info.startswith("figure eight.mp4")
    assert "There is no example 'moon walk': use one of cartwheel," in node.validate_inputs("moon walk [echoreel]")


def test_the_list_shows_videos_animated_pictures_and_sequences(node, folder):
    pictures = [Image.fromarray(bars(i)) for i in range(3)]
    (folder / "walk").mkdir()
    (folder / "single").mkdir()
    for name in ("b.webp", "f.png"):
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=100)
    for name in ("e.png", "g.webp", "walk/1.png", "walk/2.png", "single/1.png"):
        pictures[0].save(folder / name)
    for name in ("a.gif", "c.mkv", "d.txt", "single/sub.MP4"):
        (folder / name).touch()
    (folder / "f.mp4").mkdir()
    options = node.define_schema().inputs[0].options
    own = ["a.gif", "b.webp", "c.mkv", "clip.mp4", "f.png", "single/sub.MP4", "walk/"]
    assert options[: len(own)] == own  # one's own come first
    assert options[len(own) :] and all(name.endswith(" [echoreel]") for name in options[len(own) :])


def test_a_full_input_folder_is_looked_into_once(node, folder, monkeypatch):
    import importlib

    files = importlib.import_module(f"{node.__module__.rpartition('.')[0]}.clip_files")
    Image.fromarray(bars(1)).save(folder / "still.png")
    node.define_schema()
    monkeypatch.setattr(files, "is_clip", lambda path: pytest.fail(f"{path} is read again"))
    assert "still.png" not in node.define_schema().inputs[0].options
    os.utime(folder / "still.png", ns=(1, 1))
    with pytest.raises(pytest.fail.Exception, match=r"still\.png"):
        node.define_schema()


def test_an_image_sequence(node, folder):
    (folder / "walk").mkdir()
    for index in range(20):
        Image.fromarray(bars(index)).save(folder / "walk" / f"shot {index}.png")
    frames, fps, _, info = run(node, "walk/")
    assert (numbers(frames), fps) == ([0, 4, 8, 12], 6)
    mark = node.fingerprint_inputs(file="walk/")
    Image.fromarray(bars(99)).save(folder / "walk" / "shot 4.png")
    assert node.fingerprint_inputs(file="walk/") != mark


def test_a_file(node, folder):
    frames, fps, caption, info = run(node)
    assert (frames.shape, frames.dtype) == ((4, 48, 80, 3), torch.float32)
    assert numbers(frames) == [0, 4, 8, 12]
    assert (fps, caption) == (6.25, "bars")
    assert "clip.mp4" in info and "0.480" in info
    (folder / "clip.txt").write_text("a clip of bars")
    assert run(node)[2] == "a clip of bars"


@pytest.mark.parametrize("count, rate", [(16, 25), (100, 25), (300, 60)])
def test_the_defaults_suit_any_clip(node, folder, count, rate):
    """As many frames as the released EchoReel takes, of the time it was trained on, none twice, nobody squashed."""
    inputs = {entry.id: entry.default for entry in node.define_schema().inputs[1:10]}
    write_clip(folder / "any.mp4", count, rate=rate, size=(48, 80), picture=tall_square)
    frames, fps, _, info = node.execute(file="any.mp4", **inputs).args
    assert frames.shape == (16, 256, 256, 3)
    assert len(set(info.splitlines()[-1].split()[3:])) == 16 and "repeated" not in info
    assert 15 / fps == pytest.approx(min(count / rate, 2.5), abs=1.5 / rate)
    dark = frames[0].mean(-1) < 0.5
    assert dark.any(0).sum() == pytest.approx(dark.any(1).sum(), abs=8)


@pytest.mark.parametrize(
    "inputs, expected",
    [
        ({"start": -1.0, "every_nth": 1}, [75, 76, 77, 78]),
        ({"sampling": "spread evenly"}, [0, 33, 66, 99]),
        ({"sampling": "fixed fps", "target_fps": 2.5, "start": 1.0, "duration": 1.0}, [25, 35, 45, 45]),
    ],
)
def test_samplings(node, folder, inputs, expected):
    assert numbers(run(node, **inputs)[0]) == expected


def test_a_connected_video_wins_over_the_file(node, folder):
    other = write_clip(folder.parent / "other.mp4", 300)
    expected = [200, 204, 208, 212]
    assert numbers(run(node, video=host_video(other), start=8.0)[0]) == expected
    assert numbers(run(node, file="", video=host_video(io.BytesIO(other.read_bytes())), start=8.0)[0]) == expected


@pytest.mark.parametrize("start, duration", [(1.0, 2.0), (0.6, 0.0), (-1.0, 0.0)])
def test_a_trim_made_upstream_gives_the_hosts_own_frames(node, folder, start, duration):
    trimmed = host_video(folder / "clip.mp4").as_trimmed(start, duration, strict_duration=False)
    images = trimmed.get_components().images
    frames = run(node, video=trimmed, frame_count=len(images), every_nth=1)[0]
    assert numbers(frames) == numbers(images)
    last = run(node, video=trimmed, frame_count=2, sampling="spread evenly")[0]
    assert numbers(last) == numbers(images[[0, -1]])


def test_a_video_made_from_images_is_not_encoded(node, folder, monkeypatch):
    from comfy_api.latest import InputImpl, Types

    images = torch.stack([torch.from_numpy(bars(i)) for i in range(50)]) / 255
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(10)))
    monkeypatch.setattr(video, "save_to", None)
    frames, fps, caption, _ = run(node, video=video, start=1.0)
    assert torch.allclose(frames, images[10:23:4])
    assert (fps, caption) == (2.5, "")


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_agrees_with_the_host(node, folder, degrees):
    video = host_video(turn(folder / "clip.mp4", degrees))
    host = video.get_components().images[:1]
    height, width = host.shape[1:3]
    ours = run(node, video=video, frame_count=1, start=1.0, width=width, height=height)[0]
    host = video.get_components().images[25:26]
    assert (ours - host).abs().mean() < 0.02


def test_animated_webp(node, folder):
    images = [Image.fromarray(bars(i)) for i in range(20)]
    images[0].save(folder / "a.webp", save_all=True, append_images=images[1:], duration=[100] * 10 + [50] * 10)
    (folder / "a.txt").write_text("bars")
    frames, fps, caption, _ = run(node, "a.webp", sampling="fixed fps", target_fps=5, frame_count=8)
    assert numbers(frames) == [0, 2, 4, 6, 8, 10, 14, 18]
    assert (fps, caption) == (5, "bars")
    data = (folder / "a.webp").read_bytes()
    (folder / "a.webp").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.webp.*\.$"):
        run(node, "a.webp")


def test_where_files_may_lie(node, folder):
    outside = write_clip(folder.parent / "outside.mp4", 3)
    write_clip(folder.parent / "input2.mp4", 3)
    (folder / "out.mp4").symlink_to(outside)
    (folder / "in.mp4").symlink_to(folder / "clip.mp4")
    (folder / "sub").mkdir()
    write_clip(folder / "sub" / "clip.mp4", 3)
    write_clip(folder.parent / "output" / "made.mp4", 3)

    whole = [str(folder / "clip.mp4"), str(folder.parent / "output" / "made.mp4")]
    for good in ("clip.mp4", "in.mp4", "sub/clip.mp4", "made.mp4 [output]", *whole):
        assert node.validate_inputs(file=good) is True
    for file, words in {
        "": "No video is chosen",
        "none.mp4": "no video 'none.mp4'",
        "sub": "no video 'sub'",
        "../outside.mp4": "outside",
        "../input2.mp4": "outside",
        str(outside): "outside",
        "out.mp4": "outside",
        "made.mp4": "no video",
        ".": "outside",
    }.items():
        assert words in node.validate_inputs(file=file), file
        with pytest.raises(ValueError, match=words):
            run(node, file)


def verdict(node, monkeypatch, **inputs):
    """What the host itself says to a prompt: (accepted, details of what is wrong with the node)."""
    import execution
    from comfy_extras.nodes_video import LoadVideo

    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "EchoReelLoadReferenceVideo", node)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "LoadVideo", LoadVideo)
    required = {
        name: options[1]["default"] for name, options in node.INPUT_TYPES()["required"].items() if name != "file"
    }
    prompt = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "2": {"class_type": "EchoReelLoadReferenceVideo", "inputs": {**required, **inputs}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    accepted, _, _, errors = asyncio.run(execution.validate_prompt("id", prompt, None))
    return accepted, [error["details"] for error in errors.get("2", {"errors": []})["errors"]]


def test_the_host_refuses_before_running(node, folder, monkeypatch):
    assert verdict(node, monkeypatch, file="clip.mp4") == (True, [])
    (folder / "fresh upload.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    assert verdict(node, monkeypatch, file="fresh upload.mp4") == (True, [])
    for file in ("", "none.mp4", "../clip.mp4"):
        accepted, details = verdict(node, monkeypatch, file=file)
        assert not accepted and len(details) == 1 and details[0].startswith("file - ")
    # Without a file, a connected video is enough.
    assert verdict(node, monkeypatch, file="", video=["1", 0]) == (True, [])


def test_a_changed_clip_or_caption_is_noticed(node, folder):
    def mark():
        return node.fingerprint_inputs(file="clip.mp4", start=0.0, video=None)

    first = mark()
    assert mark() == first
    os.utime(folder / "clip.mp4", ns=(1, 1))
    second = mark()
    assert second != first
    (folder / "clip.txt").write_text("caption")
    assert mark() != second
    assert node.fingerprint_inputs(file="") == node.fingerprint_inputs(file="none.mp4")


def test_interrupting(node, folder):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        run(node)
    assert numbers(run(node)[0]) == [0, 4, 8, 12]


def test_progress_reaches_the_bar(node, folder, monkeypatch):
    import comfy.utils

    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: seen.append((value, total)))
    run(node)
    assert seen[-1] == (4, 4)


def test_the_page_is_told_the_suffixes_of_the_core(pack, node):
    from echoreel_pack.echoreel_core.video.kinds import PICTURE_SUFFIXES, VIDEO_SUFFIXES

    _, told = node.INPUT_TYPES()["required"]["file"]
    assert tuple(told["video_suffixes"]) == VIDEO_SUFFIXES
    assert tuple(told["picture_suffixes"]) == PICTURE_SUFFIXES


def test_a_run_tells_the_page_what_it_took(node, folder):
    """With times that count from where a trim made upstream begins."""
    import folder_paths

    trimmed = host_video(folder / "clip.mp4").as_trimmed(1.0, 2.0, strict_duration=False)
    inputs = {"frame_count": 4, "sampling": "every nth frame", "every_nth": 4, "target_fps": 8.0, "crop": "stretch"}
    output = node.execute(file="", start=0.5, duration=0.0, width=80, height=48, video=trimmed, **inputs)
    (told,) = output.ui["echoreel_filmstrip"]
    told = json.loads(told)
    assert told["times"] == pytest.approx([0.52, 0.68, 0.84, 1.0], abs=0.021)
    assert (told["length"], told["rate"], told["fps"], told["repeated"]) == (2.0, 25.0, 6.25, 0)
    name = dict(parse_qsl(told["picture"].partition("?")[2]))
    assert name["type"] == "temp"
    with Image.open(Path(folder_paths.get_temp_directory()) / name["filename"]) as picture:
        grid = torch.from_numpy(np.array(picture)).unflatten(0, (2, 48)).unflatten(2, (2, 80)).transpose(1, 2)
    assert numbers(grid.flatten(0, 1) / 255) == numbers(output.args[0])
