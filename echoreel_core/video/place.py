"""A reference clip with its subject elsewhere: cropped, moved, scaled, mirrored, retimed, before a blurred ground.

Methods without an adapter keep the place and pace of the reference, so it is the reference that is moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ONCE, LOOP, THERE_AND_BACK = "once, then hold", "loop", "there and back"
REPEATS = (ONCE, LOOP, THERE_AND_BACK)
KEPT, BLURRED = "kept", "blurred away"
BACKGROUNDS = (BLURRED, KEPT)

_DIFFERENT = 0.06  # of the full range, mean over the colours: less from what a place mostly shows is background


@dataclass(frozen=True)
class Placement:
    """What becomes of a clip. The defaults leave every frame as it is.

    Attributes:
        crop: enlarge the picture so that all of the subject's way just fits in.
        move: (right, down) in widths and heights of the picture.
        scale: of the subject and its way, about the middle of the way.
        mirror: left and right change sides.
        speed: of the clip; below 0 it runs backwards.
        repeat: one of `REPEATS`: what follows where the clip is over early.
        background: one of `BACKGROUNDS`.
    """

    crop: bool = False
    move: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    mirror: bool = False
    speed: float = 1.0
    repeat: str = ONCE
    background: str = KEPT

    @property
    def stays(self) -> bool:
        """Whether every pixel keeps its place."""
        return not self.crop and not self.mirror and self.scale == 1 and self.move == (0, 0)


def place(frames: Tensor, placement: Placement, subject: Tensor | None = None) -> Tensor:
    """Frames [T, H, W, 3] in 0 to 1 → as many of the same size.

    Args:
        subject: [T, H, W], 0 to 1: whom to follow; where not given, what differs from what a place mostly shows.
    """
    frames = frames.contiguous()  # of expanded tensors torch's median is wrong
    subject = moving_parts(frames) if subject is None else subject
    at = frames_at(len(frames), placement.speed, placement.repeat)
    if placement.stays and placement.background == KEPT:
        return frames[at]
    centre, half = way(subject)
    ground = blurred(frames.median(0).values)
    cover = soften(subject) if placement.background == BLURRED else torch.ones_like(subject)
    layers = torch.cat([frames, cover[..., None]], -1)
    placed = layers if placement.stays else _moved(layers, placement, centre, half)
    colours, cover = placed[..., :3], placed[..., 3:]
    return (colours * cover + ground * (1 - cover))[at].clamp(0, 1)


def frames_at(count: int, speed: float, repeat: str) -> Tensor:
    """Which of `count` frames is shown at each of as many moments, [count]."""
    time = torch.arange(count) * abs(speed)
    if repeat == LOOP:
        time = time % count
    elif repeat == THERE_AND_BACK and count > 1:
        time = time % (2 * count - 2)
        time = torch.minimum(time, 2 * count - 2 - time)
    at = time.round().long().clamp(0, count - 1) if repeat != LOOP else time.floor().long()
    return count - 1 - at if speed < 0 else at


def moving_parts(frames: Tensor) -> Tensor:
    """Where each frame differs from what its places mostly show, [T, H, W], 0 to 1."""
    away = (frames - frames.median(0).values).abs().mean(-1)
    return ((away - _DIFFERENT) / _DIFFERENT).clamp(0, 1)


def way(subject: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Middle (x, y) and half size (x, y) of the box around all of a subject's way, in −1 to 1 over the picture.

    Where nothing is followed it is the whole picture.
    """
    seen = subject.amax(0) > 0.5
    spans = []
    for along in (seen.any(0), seen.any(1)):
        where = along.nonzero()
        low, high = (where[0].item(), where[-1].item() + 1) if len(where) else (0, len(along))
        spans.append((2 * low / len(along) - 1, 2 * high / len(along) - 1))
    return tuple((a + b) / 2 for a, b in spans), tuple((b - a) / 2 for a, b in spans)


def blurred(picture: Tensor) -> Tensor:
    """A picture [H, W, 3] of which only broad light is left."""
    small = F.adaptive_avg_pool2d(picture.movedim(-1, 0)[None], 4)
    return F.interpolate(small, picture.shape[:2], mode="bicubic", align_corners=False)[0].movedim(0, -1).clamp(0, 1)


def soften(subject: Tensor) -> Tensor:
    """A mask [T, H, W] a little wider, with a soft edge."""
    reach = max(round(min(subject.shape[1:]) / 40), 1)
    mask = F.max_pool2d(subject[:, None], 2 * reach + 1, 1, reach)
    return F.avg_pool2d(mask, 2 * reach + 1, 1, reach, count_include_pad=False)[:, 0]


def _moved(layers: Tensor, placement: Placement, centre: tuple[float, float], half: tuple[float, float]) -> Tensor:
    """[T, H, W, 4] with the middle of the way at its new place; outside the picture there is nothing."""
    zoom = min(1 / max(*half, 1e-3), 8.0) * 0.95 if placement.crop else 1.0
    goal = (0.0, 0.0) if placement.crop else centre
    if placement.mirror:
        goal = (-goal[0], goal[1])
    size = zoom * placement.scale
    across = (-1 if placement.mirror else 1) / size
    down = 1 / size
    x, y = (place + 2 * step for place, step in zip(goal, placement.move, strict=True))
    theta = torch.tensor([[across, 0, centre[0] - across * x], [0, down, centre[1] - down * y]])
    grid = F.affine_grid(theta[None], (1, 1, *layers.shape[1:3]), align_corners=False)
    out = torch.empty_like(layers)
    for index, layer in enumerate(layers):  # one at a time: a grid for a whole clip would take as much as the clip
        out[index] = F.grid_sample(layer.movedim(-1, 0)[None], grid.to(layer), align_corners=False)[0].movedim(0, -1)
    cover = out[..., 3:].clamp(min=1e-6)
    inside = F.grid_sample(torch.ones(1, 1, *layers.shape[1:3]), grid, align_corners=False)[0, 0, ..., None].to(out)
    out[..., :3] = torch.where(cover > 1e-5, out[..., :3] / inside.clamp(min=1e-6), 0)  # edges do not darken
    return out
