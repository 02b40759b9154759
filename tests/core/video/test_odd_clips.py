"""Clips that are unusual, damaged or made to do harm: mirrored, very fast, full of zeros, HDR, transparent."""

import os
import struct
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from video_clips import SIZE, bars, numbers, write_clip

from echoreel_core.errors import EchoReelError
from echoreel_core.video import hdr
from echoreel_core.video.frame_choice import FrameSelection
from echoreel_core.video.frames import read_video, select_images
from echoreel_core.video.reader import VideoFile

ALL = {"mode": "every_nth", "every_nth": 1}


def taken(source, **sampling) -> list[int]:
    return numbers(read_video(source, FrameSelection(**sampling), width=80, height=48).frames)


# Orientation


def quarters(_index: int, size: tuple[int, int]) -> np.ndarray:
    """A grey for each quarter: 0 and 85 above, 170 and 255 below."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, width // 2 :] = 85
    image[height // 2 :, : width // 2] = 170
    image[height // 2 :, width // 2 :] = 255
    return image


MATRICES = {  # (a, b, c, d): (x, y) is shown at (a x + c y, b x + d y); the quarters by rows
    "mirrored": ((-1, 0, 0, 1), [85, 0, 255, 170]),
    "upside down": ((1, 0, 0, -1), [170, 255, 0, 85]),
    "transposed": ((0, 1, 1, 0), [0, 170, 85, 255]),
    "transposed the other way": ((0, -1, -1, 0), [255, 85, 170, 0]),
    "turned": ((0, 1, -1, 0), [170, 0, 255, 85]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_the_display_matrix(tmp_path, name):
    (a, b, c, d), expected = MATRICES[name]
    path = write_clip(tmp_path / "a.mp4", 2, picture=quarters)
    data = bytearray(path.read_bytes())
    one = 1 << 16
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    video = read_video(path, FrameSelection(frames=1), width=64, height=64)
    found = [255 * video.frames[0, row, column, 1].item() for row in (16, 48) for column in (16, 48)]
    assert found == pytest.approx(expected, abs=8)
    assert ("mirrored" in video.summary()) == (name != "turned")


# Times


def test_a_thousand_frames_a_second(tmp_path):
    times = list(range(200))
    clip = write_clip(tmp_path / "a.mp4", 200, milliseconds=times)
    assert taken(clip, frames=8, **ALL) == list(range(8))
    assert taken(clip, frames=5, start=0.1, **ALL) == [100, 101, 102, 103, 104]
    assert taken(clip, frames=3, start=0.1, duration=0.003, mode="fps", fps=1000) == [100, 101, 102]
    assert taken(clip, frames=4, mode="fps", fps=100) == [0, 10, 20, 30]


def test_a_burst_in_a_slow_clip():
    """Frames 0.2 ms apart between others 40 ms apart: each is itself."""
    burst = [Fraction(400 + i, 5000) for i in range(1, 6)]
    times = [Fraction(0), Fraction(2, 50), *burst, Fraction(6, 50), Fraction(8, 50)]
    images = torch.stack([torch.from_numpy(bars(i, SIZE)) for i in range(len(times))])
    chosen = select_images(images, times, Fraction(1, 5), FrameSelection(9, **ALL), width=80, height=48)
    assert numbers(chosen.frames) == list(range(9))
    for index, shown in enumerate(times):
        selection = FrameSelection(1, start=float(shown), **ALL)
        assert numbers(select_images(images, times, Fraction(1, 5), selection).frames) == [index]


def test_a_long_selection_takes_time_in_proportion(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 3, size=(16, 16))
    begin = time.process_time()
    read_video(clip, FrameSelection(20_000, mode="fps", fps=200_000), width=8, height=8)
    assert time.process_time() - begin < 10


# Damage


def restless_bars(index: int, size: tuple[int, int]) -> np.ndarray:
    """With a strip that is new in every frame, so that each packet holds much."""
    image = bars(index, size)
    strip = image[size[1] * 3 // 4 :]
    strip[:] = np.random.default_rng(index).integers(0, 256, strip.shape, np.uint8)
    return image


@pytest.mark.parametrize("kept", [0, 1 / 3])
def test_a_hole_filled_by_guessing_is_not_taken(tmp_path, kept):
    """A P frame's data is overwritten: H.264 hides it in that one and in all that follow up to the next keyframe."""
    options = {"bf": "0", "crf": "20", "x264-params": "scenecut=0"}
    clip = write_clip(tmp_path / "a.mp4", 30, rate=5, gop=10, size=(320, 192), options=options, picture=restless_bars)
    with av.open(str(clip)) as container:
        packet = [p for p in container.demux(video=0) if p.size][13]
        place, size = packet.pos, packet.size
    data = bytearray(clip.read_bytes())
    begin = place + int(size * kept)
    data[begin : place + size] = np.random.default_rng(0).bytes(place + size - begin)
    clip.write_bytes(data)
    assert taken(clip, frames=3, start=2.0, **ALL) == [10, 11, 12]
    for start in (2.6, 3.4):
        with pytest.raises(EchoReelError, match="is damaged at"):
            taken(clip, frames=1, start=start)
    assert taken(clip, frames=3, start=4.0, **ALL) == [20, 21, 22]


