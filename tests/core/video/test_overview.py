"""A look at a whole clip: keyframes, upright, at their own times, for the cost of decoding them alone."""

import pytest
import torch
from PIL import Image
from video_clips import bars, numbers, write_clip, write_phone_clip

from echoreel_core.errors import EchoReelError
from echoreel_core.video.overview import overview

SIZE = {"width": 80, "height": 48}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts"])
def test_each_picture_is_a_keyframe_shown_at_its_time(tmp_path, suffix):
    codec = {".webm": "libvpx"}.get(suffix, "libx264")
    path = write_clip(tmp_path / f"clip{suffix}", 100, codec=codec, gop=10)
    found = overview(path, 10, **SIZE)
    times = [float(time) for time, _ in found]
    assert numbers(torch.stack([picture for _, picture in found])) == [round(time * 25) for time in times]
    assert times == sorted(set(times)) and times[0] < 0.5 and len(times) >= 7


def test_where_keyframes_are_rare_there_are_fewer(tmp_path):
    found = overview(write_clip(tmp_path / "clip.mp4", 500, gop=125, options={"sc_threshold": "0"}), 12, **SIZE)
    assert [round(float(time) * 25) for time, _ in found] == [0, 125, 250, 375]


def test_a_phones_clip_is_upright(tmp_path):
    ((time, picture), *_) = overview(write_phone_clip(tmp_path / "IMG.MOV"), 4, width=18, height=32)
    assert time == 0
    red = picture[..., 0] - picture[..., 2] > 0.2  # the square begins at the top left of the stored picture, lying
    rows, columns = red.nonzero(as_tuple=True)
    assert rows.float().mean() == pytest.approx(12, abs=2) and columns.float().mean() == pytest.approx(16, abs=2)


def test_of_pictures_that_are_no_video_file(tmp_path):
    stills = [Image.fromarray(bars(i)) for i in range(20)]
    stills[0].save(tmp_path / "moving.webp", save_all=True, append_images=stills[1:], duration=100, lossless=True)
    found = overview(tmp_path / "moving.webp", 5, **SIZE)
    assert [float(time) for time, _ in found] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    assert numbers(torch.stack([picture for _, picture in found])) == [0, 4, 8, 12, 16]


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "notes.mp4").write_text("no clip")
    with pytest.raises(EchoReelError, match="cannot be read as a video"):
        overview(tmp_path / "notes.mp4", 4, **SIZE)
