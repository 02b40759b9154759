"""The filmstrip under Load Reference Video: the frames it shows are the frames that the node takes."""

import asyncio
import base64
import io
import json
import os
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest
import torch
from video_clips import bars, cut_by_edit_list, numbers, write_clip

VALUES = {
    "file": "clip.mp4",
    "duration": 0,
    "frame_count": 16,
    "sampling": "every nth frame",
    "width": 80,
    "height": 48,
}


@pytest.fixture
def folder(tmp_path):
    """An input folder of our own, with clip.mp4: a hundred frames in four seconds."""
    import folder_paths

    before = folder_paths.get_input_directory()
    folder_paths.set_input_directory(str(tmp_path / "input"))
    (tmp_path / "input").mkdir()
    write_clip(tmp_path / "input" / "clip.mp4", 100)
    yield tmp_path / "input"
    folder_paths.set_input_directory(before)


def strip_of(pack, **values):
    """What the page gets for widgets of these values."""
    values = pack.nodes.page.frame_preview_route.widget_values({**VALUES, **{k: str(v) for k, v in values.items()}})
    return pack.nodes.page.frame_preview.frame_preview(values, lambda *_: None)


def frames_in(strip) -> torch.Tensor:
    """[T, H, W, 3], cut out of the picture."""
    from PIL import Image

    kind, _, data = strip["picture"].partition(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    grid = torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3) / 255
    columns, count = strip["columns"], len(strip["times"])
    rows = -(-count // columns)
    cells = grid.view(rows, image.height // rows, columns, image.width // columns, 3).transpose(1, 2)
    return cells.flatten(0, 1)[:count]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"start": 1.5, "duration": 1},
        {"start": -1, "every_nth": 1, "frame_count": 20},
        {"sampling": "spread evenly", "frame_count": 7},
        {"sampling": "fixed fps", "target_fps": 5, "start": 2, "duration": 1.1},
    ],
)
def test_it_shows_the_frames_that_the_node_takes(pack, folder, values):
    strip = strip_of(pack, **values)
    node = pack.nodes.load_reference_video.LoadReferenceVideo
    widgets = pack.nodes.page.frame_preview_route.widget_values({**VALUES, **{k: str(v) for k, v in values.items()}})
    frames, _, _, info = node.execute(**widgets).args
    assert numbers(frames_in(strip)) == numbers(frames)
    taken = len(frames) - strip["repeated"]
    shown = " ".join(f"{time:.3f}" for time in strip["times"][:taken])
    assert info.endswith(f"Shown at (s): {shown}")
    assert (strip["length"], strip["rate"], strip["aspect"]) == (4.0, 25.0, 80 / 48)


def test_what_repeats_is_told(pack, folder):
    strip = strip_of(pack, start=3.5)
    assert numbers(frames_in(strip)) == [88, 92, *[96] * 14]
    assert strip["repeated"] == 13


def test_an_animated_webp(pack, folder):
    from PIL import Image

    images = [Image.fromarray(bars(i)) for i in range(20)]
    images[0].save(folder / "a.webp", save_all=True, append_images=images[1:], duration=100)
    strip = strip_of(pack, file="a.webp", frame_count=5)
    assert numbers(frames_in(strip)) == [0, 4, 8, 12, 16]
    assert strip["length"] == 2.0


def test_a_clip_trimmed_by_a_phone_lasts_as_long_as_it_plays(pack, folder):
    cut_by_edit_list(folder / "clip.mp4", 1.0)
    strip = strip_of(pack, frame_count=4)
    assert strip["length"] == 3.0
    assert strip["times"][0] == 0.0


def test_many_large_frames_make_a_picture_of_bounded_size(pack, folder):
    strip = strip_of(pack, frame_count=1024, every_nth=1, width=4096, height=8)
    assert frames_in(strip).shape[1:3].numel() * 1024 <= 2**22
    assert len(strip["times"]) == 1024


@pytest.mark.parametrize(
    "values, words",
    [
        ({"file": ""}, "No video is chosen"),
        ({"file": "../clip.mp4"}, "outside"),
        ({"file": "/etc/passwd"}, "outside"),
        ({"file": "none.mp4"}, "no video 'none.mp4'"),
        ({"file": "clip.mp4\0"}, "is not a file name"),
        ({"start": 9}, "past the end"),
        ({"start": "soon"}, "'start' is 'soon': use a number from"),
        ({"start": "nan"}, "'start' is 'nan'"),
        ({"duration": -1}, "'duration' is '-1': use a number from 0.0 to"),
        ({"frame_count": 1025}, "'frames' is '1025'"),
        ({"frame_count": 2.5}, "use a whole number from 1 to 1024"),
        ({"width": 10**9}, "'width' is"),
        ({"sampling": "often"}, "The sampling 'often' is unknown"),
        ({"crop": "round"}, "The crop 'round' is unknown"),
    ],
)
def test_one_sentence_for_what_cannot_be_shown(pack, folder, values, words):
    with pytest.raises(ValueError) as caught:
        strip_of(pack, **values)
    text = str(caught.value)
    assert words in text and text.endswith(".") and "\n" not in text


