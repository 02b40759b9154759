"""Compare."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw
from torch import Tensor

from ..echoreel_core.errors import EchoReelError, counted
from ..echoreel_core.video.frames import fit
from .pictures.drawing import GROUND, TEXT, letters, to_frame

MOST_CLIPS = 16
VIDEO, PICTURE = "a video, side by side", "one picture, a row for each"
GAP = 4  # between clips, pixels


class Compare(io.ComfyNode):
    """Clips side by side, with their names."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        clip = io.MultiType.Input(
            "clip", [io.Image, io.Video], tooltip=("Frames or a video. Connecting it adds another socket.")
        )
        clips = io.Autogrow.TemplatePrefix(clip, prefix="clip_", min=2, max=MOST_CLIPS)
        return io.Schema(
            node_id="EchoReelCompare",
            display_name="Compare",
            category="EchoReel",
            description=(
                "Shows clips side by side with their names: the reference, and your video without and with its action."
                " Clips of other sizes get black bars and are never stretched. Shorter clips hold their last frame "
                "until the longest one ends."
            ),
            search_aliases=["side by side", "before and after", "contact sheet", "image grid", "labels"],
            inputs=[
                io.Autogrow.Input(
                    "clips",
                    template=clips,
                    tooltip="The clips to compare, frames or videos. Each connected clip adds another socket.",
                ),
                io.String.Input(
                    "labels",
                    default="reference\nwithout\nwith",
                    multiline=True,
                    tooltip=(
                        "The clips' names, one per line, in the order of the clips. An empty line leaves a clip "
                        "without a name."
                    ),
                ),
                io.Combo.Input(
                    "layout",
                    options=[VIDEO, PICTURE],
                    default=VIDEO,
                    tooltip=(
                        "a video, side by side: frames for Create Video and Save Video; all clips run frame by frame, "
                        "and shorter ones hold their last frame. one picture, a row for each: moments from the "
                        "beginning to the end of each clip, to look at or to share."
                    ),
                ),
                io.Int.Input(
                    "height",
                    default=320,
                    min=32,
                    max=4096,
                    step=2,
                    tooltip="Height of each clip, in pixels. Higher is sharper and takes more memory.",
                ),
                io.Int.Input(
                    "moments",
                    default=6,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip=(
                        "For one picture: how many moments of each clip it shows. More moments show more of the motion."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames of the video, or the one picture."),
            ],
        )

    @classmethod
    def execute(cls, clips: dict, labels: str, layout: str, height: int, moments: int = 6) -> io.NodeOutput:
        found = {int(name.rsplit("_", 1)[1]): frames_of(clip) for name, clip in clips.items() if clip is not None}
        if not found:
            raise EchoReelError("There is nothing to compare: connect at least two clips.")
        names = labels.splitlines()
        titles = [names[index].strip() if index < len(names) else "" for index in found]
        longest = max(map(len, found.values()))
        if layout == PICTURE:
            times = [round(i * (longest - 1) / max(moments - 1, 1)) for i in range(min(moments, longest))]
        else:
            times = range(longest)
        return io.NodeOutput(arrange(list(found.values()), titles, times, height, as_rows=layout == PICTURE))


def frames_of(clip) -> Tensor:
    """[T, H, W, C] of an IMAGE or a VIDEO. Raises: EchoReelError if it has no frames."""
    frames = clip if isinstance(clip, Tensor) else clip.get_components().images
    if not len(frames):
        raise EchoReelError("A clip to compare has no frames: connect another one.")
    return frames


def arrange(clips: Sequence[Tensor], titles: Sequence[str], times: Sequence[int], height: int, as_rows: bool) -> Tensor:
    """Clips as frames side by side, [len(times), H, W, 3], or as one picture with a row for each, [1, H, W, 3].

    Args:
        clips: [T, H, W, 3 or 4] each, in 0 … 1; one shorter than a time asks for shows its last frame.
        titles: above each clip, or above its row; where all are empty there is no room for them.
        height: of each clip. All are as wide as the widest one at this height, with black bars where they are not.

    All sizes are even, as video codecs want them.
    """
    width = max(_even(height * clip.shape[2] / clip.shape[1]) for clip in clips)
    height = _even(height)
    bar = _even(max(24, height / 10)) if any(titles) else 0
    columns, rows = (len(times), len(clips)) if as_rows else (len(clips), 1)
    whole_width, whole_height = columns * (width + GAP) - GAP, rows * (bar + height + GAP) - GAP
    out = _empty(1 if as_rows else len(times), whole_height, whole_width)
    progress = comfy.utils.ProgressBar(len(clips) * len(times))
    for number, (clip, title) in enumerate(zip(clips, titles, strict=True)):
        left, top = (0, number * (bar + height + GAP)) if as_rows else (number * (width + GAP), 0)
        if bar:
            across = whole_width if as_rows else width
            out[:, top : top + bar, left : left + across] = _title(title, across, bar)
        for place, time in enumerate(times):
            comfy.model_management.throw_exception_if_processing_interrupted()
            x, index = (left + place * (width + GAP), 0) if as_rows else (left, place)
            frame = fit(clip[min(time, len(clip) - 1)], width, height, "pad")
            out[index, top + bar : top + bar + height, x : x + width] = frame
            progress.update(1)
    return out


def _empty(count: int, height: int, width: int) -> Tensor:
    try:
        return (torch.tensor(GROUND) / 255).expand(count, height, width, 3).clone()
    except RuntimeError:
        raise EchoReelError(
            f"{counted(count, 'frame')} of {width} x {height} pixels would take "
            f"{count * width * height * 12 / 2**30:.1f} GB, more memory than there is: lower the height, or compare "
            "fewer clips."
        ) from None


def _even(size: float) -> int:
    return max(round(size / 2) * 2, 2)


def _title(text: str, width: int, height: int) -> Tensor:
    """[height, width, 3]: one line in the middle, in smaller letters where it would not fit."""
    picture = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(picture)
    size = height * 0.65
    length = draw.textlength(text, letters(size))
    if length > width - 2 * GAP:
        size = max(size * (width - 2 * GAP) / length, 8)
    draw.text((width / 2, height / 2), text, TEXT, letters(size), anchor="mm")
    return to_frame(picture)


NODES = [Compare]
