"""How an artist steers an action: when in the clip, in which blocks, at which steps, where in the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...echoreel_core.action.action import Timing
from ...echoreel_core.errors import EchoReelError
from ..families.base import ModelFamily, TokenGrid
from .rows import Place
from .windows import ClipFrames

STRETCH, OWN_PACE = "stretched over the clip", "at its own pace"
TIMINGS = [STRETCH, OWN_PACE]

CUSTOM = "custom"
BLOCKS = {
    "all": (1.0,),
    "early": (1.0, 1.0, 0.0, 0.0),
    "middle": (0.0, 1.0, 1.0, 0.0),
    "late": (0.0, 0.0, 1.0, 1.0),
}
STEPS = {
    "constant": (1.0,),
    "fading out": (1.0, 0.0),
    "fading in": (0.0, 1.0),
    "strong start": (1.5, 1.0, 1.0, 1.0),
    "soft start": (0.0, 1.0, 1.0, 1.0),
}


def curve(preset: str, presets: dict[str, tuple[float, ...]], numbers: str, name: str) -> tuple[float, ...]:
    """The factors of a preset, or for "custom" those in `numbers`.

    Raises: EchoReelError if those are not numbers separated by commas, whether they are used or not.
    """
    if preset != CUSTOM and not numbers.strip():
        return presets[preset]
    try:
        factors = tuple(float(part) for part in numbers.split(","))
    except ValueError:
        factors = (math.nan,)
    if not all(map(math.isfinite, factors)):
        raise EchoReelError(
            f"The {name} are {numbers!r}: write numbers separated by commas, for example 1, 0.5, 0. They are spread "
            "evenly from the first to the last."
        )
    return factors if preset == CUSTOM else presets[preset]


def value_at(factors: Sequence[float], place: float) -> float:
    """The factor at a place from 0 (the first) to 1 (the last), between two of them the straight line."""
    position = place * (len(factors) - 1)
    below = min(int(position), len(factors) - 1)
    above = min(below + 1, len(factors) - 1)
    return factors[below] + (factors[above] - factors[below]) * (position - below)


def spread(factors: Sequence[float], count: int) -> tuple[float, ...]:
    """`count` values spread evenly over the factors."""
    return tuple(value_at(factors, i / (count - 1) if count > 1 else 0.0) for i in range(count))


@dataclass(frozen=True)
class Control:
    """All settings of an Apply that are not on or off.

    Attributes:
        span: (start, end) in seconds of the clip; an end of 0 is the clip's end.
        own_pace: whether the reference keeps its own pace instead of being stretched over the span.
        fps: of the clip; 0 is what the model was made for. reference_fps: of the reference; 0 is the clip's.
        block_factors: one per added layer.
        step_factors: spread over the model's noise schedule, as the percents are.
        clip_start, clip_length: seconds of a longer clip at which this run begins, and how long that one is; a length
            of 0 is no longer clip. A span and a mask are the longer clip's.
        mask: [F, H, W], 0 to 1: where the action applies; frames are spread over the clip.
    """

    span: tuple[float, float] = (0.0, 0.0)
    own_pace: bool = False
    fps: float = 0.0
    reference_fps: float = 0.0
    block_factors: tuple[float, ...] | None = None
    step_factors: tuple[float, ...] = (1.0,)
    clip_start: float = 0.0
    clip_length: float = 0.0
    mask: Tensor | None = None

    @property
    def changes_over_steps(self) -> bool:
        """Whether the strength is not the same at every step."""
        return any(factor != 1.0 for factor in self.step_factors)

    def in_clip(self, frames: ClipFrames, family: ModelFamily, model_fps: float, grid: TokenGrid) -> ClipFrames:
        """The frames of a run as frames of the longer clip that it is a part of.

        Args:
            model_fps: frames per second that the model was made for.
        """
        if not (self.clip_start or self.clip_length):
            return frames
        fps = self.fps or model_fps
        start = self.clip_start * fps / family.frames_per_latent / grid.patch_frames
        total = math.ceil(_frame_at(self.clip_length * fps, family, grid)) if self.clip_length else 0
        return ClipFrames(tuple(at + start for at in frames.at), max(total, math.ceil(start) + frames.total))

    def timing(self, family: ModelFamily, model_fps: float, grid: TokenGrid, total: int) -> Timing:
        """When the action happens, in token frames of a clip that has `total` of them."""
        fps = self.fps or model_fps
        pace = (self.reference_fps or fps) / fps if self.own_pace else None
        if self.span == (0.0, 0.0):
            return Timing(pace=pace)
        start, end = (_frame_at(seconds * fps, family, grid) for seconds in self.span)
        return Timing(span=(start, min(end, total) if self.span[1] else float(total)), pace=pace)

    def mask_for(self, frames: ClipFrames, grid: TokenGrid, hidden: Tensor, place: Place | None = None) -> Tensor:
        """The mask at the tokens of `hidden` [B, T, P, dim]: [T, P, 1], of its dtype and on its device.

        Args:
            place: the area of the latents that the call sees; the mask is the whole picture's.
        """
        mask = self.mask[:, None].float()
        if place is not None:
            (_, top, left), (_, height, width) = place.start, place.size
            mask = F.interpolate(mask, size=place.full[1:], mode="area")
            mask = mask[..., top : top + height, left : left + width]
        size = level_size(grid.size, hidden.shape[2])
        small = F.interpolate(mask, size=size, mode="area").flatten(1)
        place = torch.tensor(frames.at) / max(frames.total - 1, 1) * (len(small) - 1)
        below = place.long().clamp(0, len(small) - 1)
        share = (place - below).clamp(0, 1)[:, None]
        at = small[below] * (1 - share) + small[(below + 1).clamp(max=len(small) - 1)] * share
        return at[..., None].to(hidden.device, hidden.dtype)


def _frame_at(video_frame: float, family: ModelFamily, grid: TokenGrid) -> float:
    """Where a moment of the video, in its frames, lies in token frames. The first latent frame holds one frame."""
    latent = video_frame if video_frame < 1 else (video_frame - 1) / family.frames_per_latent + 1
    return latent / grid.patch_frames


def level_size(size: tuple[int, int], positions: int) -> tuple[int, int]:
    """(height, width) of the level of a UNet that has so many positions, halved from `size` as its convolutions do."""
    height, width = size
    while height * width > positions:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != positions:
        raise EchoReelError(f"a block with {positions} positions does not belong to latents of {size[0]} x {size[1]}")
    return height, width