class Request:
    """What the route looks at of a page's request."""

    if_none_match = None

    def __init__(self, transport: object = "open", **values: object) -> None:
        self.query = {**VALUES, **{name: str(value) for name, value in values.items()}}
        self.transport = transport


def test_a_page_that_has_left_costs_nothing(pack, folder, monkeypatch):
    route = pack.nodes.page.frame_preview_route
    read = []
    monkeypatch.setattr(route, "frame_preview", lambda values, step: read.append(values) or {})
    asyncio.run(route.answer(Request(transport=None)))
    assert not read
    asyncio.run(route.answer(Request()))
    assert len(read) == 1


def test_reading_stops_when_the_page_leaves(pack, folder, monkeypatch):
    """At the next frame, not at the end."""
    import importlib

    route, core = (
        pack.nodes.page.frame_preview_route,
        importlib.import_module(f"{pack.__name__}.echoreel_core.video.frames"),
    )
    request, fitted = Request(frame_count=20, every_nth=1), []
    fit = core.fit

    def leave(*arguments, **options):
        fitted.append(1)
        if len(fitted) == 3:
            request.transport = None
        return fit(*arguments, **options)

    monkeypatch.setattr(core, "fit", leave)
    asyncio.run(route.answer(request))
    assert len(fitted) == 3


def test_the_server_goes_on_while_a_clip_is_read(pack, folder, monkeypatch):
    route, served = pack.nodes.page.frame_preview_route, threading.Event()
    monkeypatch.setattr(route, "frame_preview", lambda *_: {"others served": served.wait(30)})

    async def both():
        answer = asyncio.ensure_future(route.answer(Request()))
        await asyncio.sleep(0)
        served.set()
        return await answer

    assert json.loads(asyncio.run(both()).body) == {"others served": True}


def get(server, headers=None, route="filmstrip", **values):
    """(status, headers, JSON) from the running ComfyUI."""
    address = f"{server.url}/api/echoreel/{route}?{urllib.parse.urlencode({**VALUES, **values})}"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers or {}), timeout=60) as reply:
            return reply.status, reply.headers, json.load(reply)
    except urllib.error.HTTPError as reply:
        text = reply.read()
        return reply.code, reply.headers, json.loads(text) if text else None


def test_the_running_host_answers(server):
    status, headers, strip = get(server, start=1, frame_count=4)
    assert status == 200
    assert strip["times"] == [1.0, 1.16, 1.32, 1.48]
    assert numbers(frames_in(strip)) == [25, 29, 33, 37]
    assert headers["Cache-Control"] == "private, no-cache"
    _, _, whole = get(server, route="overview", count=4)
    assert len(whole["times"]) == 4 and whole["times"][0] == 0 and whole["times"][-1] > 2
    assert frames_in(whole).shape == (4, 48, 48, 3)
    assert [get(server, route="overview", count=count)[2] for count in ("", "-1", "x")] == [{"times": []}] * 3


def test_what_the_page_has_is_not_read_again(server):
    clip = server.base / "input" / "tagged.mp4"
    shutil.copy(server.base / "input" / "clip.mp4", clip)
    _, headers, _ = get(server, file="tagged.mp4")
    tag = {"If-None-Match": headers["ETag"]}
    assert get(server, tag, file="tagged.mp4")[0] == 304
    assert get(server, tag, file="tagged.mp4", start=1)[0] == 200
    os.utime(clip, ns=(1, 1))
    assert get(server, tag, file="tagged.mp4")[0] == 200


@pytest.mark.parametrize("file", ["../comfyui.log", "/etc/passwd", "..%2Fcomfyui.log", "none.mp4", "clip.mp4 [models]"])
@pytest.mark.parametrize("route", ["filmstrip", "overview"])
def test_nothing_outside_the_input_folder_is_read(server, file, route):
    status, _, reply = get(server, file=file, route=route)
    assert status == 400
    assert set(reply) == {"error"} and reply["error"].endswith(".")
    assert str(server.base) not in reply["error"]
