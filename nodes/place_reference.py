"""Place Reference."""

from __future__ import annotations

import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.video.place import BACKGROUNDS, BLURRED, ONCE, REPEATS, Placement, place
from .compare import arrange

PREVIEW_HEIGHT, PREVIEW_MOMENTS = 160, 6


class PlaceReference(io.ComfyNode):
    """Moves the subject of a clip before anything follows it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelPlaceReference",
            display_name="Place Reference",
            category="EchoReel",
            description=(
                "Puts what moves in a clip somewhere else: larger, smaller, further left, facing the other way, faster "
                "or in a loop, with the background blurred away. Use it before Follow Motion, which keeps the clip's "
                "place and pace, or before Action Prism Encode."
            ),
            search_aliases=["crop subject", "move", "mirror", "retime", "loop", "isolate", "reference position"],
            inputs=[
                io.Image.Input("frames", tooltip="The reference clip, from Load Reference Video."),
                io.Boolean.Input(
                    "crop",
                    default=False,
                    tooltip=(
                        "Enlarges the picture until the subject's whole path just fits, and centres it. The settings "
                        "below start from there."
                    ),
                ),
                io.Float.Input(
                    "move_right",
                    default=0.0,
                    min=-2.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How far to move it to the right: 1 is the picture's width. Below 0 moves it to the left.",
                ),
                io.Float.Input(
                    "move_down",
                    default=0.0,
                    min=-2.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How far to move it down: 1 is the picture's height. Below 0 moves it up.",
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.05,
                    max=10.0,
                    step=0.01,
                    tooltip="2 is twice as large, 0.5 half as large. The subject's path grows and shrinks with it.",
                ),
                io.Boolean.Input("mirror", default=False, tooltip="Swaps left and right, so it goes the other way."),
                io.Float.Input(
                    "speed",
                    default=1.0,
                    min=-8.0,
                    max=8.0,
                    step=0.05,
                    tooltip=(
                        "2 is twice as fast, 0.5 half as fast. Below 0 it runs backwards; 0 holds its first frame."
                    ),
                ),
                io.Combo.Input(
                    "repeat",
                    options=list(REPEATS),
                    default=ONCE,
                    tooltip=(
                        "What happens when a faster clip is over. once, then hold: the last frame stays. loop: it "
                        "starts again. there and back: it returns the way it came."
                    ),
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default=BLURRED,
                    tooltip=(
                        "blurred away: only the subject stays sharp, so nothing else is followed. If the camera moves, "
                        "connect a mask as well. kept: the whole picture moves with the subject."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Whom to follow: white on one of several people, for example. One mask for each frame, or "
                        "fewer that are spread over the clip. Without a mask, everything that moves."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="As many frames of the same size, for Follow Motion."),
            ],
        )

    @classmethod
    def execute(
        cls,
        frames: Tensor,
        crop: bool,
        move_right: float,
        move_down: float,
        scale: float,
        mirror: bool,
        speed: float,
        repeat: str,
        background: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if not len(frames):
            raise EchoReelError("The clip to place holds no frames: connect another one.")
        placement = Placement(crop, (move_right, move_down), scale, mirror, speed, repeat, background)
        frames = frames[..., :3].float()
        subject = None if mask is None else over_the_clip(mask, frames)
        if subject is not None and subject.amax() < 0.5:
            raise EchoReelError(
                f"The mask of whom to follow is nowhere whiter than {subject.amax().item():.2f}: paint it white on the "
                "subject, or connect none."
            )
        placed = place(frames, placement, subject)
        times = [round(i * (len(placed) - 1) / (PREVIEW_MOMENTS - 1)) for i in range(PREVIEW_MOMENTS)]
        picture = arrange([frames, placed], ["before", "after"], times, PREVIEW_HEIGHT, as_rows=True)
        return io.NodeOutput(placed, ui=ui.PreviewImage(picture, cls=cls))


def over_the_clip(mask: Tensor, frames: Tensor) -> Tensor:
    """A mask [F, H, W] spread over the clip and brought to its size, [T, H, W]."""
    at = torch.linspace(0, len(mask) - 1, len(frames)).round().long()
    height, width = frames.shape[1:3]
    return comfy.utils.common_upscale(mask[at][:, None].float(), width, height, "bilinear", "disabled")[:, 0]


NODES = [PlaceReference]
