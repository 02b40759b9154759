"""Keypoints beside a clip lie where the figure is in the frames that were taken."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from video_clips import turn, write_clip

from echoreel_core.video.frame_choice import FrameSelection
from echoreel_core.video.frames import read_video, video_length
from echoreel_core.video.keypoints import POINTS, keypoints_at, keypoints_file, read_keypoints

SIZE = 96, 64
PLACES = [(24 + 4 * index, 12 + 3 * index) for index in range(12)]  # of the dot, pixels, frame by frame


def dot(index: int, size: tuple[int, int]) -> np.ndarray:
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    x, y = PLACES[index]
    picture[y - 3 : y + 3, x - 3 : x + 3] = 255
    return picture


def person(*points: tuple[float, float, float]) -> dict:
    return {"pose_keypoints_2d": [value for point in points for value in point], "face_keypoints_2d": None}


def write_poses(clip, frames) -> None:
    clip.with_suffix(".pose.json").write_text(json.dumps(frames))


def poses(places=PLACES, size=SIZE) -> list[dict]:
    return [{"people": [person((x, y, 1.0))], "canvas_width": size[0], "canvas_height": size[1]} for x, y in places]


def seen(frames: torch.Tensor) -> torch.Tensor:
    """Where the dot is in each frame, [T, 2], -1 to 1 over the picture."""
    weight = frames.mean(-1)
    weight = weight / weight.sum((1, 2), keepdim=True)
    height, width = weight.shape[1:]
    across, down = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in (width, height))
    return torch.stack([(weight.sum(1) * across).sum(1), (weight.sum(2) * down).sum(1)], 1)


def taken(path, selection=None, latent_frames=6, **framing):
    clip = read_video(path, selection or FrameSelection(6, "even"), **framing)
    points = read_keypoints(keypoints_file(path))
    return clip, keypoints_at(points, clip.times, video_length(path), clip.view, latent_frames)


@pytest.mark.parametrize("crop", ["stretch", "center", "pad"])
@pytest.mark.parametrize("shape", [(64, 64), (120, 40), (48, 64)])
def test_they_follow_the_frames_through_every_crop(tmp_path, crop, shape):
    path = write_clip(tmp_path / "clip.mkv", 12, codec="ffv1", pix_fmt="bgr0", size=SIZE, picture=dot)
    write_poses(path, poses())
    clip, points = taken(path, width=shape[0], height=shape[1], crop=crop)
    assert points.shape == (6, POINTS, 2) and points[:, 1:].isnan().all()
    here = seen(clip.frames)
    inside = (here.abs() < 0.8).all(1) & (clip.frames.amax((1, 2, 3)) > 0.5)
    assert inside.sum() >= 3
    torch.testing.assert_close(points[inside, 0], here[inside], atol=0.03, rtol=0)


def test_they_are_of_the_picture_as_it_is_shown(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 12, size=SIZE, picture=dot, gop=1, options={"crf": "1"})
    turn(path, 90)
    write_poses(path, poses([(SIZE[1] - y, x) for x, y in PLACES], SIZE[::-1]))
    clip, points = taken(path, width=64, height=64, crop="center")
    torch.testing.assert_close(points[1:4, 0], seen(clip.frames)[1:4], atol=0.05, rtol=0)


def test_latent_frames_have_the_keypoints_of_frames_at_equal_distances(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", 12, codec="ffv1", pix_fmt="bgr0", size=SIZE, picture=dot)
    write_poses(path, poses())
    _, points = taken(path, FrameSelection(9, "every_nth", every_nth=1), 3, width=96, height=64)
    wanted = torch.tensor([PLACES[index] for index in (0, 4, 8)]) / torch.tensor(SIZE) * 2 - 1
    torch.testing.assert_close(points[:, 0], wanted)


def test_a_list_of_another_rate_covers_the_same_time(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", 12, codec="ffv1", pix_fmt="bgr0", size=SIZE, picture=dot)
    write_poses(path, poses(PLACES[::3]))
    clip, points = taken(path, FrameSelection(4, "every_nth", every_nth=3), 4, width=96, height=64)
    torch.testing.assert_close(points[:, 0], seen(clip.frames), atol=0.02, rtol=0)


def test_the_largest_figure_counts_and_what_was_not_seen_is_not_known(tmp_path):
    small, large = person((10, 10, 1), (20, 20, 1)), person((30, 10, 0.4), (60, 50, 0.9), (0, 0, 0))
    shares = {"people": [person((0.25, 0.5, 1.0))]}
    size = {"canvas_width": 100, "canvas_height": 50}
    nobody = {"people": [], **size}
    only_a_face = {"people": [{"pose_keypoints_2d": None}], **size}
    path = tmp_path / "clip.pose.json"
    path.write_text(json.dumps([{"people": [small, large], **size}, shares, nobody, only_a_face]), encoding="utf-8-sig")
    points = read_keypoints(path)
    torch.testing.assert_close(points[0, :2], torch.tensor([[0.3, 0.2], [0.6, 1.0]]))
    assert points[0, 2:].isnan().all() and points[2:].isnan().all()
    assert points[1, 0].tolist() == [0.25, 0.5]


BAD = {
    "no JSON": ("{", "not valid JSON"),
    "too deep": ("[" * 100_000, "not valid JSON"),
    "no list": ('{"people": []}', "no list of frames"),
    "empty": ("[]", "no list of frames"),
    "no people": ('[{"people": []}, {"persons": []}]', "frame 2, is not OpenPose's"),
    "a number": ("[3]", "frame 1, is not"),
    "no triples": ('[{"people": [{"pose_keypoints_2d": [1, 2]}]}]', "x, y and confidence"),
    "words": ('[{"people": [{"pose_keypoints_2d": ["a", 2, 1]}]}]', "frame 1, is not"),
    "beyond all numbers": ('[{"people": [{"pose_keypoints_2d": [1' + "0" * 400 + ", 2, 1]}]}]", "frame 1, is not"),
    "too many": (json.dumps([{"people": [person(*[(1, 1, 1)] * 33)]}]), "up to 32 times"),
    "no canvas": (json.dumps([{"people": [person((30, 40, 1))]}]), "canvas_width"),
    "a canvas of nothing": (
        json.dumps([{"people": [person((30, 40, 1))], "canvas_width": 0, "canvas_height": 9}]),
        "the canvas is 0 x 9",
    ),
}


@pytest.mark.parametrize("content, reason", BAD.values(), ids=BAD)
def test_what_are_no_keypoints_is_told_in_one_sentence(tmp_path, content, reason):
    path = tmp_path / "take 1.pose.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"^take 1\.pose\.json.*{reason}"):
        read_keypoints(path)


def test_keypoints_at_the_end_of_a_clip_are_its_last():
    points = torch.arange(3.0)[:, None, None].expand(3, POINTS, 2)
    found = keypoints_at(points, [Fraction(0), Fraction(1), Fraction(3)], Fraction(3), (0.0, 0.0, 2.0, 2.0), 3)
    assert found[:, 0, 0].tolist() == [-1, 0, 1]


def test_other_files_beside_a_clip_are_no_keypoints(tmp_path):
    (tmp_path / "clip.json").write_text("{}")
    assert keypoints_file(tmp_path / "clip.mp4") is None
