"""Written videos hold the frames, play at the rate asked for, and never appear half-written."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from video_clips import bars, numbers

from echoreel_core.errors import EchoReelError
from echoreel_core.video.frames import FrameSelection, read_video
from echoreel_core.video.write import write_video


def frames(count: int, size: tuple[int, int] = (80, 48)) -> torch.Tensor:
    return torch.from_numpy(np.stack([bars(i, size) for i in range(count)])) / 255


def test_written_frames_come_back(tmp_path):
    write_video(tmp_path / "a.mp4", frames(40), 12.5, title="bars")
    video = read_video(tmp_path / "a.mp4", FrameSelection(frames=40, every_nth=1), width=80, height=48)
    assert numbers(video.frames) == list(range(40))
    assert video.fps == 12.5
    assert video.caption == "bars"
    assert (video.frames - frames(40)).abs().mean() < 0.02
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_others_may_read_it_as_any_new_file(tmp_path):
    write_video(tmp_path / "a.mp4", frames(2), 8)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.mp4").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("rate, stored", [(24, 24), (29.97, Fraction(2997, 100)), (Fraction(24000, 1001),) * 2])
def test_rate_is_kept(tmp_path, rate, stored):
    write_video(tmp_path / "a.mp4", frames(30), rate)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(float(stored), rel=1e-4)


def test_colours_survive(tmp_path):
    colours = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0.5, 0.5, 0.5]])
    write_video(tmp_path / "a.mp4", colours[:, None, None].expand(5, 64, 64, 3), 5)
    back = read_video(tmp_path / "a.mp4", FrameSelection(frames=5, every_nth=1), width=8, height=8)
    assert (back.frames[:, 4, 4] - colours).abs().max() < 0.03


def test_odd_sizes_gain_a_row_and_a_column(tmp_path):
    write_video(tmp_path / "a.mp4", torch.ones(2, 33, 51, 3), 8)
    video = read_video(tmp_path / "a.mp4", FrameSelection(frames=1))
    assert (video.source.width, video.source.height) == (52, 34)
    assert video.frames.min() > 0.97


def test_values_outside_the_range_are_cut(tmp_path):
    write_video(tmp_path / "a.mp4", torch.full((1, 16, 16, 3), 7.0), 8)
    assert read_video(tmp_path / "a.mp4", FrameSelection(frames=1)).frames.min() > 0.97


def test_a_failure_leaves_nothing_behind_and_nothing_lost(tmp_path):
    broken = frames(4)
    broken[2, 0, 0, 0] = float("nan")
    (tmp_path / "a.mp4").write_bytes(b"kept")
    with pytest.raises(EchoReelError, match="Frame 2"):
        write_video(tmp_path / "a.mp4", broken, 8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"kept"
    write_video(tmp_path / "a.mp4", frames(4), 8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert read_video(tmp_path / "a.mp4").repeated == 15


def test_what_cannot_be_written(tmp_path):
    for wrong in (torch.zeros(2, 8, 8, 4), torch.zeros(8, 8, 3), torch.zeros(0, 8, 8, 3)):
        with pytest.raises(EchoReelError, match="shape"):
            write_video(tmp_path / "a.mp4", wrong, 8)
    for rate in (0, -1, float("inf"), float("nan"), 1e-9):
        with pytest.raises(EchoReelError, match="rate"):
            write_video(tmp_path / "a.mp4", frames(1), rate)
    (tmp_path / "none").touch()
    with pytest.raises(EchoReelError, match="cannot be written"):
        write_video(tmp_path / "none" / "a.mp4", frames(1), 8)
    assert [path.name for path in tmp_path.iterdir()] == ["none"]
