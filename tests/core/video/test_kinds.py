"""Which files are clips: one list for the node, the trainer and the library; a WebP only where it is animated."""

from fractions import Fraction

import pytest
import torch
from PIL import Image

from echoreel_core.errors import EchoReelError
from echoreel_core.library.build import walk_clips
from echoreel_core.video.frames import FrameSelection, read_video, video_length
from echoreel_core.video.kinds import is_clip


def write_moving(path, greys, milliseconds=200):
    pictures = [Image.new("RGB", (16, 8), (grey, grey, grey)) for grey in greys]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, lossless=True)
    return path


def test_the_library_takes_what_the_reader_reads(tmp_path):
    write_moving(tmp_path / "moving.webp", [0, 100, 200])
    Image.new("RGB", (16, 8)).save(tmp_path / "still.webp")
    for name in ("a.flv", "b.OGV", "c.wmv", "d.apng", "notes.txt", "broken.webp"):
        (tmp_path / name).touch()
    write_moving(tmp_path / "moving.png", [0, 100, 200])
    Image.new("RGB", (16, 8)).save(tmp_path / "still.png")
    clips = ["a.flv", "b.OGV", "c.wmv", "d.apng", "moving.png", "moving.webp"]
    assert [clip.path for clip in walk_clips(tmp_path)] == clips
    assert not is_clip(tmp_path / "missing.webp") and not is_clip(tmp_path / "missing.png")


def test_an_animated_webp_is_read_like_any_clip(tmp_path):
    path = write_moving(tmp_path / "moving.webp", [0, 51, 102, 204])
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
    data = bytearray(write_moving(tmp_path / "a.webp", [0, 100]).read_bytes())
    data[24:30] = b"\xff" * 6
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(EchoReelError, match=r"a\.webp"):
        read_video(tmp_path / "a.webp")


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".png", ".webp"])
def test_what_is_transparent_shows_white_and_not_its_hidden_colour(tmp_path, suffix):
    pictures = []
    for grey in (0, 60, 120):
        picture = Image.new("RGBA", (16, 16), (grey, 0, 0, 255))
        picture.paste((255, 0, 255, 0), (0, 0, 8, 16))
        pictures.append(picture)
    kind = {".apng": "PNG", ".png": "PNG"}.get(suffix)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {"disposal": 2} if suffix == ".gif" else {}
    path = tmp_path / f"clip{suffix}"
    pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], duration=100, **options)
    assert is_clip(path)
    frames = read_video(path, FrameSelection(3, "every_nth", 1), width=16, height=16).frames
    assert frames[:, 8, 2].tolist() == [[1, 1, 1]] * 3
    assert (255 * frames[:, 8, 13, 0]).tolist() == pytest.approx([0, 60, 120], abs=2)


def test_a_folder_of_numbered_pictures_is_a_clip(tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (16, 8), (10 * number,) * 3).save(folder / f"walk_{number}.png")  # 10 comes after 9
    (folder / "notes.txt").write_text("not a picture")
    (tmp_path / "secret.png").write_bytes((folder / "walk_0.png").read_bytes())
    (folder / "walk_99.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "walk.txt").write_text("somebody walks")
    video = read_video(folder, FrameSelection(4, "every_nth", 3), width=16, height=8)
    assert (255 * video.frames.mean((1, 2, 3))).tolist() == pytest.approx([0, 30, 60, 90], abs=0.5)
    assert video.times == (0, Fraction(3, 24), Fraction(6, 24), Fraction(9, 24))
    assert (video.fps, video.caption, video.source.name) == (8, "somebody walks", "walk")
    assert video_length(folder) == Fraction(1, 2)
    (folder / "walk_3.png").write_bytes(b"no picture")
    with pytest.raises(EchoReelError, match=r"walk_3\.png"):
        read_video(folder, FrameSelection(4, "every_nth", 3))
    with pytest.raises(EchoReelError, match="'empty' holds no pictures"):
        (tmp_path / "empty").mkdir()
        read_video(tmp_path / "empty")
