"""A picture of an action: the frames of its clip, lit where its features change, and a curve of how much over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ...echoreel_core.action.motion import ActionMotion
from ...echoreel_core.video.frames import fit
from .drawing import CARD, GROUND, MARK, TEXT, letters, to_frame, to_picture

WIDTH = 240  # of a frame, pixels
GAP = 8
COLUMNS, MOST = 4, 32  # frames in a row, and in all
LETTERS = 30  # on a node the picture is shown at about a third of its size
TITLE = 44
CURVE = 240  # height
AXIS = 96  # room for the numbers left of the curve
NUMBERS = 9  # below the curve, at most
BAR = 16  # height of the bar in a frame without positions
DIM = 0.35
LEAST_CELL, LEAST_FRAME = 0.05, 0.1
"""The least change that lights a cell fully and tops the curve, so that the trace in a still clip is not amplified."""
DARKEST, BRIGHTEST = 0.5, 0.98
"""A cell that moves less than this share of all cells stays dark, so that the background does; one that moves more than
that share is fully lit, so that one outlier does not darken the others."""


def draw_motion(frames: Tensor, motion: ActionMotion) -> Tensor:
    """[1, H, W, 3], floats from 0 to 1.

    Args:
        frames: [T, H, W, 3 or 4] in 0 … 1. The action may have fewer frames than they are, where the VAE takes several
            into one: each is drawn over the one in its place.
    """
    count = len(motion.frames)
    shown = _spread(count, min(count, MOST))
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // columns)
    height = max(round(WIDTH * frames.shape[1] / frames.shape[2]), 1)
    width = COLUMNS * (WIDTH + GAP) + GAP
    top = rows * (height + GAP) + GAP
    picture = Image.new("RGB", (width, top + TITLE + CURVE + TITLE + GAP), GROUND)
    draw, font = ImageDraw.Draw(picture), letters(LETTERS)
    heat = _heat(motion.cells)
    at = _spread(len(frames), count)
    for number, index in enumerate(shown):
        row, column = divmod(number, columns)
        left, upper = GAP + column * (WIDTH + GAP), GAP + row * (height + GAP)
        frame = fit(frames[at[index]], WIDTH, height)
        if heat[index].numel() > 1:
            picture.paste(to_picture(lit(frame, heat[index])), (left, upper))
        else:  # of a prism without positions, where lighting the whole frame would hide it
            picture.paste(to_picture(frame), (left, upper))
            share = round(WIDTH * heat[index].clamp(0, 1).item())
            draw.rectangle((left, upper + height - BAR, left + WIDTH - 1, upper + height - 1), CARD)
            if share:
                draw.rectangle((left, upper + height - BAR, left + share - 1, upper + height - 1), MARK)
        label = str(at[index] + 1)
        draw.rectangle((left, upper, left + 12 + draw.textlength(label, font), upper + 38), CARD)
        draw.text((left + 6, upper + 19), label, TEXT, font, anchor="lm")
    draw.text((GAP, top), "How much the action changes, frame by frame", TEXT, font)
    _draw_curve(draw, font, motion.frames.tolist(), at, (AXIS, top + TITLE, width - 2 * GAP, top + TITLE + CURVE))
    return to_frame(picture)[None]


def _heat(cells: Tensor) -> Tensor:
    """How brightly each cell [S, h, w] is lit, 0 to 1 and beyond."""
    moving = cells[1:].flatten() if len(cells) > 1 else cells.flatten()
    dark = moving.quantile(DARKEST).item() if cells[0].numel() > 1 else 0.0  # one cell has no background
    return (cells - dark) / max(moving.quantile(BRIGHTEST).item() - dark, LEAST_CELL)


def lit(frame: Tensor, heat: Tensor) -> Tensor:
    """A dimmed frame [H, W, 3], as bright as it was and towards amber where the heat [h, w] is 1."""
    size = frame.shape[:2]
    heat = F.interpolate(heat[None, None], size, mode="bilinear").clamp(0, 1)[0, 0, :, :, None]
    amber = torch.tensor(MARK) / 255
    return frame * DIM * (1 - heat) + (0.5 * frame + 0.5 * amber) * heat


def _spread(count: int, places: int) -> list[int]:
    """`places` whole numbers from 0 to count - 1, evenly."""
    return [round(i * (count - 1) / max(places - 1, 1)) for i in range(places)]


def _draw_curve(draw, font, values: list[float], at: list[int], box: tuple[int, int, int, int]) -> None:
    """The values over the numbers of their frames, the first of which has none before it and so no value."""
    left, top, right, bottom = box
    highest = max(*values, LEAST_FRAME)
    draw.rectangle(box, CARD)
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), (80, 80, 80), width=2)
        draw.text((left - 8, y), f"{share * highest:.0%}", TEXT, font, anchor="rm")
    step = (right - left) / max(len(values) - 1, 1)
    points = [(left + i * step, bottom - value / highest * (bottom - top)) for i, value in enumerate(values)]
    if len(points) > 2:
        draw.line(points[1:], MARK, width=6, joint="curve")
    for x, y in points[1:]:
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), MARK)
    for i in _spread(len(values), min(len(values), NUMBERS)):
        draw.text((left + i * step, bottom + 4), str(at[i] + 1), TEXT, font, anchor="ma")