@pytest.mark.parametrize("name, format", [("a.mkv", "matroska"), ("a.h264", "h264")])
def test_zeros_at_the_end_are_the_end(tmp_path, name, format):
    """What a download that was cut off leaves: 8 GB of nothing, which takes no place on the disk."""
    clip = write_clip(tmp_path / name, 60, format=format)
    os.truncate(clip, 8 << 30)
    begin = time.perf_counter()
    assert taken(clip, frames=3, every_nth=20) == [0, 20, 40]
    with VideoFile(clip) as video:
        assert video.length() >= Fraction(59, 25)
    assert time.perf_counter() - begin < 10


def test_a_long_search_can_be_stopped(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", 60)
    with open(clip, "ab") as file:
        for _ in range(60):
            file.write(b"\1" * (1 << 20))
    asked = 0

    class Stop(Exception):
        pass

    def stop(*_):
        nonlocal asked
        asked += 1
        if asked > 3:
            raise Stop

    with pytest.raises(Stop):  # far fewer than 256 packets are there to be counted
        read_video(clip, FrameSelection(frames=1, start=-0.1), progress=stop)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "b.txt")
    write_clip(tmp_path / "b.mp4", 2)
    answers = []

    def read():
        with pytest.raises(EchoReelError, match=r"a\.mp4 .*pipe"):
            read_video(tmp_path / "a.mp4")
        answers.append(read_video(tmp_path / "b.mp4").caption)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert answers == [""]


# Colours


def flat(colour: tuple[int, ...]):
    return lambda _index, size: np.tile(np.array(colour, np.uint8), (size[1], size[0], 1))


def first_pixel(path) -> list[float]:
    return (255 * read_video(path, FrameSelection(frames=1), width=8, height=8).frames[0, 4, 4]).tolist()


@pytest.mark.parametrize("size, matrix", [((1280, 720), "bt709"), ((640, 480), "smpte170m")])
def test_colours_without_a_tag_are_those_of_the_size(tmp_path, size, matrix):
    """The same stream with and without its tag: HD is BT.709, SD is BT.601."""
    options = {"options": {"x264-params": f"colormatrix={matrix}"}, "size": size, "picture": flat((200, 60, 20))}
    tagged = write_clip(tmp_path / "tagged.mp4", 2, **options)
    plain = write_clip(tmp_path / "plain.mp4", 2, **{**options, "options": {}})
    assert first_pixel(plain) == pytest.approx(first_pixel(tagged), abs=1)


def test_transparent_parts_show_white(tmp_path):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "argb"
        picture = np.zeros((16, 16, 4), np.uint8)
        picture[:, :, 1] = 255  # red, hidden on the left, half of it seen on the right
        picture[:, 8:, 0] = 128
        frame = av.VideoFrame.from_ndarray(picture, format="argb")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = read_video(path, FrameSelection(frames=1), width=16, height=16).frames[0]
    assert frames[8, 2].tolist() == [1, 1, 1]
    assert (255 * frames[8, 13]).tolist() == pytest.approx([255, 127, 127], abs=1)


def test_hdr_is_brought_to_sdr(tmp_path):
    """Black stays black, the peak is white, SDR's white stays bright, and a grey stays grey."""
    greys = torch.tensor([0.0, 26.0, 203.0, 1000.0])  # cd/m²
    codes = (hdr._to_pq(greys) * 65535).round().int()[None, :, None].expand(1, 4, 3)
    black, dark, white, peak = hdr.to_sdr(codes, hdr.PQ)[0].tolist()
    assert black == [0, 0, 0] and min(peak) >= 254
    assert max(dark) - min(dark) <= 1 and 90 < dark[0] < 115  # (26 / 203) ** (1 / 2.4) * 255 = 108
    assert 190 < white[0] < 240
    hlg = hdr.to_sdr(torch.tensor([[[0] * 3, [49152] * 3, [65535] * 3]]), hdr.HLG)[0, :, 0].tolist()
    assert hlg[0] == 0 and 190 < hlg[1] < 240 and hlg[2] >= 254  # 75 % is SDR's white, by BT.2408

    tags = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    options = {"pix_fmt": "yuv420p10le", "picture": flat((148, 148, 148))}  # 58 % in PQ: 203 cd/m²
    clip = write_clip(tmp_path / "pq.mp4", 2, options={"x264-params": tags}, **options)
    assert first_pixel(clip) == pytest.approx([white[0]] * 3, abs=4)
    assert first_pixel(write_clip(tmp_path / "sdr.mp4", 2, **options)) == pytest.approx([148] * 3, abs=3)


def test_the_default_track_is_the_one_shown(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for _ in range(2):
            stream = container.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            streams.append(stream)
        streams[0].disposition, streams[1].disposition = av.stream.Disposition.dub, av.stream.Disposition.default
        for index in range(4):
            for number, stream in zip((index, 100 + index), streams, strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(number), format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    assert taken(path, frames=4, **ALL) == [100, 101, 102, 103]
