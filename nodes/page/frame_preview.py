"""What Load Reference Video takes from a clip, for the page to show: the frames in one small picture, their times."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ...echoreel_core.video.frames import read_video, video_length
from ..load_reference_video import chosen_selection, input_path

SIDE = 192
"""Pixels along a square frame of the picture; other shapes have the same area."""
PIXELS = 2**22
"""Of all frames together: many frames are drawn smaller."""


def frame_preview(values: dict[str, Any], step: Callable[[int, int], None]) -> dict[str, Any]:
    """The very frames the node takes with these `values` of its widgets, as JSON can carry them.

    Args:
        step: called while the clip is read; what it raises stops the reading.

    Returns:
        length: seconds the clip lasts. rate: its frames per second, or None. times: when each frame is shown, seconds.
        repeated: how many at the end are the last one again. picture: the frames as a JPEG (a data address), row by
        row in `columns`. aspect: width of a frame over its height.

    Raises:
        EchoReelError: the sentence that running the node gives.
    """
    path = input_path(values["file"])
    sampling = chosen_selection(
        *(values[name] for name in ("start", "duration", "frame_count", "sampling", "every_nth", "target_fps"))
    )
    width, height = _cell(values["width"], values["height"], sampling.frames)
    taken = read_video(path, sampling, width=width, height=height, crop=values["crop"], progress=step)
    columns = math.ceil(math.sqrt(sampling.frames))
    return {
        "length": float(max(video_length(path), taken.times[-1])),
        "rate": float(taken.source.rate) if taken.source.rate else None,
        "times": [float(time) for time in taken.times],
        "repeated": taken.repeated,
        "columns": columns,
        "aspect": values["width"] / values["height"],
        "picture": _picture(taken.frames, columns),
    }


def _cell(width: int, height: int, count: int) -> tuple[int, int]:
    """Size of a frame in the picture, never larger than the frame itself."""
    scale = min(math.sqrt(min(SIDE**2, PIXELS / count) / (width * height)), 1)
    return max(int(width * scale), 1), max(int(height * scale), 1)


def _picture(frames: Tensor, columns: int) -> str:
    """[T, H, W, 3], floats from 0 to 1, as a data address."""
    rows = -(-len(frames) // columns)
    blank = frames.new_zeros(rows * columns - len(frames), *frames.shape[1:])
    grid = rearrange(torch.cat([frames, blank]), "(r c) h w rgb -> (r h) (c w) rgb", c=columns)
    file = io.BytesIO()
    Image.fromarray(grid.mul(255).round().to(torch.uint8).numpy()).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
