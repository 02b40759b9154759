"""The frames taken from a clip in one small picture, for the page to show and play."""

from __future__ import annotations

import io
import math
from fractions import Fraction
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ...echoreel_core.video.frames import VideoFrames, fit

SIDE = 256
"""Pixels along a square frame of the picture; other shapes have the same area."""
PIXELS = 2**22
"""Of all frames together: many frames are drawn smaller."""


def cell_size(width: int, height: int, count: int) -> tuple[int, int]:
    """(width, height) of a frame in the picture, never larger than the frame itself."""
    scale = min(math.sqrt(min(SIDE**2, PIXELS / count) / (width * height)), 1)
    return max(int(width * scale), 1), max(int(height * scale), 1)


def columns_of(count: int) -> int:
    """How many of `count` frames lie in one row of the picture."""
    return math.ceil(math.sqrt(count))


def filmstrip(frames: Tensor) -> bytes:
    """Frames [T, H, W, 3], floats from 0 to 1, row by row in one JPEG."""
    count, height, width = frames.shape[:3]
    columns = columns_of(count)
    cell = cell_size(width, height, count)
    if cell != (width, height):
        frames = torch.stack([fit(frame, *cell) for frame in frames])
    blank = frames.new_zeros(-count % columns, *frames.shape[1:])
    grid = rearrange(torch.cat([frames, blank]), "(r c) h w rgb -> (r h) (c w) rgb", c=columns)
    file = io.BytesIO()
    Image.fromarray(grid.mul(255).round().to(torch.uint8).numpy()).save(file, "JPEG", quality=85)
    return file.getvalue()


def facts(taken: VideoFrames, begin: Fraction, length: Fraction, aspect: float) -> dict[str, Any]:
    """What the page is told of the frames beside their picture, as JSON can carry it.

    Args:
        begin: where the clip, or what is left of it after a trim, begins: seconds since the first frame.
        length: how long that lasts, seconds.
        aspect: width of a frame over its height.

    Returns:
        length: as given. rate: the clip's frames per second, or None. fps: of the frames taken. times: when each is
        shown, seconds from `begin`. repeated: how many at the end are the last one again. columns: in the picture.
    """
    times = [float(time - begin) for time in taken.times]
    rate = taken.source.rate
    return {
        "length": max(float(length), times[-1]),
        "rate": float(rate) if rate else None,
        "fps": taken.fps,
        "times": times,
        "repeated": taken.repeated,
        "columns": columns_of(len(times)),
        "aspect": aspect,
    }
