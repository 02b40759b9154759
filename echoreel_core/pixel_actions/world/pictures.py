"""Pictures for people: clips enlarged, named and side by side."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...video.pillow import bytes_of

_BAR = 26  # height of a name, pixels
_GAP = 8


def enlarge(pixels: Tensor, factor: int = 8) -> Tensor:
    """`[frames, 3, H, W]` → `[frames, factor·H, factor·W, 3]`, every pixel a square."""
    return pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3).movedim(1, -1)


def side_by_side(clips: dict[str, Tensor], factor: int = 8) -> Tensor:
    """Clips `[frames, 3, 32, 32]` in 0 to 1, by name → one film `[frames, H, W, 3]` with the names above."""
    columns = []
    for name, pixels in clips.items():
        film = enlarge(pixels, factor)
        bar = _name(name, film.shape[2], _BAR).expand(len(film), -1, -1, -1)
        columns += [torch.cat([bar, film], 1), film.new_ones(len(film), film.shape[1] + _BAR, _GAP, 3)]
    return torch.cat(columns[:-1], 2)


def contact_sheet(clips: dict[str, Tensor], factor: int = 3) -> Image.Image:
    """A row of all frames for each clip `[frames, 3, 32, 32]`, under its name."""
    rows = []
    for name, pixels in clips.items():
        film = enlarge(pixels, factor)
        stripe = film.new_ones(len(film), film.shape[1], 2, 3)
        row = torch.cat(list(torch.cat([film, stripe], 2)), 1)[:, :-2]
        rows += [_name(name, row.shape[1], _BAR)[0], row]
    return Image.fromarray((torch.cat(rows) * 255).round().byte().numpy())


def _name(text: str, width: int, height: int) -> Tensor:
    """Dark on white, `[1, height, width, 3]`."""
    picture = Image.new("L", (width, height), 255)
    ImageDraw.Draw(picture).text((4, height // 2), text, fill=30, anchor="lm", font=ImageFont.load_default(15))
    return (bytes_of(picture)[None].float() / 255).expand(-1, -1, -1, 3)
