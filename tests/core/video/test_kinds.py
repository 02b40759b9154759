"""Which files are clips: one list for the node, the trainer and the library; a WebP only where it is animated."""

from fractions import Fraction

import pytest
import torch
from PIL import Image

from echoreel_core.errors import EchoReelError
from echoreel_core.library.build import walk_clips
from echoreel_core.video.frames import FrameSelection, read_video, video_length
from echoreel_core.video.kinds import is_clip


def write_webp(path, greys, milliseconds=200):
    pictures = [Image.new("RGB", (16, 8), (grey, grey, grey)) for grey in greys]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, lossless=True)
    return path


def test_the_library_takes_what_the_reader_reads(tmp_path):
    write_webp(tmp_path / "moving.webp", [0, 100, 200])
    Image.new("RGB", (16, 8)).save(tmp_path / "still.webp")
    for name in ("a.flv", "b.OGV", "c.wmv", "d.apng", "notes.txt", "broken.webp"):
        (tmp_path / name).touch()
    assert [clip.path for clip in walk_clips(tmp_path)] == ["a.flv", "b.OGV", "c.wmv", "d.apng", "moving.webp"]
    assert not is_clip(tmp_path / "missing.webp")


def test_an_animated_webp_is_read_like_any_clip(tmp_path):
    path = write_webp(tmp_path / "moving.webp", [0, 51, 102, 204])
    (tmp_path / "moving.txt").write_text("it gets lighter")
    video = read_video(path, FrameSelection(frames=2, mode="every_nth", every_nth=2), width=16, height=8)
    assert torch.allclose(video.frames.mean((1, 2, 3)), torch.tensor([0.0, 0.4]), atol=1e-3)
    assert video.times == (0, Fraction(2, 5)) and video.caption == "it gets lighter"
    assert video_length(path) == Fraction(4, 5)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(EchoReelError, match=r"moving\.webp"):
        read_video(path)


def test_a_webp_of_endless_size_is_refused(tmp_path):
    """A header that claims 16 million by 16 million pixels."""
    data = bytearray(write_webp(tmp_path / "a.webp", [0, 100]).read_bytes())
    data[24:30] = b"\xff" * 6
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(EchoReelError, match=r"a\.webp"):
        read_video(tmp_path / "a.webp")
