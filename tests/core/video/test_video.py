"""Reference clips: exactly which frames are taken from every kind of file, and one sentence for every bad one."""

import io
import random
import subprocess
import sys
import textwrap
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_clips import SIZE, bars, cut_by_edit_list, damage, numbers, turn, write_clip, write_long_clip, write_sound

from echoreel_core.errors import EchoReelError
from echoreel_core.video.frames import FrameSelection, fit, read_video, select_images
from echoreel_core.video.reader import VideoFile

ROOT = Path(__file__).parents[3]
LONG = {"mode": "every_nth", "every_nth": 1}


def bars_below_a_stripe(index: int, size: tuple[int, int]) -> np.ndarray:
    """With a part that never changes, which an animated PNG stores once."""
    image = bars(index, size)
    image[: size[1] // 4] = 200
    return image


# file name, write_clip's arguments
KINDS = {
    "h264 mp4": ("a.mp4", {}),
    "h264 mkv": ("a.mkv", {}),
    "h264 ts": ("a.ts", {"options": {"bf": "3"}}),
    "h264 avi": ("a.avi", {}),
    "h264 raw": ("a.h264", {"format": "h264"}),
    "h264 open gop": ("a.mp4", {"options": {"x264-params": "open-gop=1:bframes=3:scenecut=0"}}),
    "hevc mp4": ("a.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
    "hevc open gop ts": ("a.ts", {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1"}}),
    "mpeg4 avi": ("a.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "mpeg2 ps": ("a.mpg", {"codec": "mpeg2video", "options": {"bf": "2"}}),
    "vp9 webm": ("a.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "av1 mp4": ("a.mp4", {"codec": "libsvtav1", "options": {"preset": "12"}}),
    "prores mov": ("a.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
    "ffv1 mkv": ("a.mkv", {"codec": "ffv1"}),
    "mjpeg avi": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "gif": ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
    "apng": ("a.apng", {"codec": "apng", "pix_fmt": "rgb24", "picture": bars_below_a_stripe}),
    "odd size": ("a.mkv", {"codec": "ffv1", "size": (81, 47)}),
}


def taken(source, **sampling) -> list[int]:
    return numbers(read_video(source, FrameSelection(**sampling), width=80, height=48).frames)


@pytest.mark.parametrize("kind", KINDS)
def test_the_very_frames_asked_for(tmp_path, kind):
    """Sixty frames at 25 per second, of every kind PyAV reads and this wheel can write."""
    name, arguments = KINDS[kind]
    if (codec := arguments.get("codec", "libx264")) not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    clip = write_clip(tmp_path / name, 60, **arguments)

    assert taken(clip, frames=16) == [*range(0, 60, 4), 56]
    assert taken(clip, frames=4, start=1.0, duration=1.0) == [25, 29, 33, 37]
    assert taken(clip, frames=5, every_nth=1, start=-0.2) == [55, 56, 57, 58, 59]
    assert taken(clip, frames=3, mode="even") == [0, 30, 59]
    assert taken(clip, frames=4, mode="fps", fps=5, start=1.4) == [35, 40, 45, 50]
    assert taken(clip, frames=1, start=1.64) == [41]


def test_bytes_read_like_a_file(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 60)
    source = io.BytesIO(clip.read_bytes())
    source.seek(100)
    assert taken(source, frames=3, mode="even") == [0, 30, 59]
    assert not source.closed


def test_any_order_of_long_gops_with_b_frames(tmp_path):
    """Seeking lands right wherever the frames lie: 600 frames, keyframes 100 apart, compared one by one."""
    options = {"x264-params": "bframes=8:b-pyramid=normal:ref=6:scenecut=0:open-gop=1"}
    for name in ("a.mp4", "a.mkv", "a.ts"):
        clip = write_clip(tmp_path / name, 600, gop=100, options=options)
        with VideoFile(clip) as video:
            video.scan(FrameSelection(frames=600, **LONG))
            assert video.times == [Fraction(i, 25) for i in range(600)]
            generator = random.Random(0)
            for _ in range(12):
                chosen = sorted(generator.sample(range(600), 5))
                pictures = list(video.pictures([Fraction(i, 25) for i in chosen]))
                assert [time * 25 for time, _ in pictures] == chosen
                rgb = torch.stack([torch.from_numpy(p.to_ndarray(format="rgb24")) for _, p in pictures])
                assert numbers(rgb / 255) == chosen


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.webm"])
def test_seeks_instead_of_decoding_from_the_start(tmp_path, name):
    codec = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}} if name == "a.webm" else {}
    clip = write_clip(tmp_path / name, 1000, gop=20, **codec)
    steps = []
    video = read_video(
        clip, FrameSelection(frames=5, mode="even"), width=80, height=48, progress=lambda done, all: steps.append(done)
    )
    assert numbers(video.frames) == [0, 250, 500, 749, 999]
    # One step per frame decoded, per 256 packets read and per frame done; a TS may land a little early.
    assert len(steps) < (400 if name == "a.ts" else 150)
    assert steps[-1] == 5


def test_reads_no_further_than_needed(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 1000)
    for sampling in (FrameSelection(frames=4), FrameSelection(frames=4, mode="fps", duration=1)):
        with VideoFile(clip) as video:
            video.scan(sampling)
            assert len(video.times) < 80


# Time, not index


def test_variable_rate_keeps_its_speed(tmp_path):
    """Ten frames in the first second, twenty in the next half: an average rate of 20 would take the wrong ones."""
    milliseconds = [100 * i for i in range(10)] + [1000 + 25 * i for i in range(20)]
    clip = write_clip(tmp_path / "a.mp4", 30, milliseconds=milliseconds)

    first_second = read_video(clip, FrameSelection(frames=30, duration=1, **LONG), width=80, height=48)
    assert numbers(first_second.frames) == [*range(10), *[9] * 20]
    assert first_second.repeated == 20
    assert first_second.fps == 10

    assert taken(clip, frames=6, mode="fps", fps=4) == [0, 2, 5, 7, 10, 20]
    even = read_video(clip, FrameSelection(frames=4, mode="even"), width=80, height=48)
    assert numbers(even.frames) == [0, 5, 9, 29]
    assert even.times == tuple(Fraction(ms, 1000) for ms in (0, 500, 900, 1475))
    assert even.fps == pytest.approx(3 / 1.475)
    assert even.source.variable_rate
    assert "variable" in even.summary()


def test_a_picture_held_on_screen_is_taken_as_long_as_it_is_shown(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 3, milliseconds=[0, 100, 3000])
    assert taken(clip, frames=7, mode="fps", fps=2) == [0, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(("has", "asked"), [(16, 33), (34, 33), (60, 33)])
def test_frames_spread_evenly_do_not_lag(has, asked):
    """What is on screen began half a frame ago on average, which a motion of as many frames would show."""
    times = [Fraction(i, 8) for i in range(has)]
    choice = FrameSelection(frames=asked, mode="even").choose(times, Fraction(has, 8))
    lags = [times[-1] * i / (asked - 1) - shown for i, shown in enumerate(choice.times)]
    assert abs(sum(lags) / asked) < Fraction(1, 8) / 20
    assert max(map(abs, lags)) <= Fraction(1, 16)
    assert (choice.times[0], choice.times[-1]) == (times[0], times[-1])


def test_a_picture_that_is_held_stays_until_shortly_before_the_next_one():
    times = [Fraction(tenths, 10) for tenths in (0, 1, 2, 3, 30)]
    choice = FrameSelection(frames=31, mode="even").choose(times, Fraction(31, 10))
    assert [choice.times.count(time) for time in times] == [1, 1, 1, 27, 1]


def test_times_a_container_rounds_to_milliseconds():
    """At 30 frames per second Matroska says 0.067 for frame 2, a little after 1/15."""
    times = [Fraction(round(i * 1000 / 30), 1000) for i in range(60)]
    end = Fraction(2)
    choice = FrameSelection(frames=16, mode="fps", fps=15).choose(times, end)
    assert [times.index(t) for t in choice.times] == [*range(0, 32, 2)]
    choice = FrameSelection(frames=60, mode="even").choose(times, end)
    assert [times.index(t) for t in choice.times] == [*range(60)]
    for index in range(60):  # a start typed to the millisecond is the frame meant
        choice = FrameSelection(frames=1, start=round(index / 30, 3)).choose(times, end)
        assert times.index(choice.times[0]) == index


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mp4"])
def test_zero_is_the_first_frame_wherever_the_container_starts(tmp_path, name):
    clip = write_clip(tmp_path / name, 60, offset=5.0)
    assert taken(clip, frames=3, start=1, every_nth=1) == [25, 26, 27]
    assert taken(clip, frames=2, start=-0.08, every_nth=1) == [58, 59]


def test_frames_before_an_edit_list_are_not_shown(tmp_path):
    clip = cut_by_edit_list(write_clip(tmp_path / "a.mp4", 60, gop=60), 0.4)
    assert taken(clip, frames=3) == [10, 14, 18]
    assert taken(clip, frames=2, start=1, every_nth=1) == [35, 36]


# Spans


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A hundred frames, four seconds."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 100)


def test_a_start_between_frames_takes_nothing_from_before(clip):
    assert taken(clip, frames=2, every_nth=1, start=1.01) == [26, 27]


def test_a_span_shorter_than_a_frame_takes_the_frame_on_screen(clip):
    assert taken(clip, frames=2, start=1.01, duration=0.01) == [25, 25]


def test_a_start_before_the_beginning_is_the_beginning(clip):
    assert taken(clip, frames=2, every_nth=1, start=-60) == [0, 1]


def test_start_and_duration_count_within_an_upstream_trim(clip):
    trim = (1.0, 2.0)
    assert taken(clip, frames=100, trim=trim, **LONG)[:50] == list(range(25, 75))
    assert taken(clip, frames=2, start=0.4, every_nth=1, trim=trim) == [35, 36]
    assert taken(clip, frames=3, start=-0.08, every_nth=1, trim=trim) == [73, 74, 74]
    assert taken(clip, frames=2, duration=10, mode="even", trim=trim) == [25, 74]
    assert taken(clip, frames=2, mode="even", trim=(3.0, 0.0)) == [75, 99]


def test_rate_of_the_chosen_frames(clip):
    def rate(**sampling) -> float:
        return read_video(clip, FrameSelection(**sampling), width=8, height=8).fps

    assert rate() == 6.25
    assert rate(every_nth=40) == 0.625  # only three frames, the last repeated
    assert rate(mode="even", frames=4) == pytest.approx(3 / 3.96)
    assert rate(mode="fps", fps=12) == 12
    assert rate(frames=1) == 6.25


def test_what_was_taken_is_told(clip):
    video = read_video(clip, FrameSelection(frames=4, every_nth=40), width=8, height=8)
    assert video.times == (0, Fraction(8, 5), Fraction(16, 5), Fraction(16, 5))
    assert video.repeated == 1
    summary = video.summary()
    for part in ("clip.mp4", "80 x 48", "h264", "25 fps", "0.000 1.600 3.200", "repeated"):
        assert part in summary


def test_frames_taken_more_than_once_are_told(clip):
    def summary(**sampling) -> str:
        return read_video(clip, FrameSelection(frames=4, mode="even", **sampling), width=8, height=8).summary()

    assert "holds only 2 frames: some are taken more than once." in summary(duration=0.08)
    assert "more than once" not in summary(duration=0.16)


def test_frames_in_memory_are_chosen_alike(clip):
    with av.open(str(clip)) as container:
        images = torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)])
    times = [Fraction(i, 25) for i in range(100)]
    for sampling in (
        FrameSelection(),
        FrameSelection(mode="even", start=1.01),
        FrameSelection(mode="fps", fps=7, start=-1),
    ):
        ours = select_images(images, times, Fraction(4), sampling)
        file = read_video(clip, sampling)
        assert (ours.times, ours.fps, ours.repeated) == (file.times, file.fps, file.repeated)
        assert torch.equal(ours.frames, file.frames)
    floats = select_images(images / 255, times, Fraction(4), FrameSelection(), width=80, height=48)
    assert numbers(floats.frames) == [*range(0, 64, 4)]


def test_progress_reaches_the_end_and_may_interrupt(clip):
    class Interrupted(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        read_video(clip, progress=stop)
    seen = []
    read_video(clip, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (16, 16)
    assert seen == sorted(seen)


# Pictures


def corner(_index: int, size: tuple[int, int]) -> np.ndarray:
    """Red, but for a white quarter at the upper left."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 255
    image[: height // 2, : width // 2] = 255
    return image


@pytest.mark.parametrize(
    "degrees, size, white",
    [(0, (80, 48), (0, 0)), (90, (48, 80), (0, 1)), (180, (80, 48), (1, 1)), (270, (48, 80), (1, 0))],
)
def test_rotation_is_honoured(tmp_path, degrees, size, white):
    """Turned clockwise by 90 degrees, what was at the upper left is at the upper right."""
    clip = turn(write_clip(tmp_path / "a.mp4", 3, picture=corner), degrees)
    video = read_video(clip, FrameSelection(frames=1), width=64, height=64)
    assert (video.source.width, video.source.height) == size
    green = video.frames[0, :, :, 1]
    quarters = {(row, column): green[16 + 32 * row, 16 + 32 * column].item() for row in (0, 1) for column in (0, 1)}
    assert {place for place, value in quarters.items() if value > 0.5} == {white}


def test_full_range_of_values(tmp_path):
    clip = write_clip(
        tmp_path / "a.mkv", 2, codec="ffv1", picture=lambda i, size: np.full((*size[::-1], 3), 255 * i, np.uint8)
    )
    frames = read_video(clip, FrameSelection(frames=2, every_nth=1)).frames
    assert frames.dtype == torch.float32
    assert frames.shape == (2, 256, 256, 3)
    assert frames[0].max() < 0.01
    assert frames[1].min() > 0.99
    assert frames.max() <= 1


def test_fit_without_a_change_of_size_changes_nothing():
    image = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8)
    for crop in ("stretch", "center", "pad"):
        assert torch.allclose(fit(image, 30, 20, crop), image / 255, atol=1e-6)


def test_fit_is_antialiased():
    """One white column in eight, shrunk eightfold, is an even grey; without antialiasing it is missed altogether."""
    image = torch.zeros(64, 64, 3)
    image[:, ::8] = 1
    inner = fit(image, 8, 8)[:, 1:-1]
    assert (inner - 1 / 8).abs().max() < 0.01


def test_fit_center_cuts_the_sides_and_pad_adds_bars():
    image = torch.zeros(40, 80, 3)
    image[:, :20], image[:, 60:] = 1, 1  # white sides
    assert fit(image, 40, 40, "center").max() == 0
    padded = fit(image, 40, 40, "pad")
    assert padded[:10].max() == 0 and padded[30:].max() == 0
    assert torch.equal(padded[10:30, 0], torch.ones(20, 3))
    tall = image.transpose(0, 1)
    assert fit(tall, 40, 40, "center").max() == 0
    assert torch.equal(fit(tall, 40, 40, "pad"), padded.transpose(0, 1))


def test_fit_minds_the_shape_of_pixels():
    """Pixels twice as wide as high: 40 x 40 of them are shown 2 : 1."""
    image = torch.ones(40, 40, 3)
    padded = fit(image, 40, 40, "pad", pixel_aspect=2)
    assert padded[:10].max() == 0 and padded[10:30].min() == 1 and padded[30:].max() == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_fit_takes_any_size(size):
    for crop in ("stretch", "center", "pad"):
        assert fit(torch.ones(*size, 3), 16, 8, crop).shape == (8, 16, 3)


# Captions


def test_caption_is_the_text_beside_the_clip_else_its_title(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 3, title="a dog jumps")
    assert read_video(clip).caption == "a dog jumps"
    (tmp_path / "a.txt").write_bytes("\ufeff ein Hund springt über\n".encode())
    assert read_video(clip).caption == "ein Hund springt über"
    (tmp_path / "a.txt").write_text("\n")
    assert read_video(clip).caption == "a dog jumps"
    assert read_video(write_clip(tmp_path / "b.mkv", 3)).caption == ""


# Bad input


def refused(source, **sampling) -> str:
    with pytest.raises(EchoReelError) as error:
        read_video(source, FrameSelection(**sampling))
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_one_frame_is_repeated(tmp_path):
    for name, arguments in {"a.mp4": {}, "a.gif": {"codec": "gif", "pix_fmt": "rgb8"}}.items():
        clip = write_clip(tmp_path / name, 1, **arguments)
        video = read_video(clip, width=80, height=48)
        assert numbers(video.frames) == [0] * 16 and video.repeated == 15
        for mode in ("even", "fps"):
            assert read_video(clip, FrameSelection(mode=mode)).frames.shape[0] == 16


def test_files_that_are_no_video(tmp_path):
    assert "No such file" in refused(tmp_path / "none.mp4")
    assert "folder" in refused(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "empty" in refused(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video " * 100)
    assert "text.mp4" in refused(tmp_path / "text.mp4")
    assert "cannot be read" in refused(io.BytesIO(b"\0" * 5000))


def test_sound_without_a_picture(tmp_path):
    assert "only sound" in refused(write_sound(tmp_path / "a.m4a"))
    assert "only sound" in refused(write_sound(tmp_path / "a.flac", cover=True))


def test_a_track_without_frames(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
    assert "a.mkv" in refused(tmp_path / "a.mkv")


def test_a_file_cut_off(tmp_path):
    """What is there is used; an mp4 whose index, at its end, is gone cannot be opened at all."""
    whole = write_clip(tmp_path / "a.mkv", 100, options={"preset": "ultrafast", "crf": "10"}).read_bytes()
    part = tmp_path / "part.mkv"
    part.write_bytes(whole[: len(whole) // 2])
    assert taken(part, frames=8) == list(range(0, 32, 4))
    last = taken(part, frames=1, start=-0.04)[0]
    assert 30 < last < 70
    assert "past the end" in refused(part, start=3.9)

    whole = write_clip(tmp_path / "a.mp4", 100).read_bytes()
    (tmp_path / "part.mp4").write_bytes(whole[: len(whole) // 2])
    assert "cut off" in refused(tmp_path / "part.mp4")

    options = {"options": {"crf": "10"}, "container_options": {"movflags": "faststart"}}
    whole = write_clip(tmp_path / "b.mp4", 100, **options).read_bytes()
    (tmp_path / "part.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    assert taken(tmp_path / "part.mp4", frames=8) == list(range(0, 32, 4))
    assert 40 < taken(tmp_path / "part.mp4", frames=2, mode="even")[1] < 99


def test_damage_matters_only_where_a_frame_is_taken(tmp_path):
    clip = damage(write_clip(tmp_path / "a.mp4", 20, rate=5, gop=1), 7)
    assert taken(clip, frames=6, every_nth=3) == [0, 3, 6, 9, 12, 15]
    assert "damaged at 1.400 s" in refused(clip, frames=2, start=1.4)


def test_questions_without_an_answer(clip):
    assert "4.000 s" in refused(clip, start=4)
    assert "lasts 1.000 s" in refused(clip, start=2, trim=(1, 1))
    assert "trimmed video starts at 9.000 s" in refused(clip, trim=(9, 0))
    for wrong in (
        {"frames": 0},
        {"every_nth": 0},
        {"fps": 0},
        {"fps": float("nan")},
        {"duration": -1},
        {"start": float("inf")},
        {"mode": "random"},
    ):
        with pytest.raises(EchoReelError, match=r"\.$"):
            FrameSelection(**wrong)
    with pytest.raises(EchoReelError, match="0 x 256"):
        read_video(clip, width=0)
    with pytest.raises(EchoReelError, match="'zoom'"):
        read_video(clip, crop="zoom")
    with pytest.raises(EchoReelError, match="GB"):
        read_video(clip, FrameSelection(frames=10**6), width=4096, height=4096)
    with pytest.raises(EchoReelError, match="no frames"):
        select_images(torch.zeros(0, 8, 8, 3), [], Fraction(0))


def test_no_address_is_fetched():
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert "cannot be opened" in refused(f"http://127.0.0.1:{server.server_port}/a.mp4")
    finally:
        server.shutdown()
        server.server_close()
    assert not asked


def test_8k_pictures(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 2, size=(7680, 4320), options={"preset": "ultrafast"})
    assert taken(clip, frames=2, every_nth=1) == [0, 1]


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is read from /proc")
def test_memory_of_ten_minutes_of_1080p(tmp_path):
    """16 frames spread over the clip take less than 200 MB above the process that has everything imported."""
    clip = tmp_path / "long.mp4"
    write_long_clip(clip, 10)
    script = textwrap.dedent(
        """
        import re, sys
        from echoreel_core.video.frames import FrameSelection, read_video

        def memory(what):
            return int(re.search(what + r":\\s*(\\d+) kB", open("/proc/self/status").read())[1]) // 1024

        idle = memory("VmRSS")
        video = read_video(sys.argv[1], FrameSelection(frames=16, mode="even"))
        assert video.times[-1] > 599
        print(memory("VmHWM") - idle)
        """
    )
    result = subprocess.run([sys.executable, "-c", script, str(clip)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 12 < int(result.stdout) < 200
