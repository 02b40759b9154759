"""What Load Reference Video takes from a clip, for the page to show: the frames in one small picture, their times."""

from __future__ import annotations

import base64
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from ...echoreel_core.video.frames import read_video, video_length
from ..clip_files import input_path
from ..load_reference_video import chosen_selection
from ..pictures.filmstrip import cell_size, facts, filmstrip


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
    picture = "data:image/jpeg;base64," + base64.b64encode(filmstrip(taken.frames)).decode()
    aspect = values["width"] / values["height"]
    return {**facts(taken, Fraction(0), video_length(path), aspect), "picture": picture}
