"""How long a clip lasts: what its packets say, not its container, and without reading a film to its end."""

import io
import os
from fractions import Fraction

import av
import pytest
from test_video import KINDS
from video_clips import cut_by_edit_list, write_clip, write_long_clip, write_sound

from echoreel_core.errors import EchoReelError
from echoreel_core.video.frames import video_length

FRAME = Fraction(1, 25)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(tmp_path, kind):
    name, arguments = KINDS[kind]
    if arguments.get("codec", "libx264") not in av.codecs_available:
        pytest.skip("this PyAV lacks the encoder")
    length = video_length(write_clip(tmp_path / name, 60, **arguments))
    without_an_index = name.endswith((".ts", ".mpg"))
    assert abs(length - 60 * FRAME) <= (FRAME if without_an_index else Fraction(1, 1000))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_late_first_frame_does_not_count(tmp_path, name):
    assert video_length(write_clip(tmp_path / name, 60, offset=5.0)) == 60 * FRAME


def test_what_an_edit_list_cuts_off_does_not_count(tmp_path):
    assert video_length(cut_by_edit_list(write_clip(tmp_path / "a.mp4", 100), 1.0)) == 3


def test_a_recording_that_names_no_length(tmp_path):
    """As browsers record: nothing but the frames says how long it is."""
    arguments = {"codec": "libvpx", "options": {"deadline": "realtime"}, "container_options": {"live": "1"}}
    clip = write_clip(tmp_path / "a.webm", 60, **arguments)
    with av.open(str(clip)) as container:
        assert container.duration is None
    assert video_length(clip) == 60 * FRAME


def test_a_long_clip_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "long.mp4"
    write_long_clip(path, 4, size=(320, 240))

    class Counted(io.FileIO):
        total = 0

        def readinto(self, buffer):
            count = super().readinto(buffer)
            self.total += count
            return count

        def read(self, size=-1):
            data = super().read(size)
            self.total += len(data)
            return data

    with Counted(path) as file:
        assert abs(video_length(file) - 240) < 1
        assert file.total < os.path.getsize(path) / 4


def test_no_video(tmp_path):
    with pytest.raises(EchoReelError, match="only sound"):
        video_length(write_sound(tmp_path / "a.m4a"))
