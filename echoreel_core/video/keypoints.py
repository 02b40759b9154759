"""Where a figure's joints are: OpenPose JSON beside a clip, as pose estimators save it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import EchoReelError
from ..files import check_file

SUFFIX = ".pose.json"
"""Takes the place of a clip's own ending."""

POINTS = 32
"""Points that are kept of a figure: OpenPose's body has 18 or 25."""

LARGEST_FILE = 2**26
"""Bytes; 18 points of 10,000 frames take a tenth of it."""


def keypoints_file(clip: str | os.PathLike) -> Path | None:
    """The file with a clip's keypoints, if there is one."""
    path = os.path.splitext(os.fspath(clip))[0] + SUFFIX
    return Path(path) if os.path.exists(path) else None


def read_keypoints(path: Path) -> Tensor:
    """The largest figure of each frame, [N, POINTS, 2]: (x, y) as shares of the picture, NaN for what was not seen.

    The file holds a list with an object for each frame: "people", of each "pose_keypoints_2d" (x, y, confidence, and so
    on), and "canvas_width" and "canvas_height" where x and y are in pixels.

    Raises: EchoReelError, naming the file and the frame, where it does not.
    """
    check_file(path, "pose")
    if path.stat().st_size > LARGEST_FILE:
        raise EchoReelError(
            f"{path.name} has {path.stat().st_size / 2**20:.0f} MB, but {LARGEST_FILE >> 20} MB at most are read: "
            "save the keypoints of this clip alone."
        )
    try:
        frames = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise EchoReelError(f"{path.name} is not valid JSON ({error}): save the keypoints again.") from None
    if not isinstance(frames, list) or not frames:
        raise EchoReelError(f'{path.name} has no list of frames in it: it must begin with [{{"people": ….')
    found = []
    for number, frame in enumerate(frames, start=1):
        try:
            found.append(_largest(frame))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise EchoReelError(
                f"{path.name}, frame {number}, is not OpenPose's JSON ({error}): save the keypoints again."
            ) from None
    return torch.stack(found)


def _largest(frame: Any) -> Tensor:
    """The largest figure of a frame, [POINTS, 2]."""
    if not isinstance(frame, Mapping) or not isinstance(frame["people"], list):
        raise TypeError("people must be a list")
    figures = [_figure(person["pose_keypoints_2d"]) for person in frame["people"]]
    if not figures:
        return torch.full((POINTS, 2), math.nan)
    points = max(figures, key=_extent)
    if points.nan_to_num().abs().max() > 2:  # in pixels: as shares, none is that far out
        size = torch.tensor([float(frame["canvas_width"]), float(frame["canvas_height"])])
        if not (size.isfinite() & (size >= 1)).all():
            raise ValueError(f"the canvas is {size[0]:g} x {size[1]:g}")
        points = points / size
    return points


def _figure(values: Any) -> Tensor:
    if values is None:  # a person of whom only the face or hands were seen
        values = []
    if not isinstance(values, Sequence) or len(values) % 3 or len(values) > 3 * POINTS:
        raise ValueError(f"pose_keypoints_2d must be up to {POINTS} times x, y and confidence")
    rows = torch.tensor([float(value) for value in values], dtype=torch.float32).view(-1, 3)
    seen = (rows[:, 2] > 0) & rows.isfinite().all(1)
    return with_missing(rows[:, :2].masked_fill(~seen[:, None], math.nan))


def _extent(points: Tensor) -> float:
    seen = points[~points.isnan().any(1)]
    return float((seen.amax(0) - seen.amin(0)).sum()) if len(seen) else -1.0


def with_missing(points: Tensor) -> Tensor:
    """[…, P, 2] filled up to [POINTS, 2] with points that were not seen."""
    return F.pad(points, (0, 0, 0, POINTS - points.shape[-2]), value=math.nan)


def keypoints_at(
    points: Tensor, times: Sequence[Fraction], length: Fraction, view: tuple[float, float, float, float], frames: int
) -> Tensor:
    """The keypoints of a clip's latent frames, [frames, POINTS, 2]: -1 to 1 over the picture that was taken.

    Args:
        points: [N, POINTS, 2] as `read_keypoints` gives them, at equal distances over the whole clip.
        times: of the frames that were taken, seconds; latent frames lie at equal distances among them, as those of
            causal video VAEs do.
        length: of the clip, seconds.
        view: see `VideoFrames`.
    """
    chosen = torch.linspace(0, len(times) - 1, frames).round().long().tolist()
    rows = [min(int(times[index] / length * len(points)), len(points) - 1) for index in chosen]
    left, top, width, height = view
    return 2 * (points[rows] - torch.tensor([left, top])) / torch.tensor([width, height]) - 1
