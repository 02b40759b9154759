"""What Load Reference Video takes from a clip, and a look at all of it, for the page to show: small pictures, times."""

from __future__ import annotations

import base64
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.video.frames import read_video, video_length
from ...echoreel_core.video.overview import overview
from ..clip_files import input_path
from ..load_reference_video import chosen_selection
from ..pictures.filmstrip import cell_size, columns_of, facts, filmstrip

THUMBNAIL = 48
"""Pixels along a side."""


def frame_preview(values: dict[str, Any], step: Callable[[int, int], None]) -> dict[str, Any]:
    """The very frames the node takes with these `values` of its widgets, as JSON can carry them.

    Args:
        step: called while the clip is read; what it raises stops the reading.

    Returns:
        `facts` of the frames. picture: the frames as a JPEG (a data address), row by row in `columns`.

    Raises:
        EchoReelError: the sentence that running the node gives.
    """
    path = input_path(values["file"])
    selection = chosen_selection(
        *(values[name] for name in ("start", "duration", "frame_count", "sampling", "every_nth", "target_fps"))
    )
    width, height = cell_size(values["width"], values["height"], selection.frames)
    taken = read_video(path, selection, width=width, height=height, crop=values["crop"], progress=step)
    aspect = values["width"] / values["height"]
    return {**facts(taken, Fraction(0), video_length(path), aspect), "picture": _address(taken.frames)}


def clip_overview(file: str, count: int, step: Callable[[int, int], None]) -> dict[str, Any]:
    """Up to `count` square pictures of the whole clip, as JSON can carry them.

    Returns:
        times: when each is shown, seconds. picture, columns: as above.

    Raises:
        EchoReelError: the sentence that running the node gives.
    """
    found = overview(input_path(file), count, width=THUMBNAIL, height=THUMBNAIL, progress=step)
    if not found:
        return {"times": []}
    picture = _address(torch.stack([picture for _, picture in found]))
    times = [float(time) for time, _ in found]
    return {"times": times, "picture": picture, "columns": columns_of(len(times)), "aspect": 1}


def _address(frames: Tensor) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(filmstrip(frames)).decode()
