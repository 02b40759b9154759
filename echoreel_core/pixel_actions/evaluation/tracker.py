"""What a clip shows, read from its pixels: the background, the subject's colour, and where the subject is.

All of it works on real and on generated clips, `[batch, frames, 3, 32, 32]` in 0 to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..world.clips import RESOLUTION, backgrounds, palettes

_DIFFERENT = 0.12  # of the full range: less than this from the empty scene is background
_STEADY = (0.7, 0.7, 0.1, 0.1)  # a channel of the truth with less deviation (pixels, pixels, log2, log2) is at rest


def background_of(pixels: Tensor) -> Tensor:
    """The background whose empty scene most pixels are closest to, `[batch]`."""
    distance = (
        (pixels[:, :, None] - backgrounds().to(pixels.device)).abs().mean(3)
    )  # [batch, frames, backgrounds, H, W]
    return distance.permute(0, 2, 1, 3, 4).flatten(2).median(2).values.argmin(1)


def subject_mask(pixels: Tensor, background: Tensor) -> Tensor:
    """How much each pixel is subject, `[batch, frames, 32, 32]` in 0 to 1."""
    distance = (pixels - backgrounds().to(pixels.device)[background][:, None]).abs().amax(2)
    return ((distance - _DIFFERENT) / _DIFFERENT).clamp(0, 1)


def colour_of(pixels: Tensor, background: Tensor) -> Tensor:
    """The subject colour whose main shade the subject's pixels are closest to, `[batch]`."""
    weight = subject_mask(pixels, background).flatten(1)
    shades = palettes()[:, 0].to(pixels.device)
    distance = (pixels[:, :, None] - shades[None, None, :, :, None, None]).square().sum(3).sqrt()
    likeness = (1 - distance / 0.35).clamp(min=0)  # [batch, frames, colours, H, W]
    return (likeness.permute(0, 2, 1, 3, 4).flatten(2) * weight[:, None]).sum(2).argmax(1)


def track(pixels: Tensor, background: Tensor) -> Tensor:
    """Centre x and y in pixels, width and height in log2 of the standard deviation in pixels, `[batch, frames, 4]`.

    Where nothing is seen the place is the middle of the picture and the size is that of a single pixel.
    """
    mask = subject_mask(pixels, background)
    along = torch.arange(RESOLUTION, device=pixels.device) + 0.5
    mass = mask.sum((2, 3))
    seen = mass > 1
    mass = mass.clamp(min=1e-6)
    columns, rows = mask.sum(2) / mass[..., None], mask.sum(3) / mass[..., None]
    channels = []
    for share in (columns, rows):
        centre = (share * along).sum(-1)
        spread = (share * (along - centre[..., None]).square()).sum(-1).clamp(min=1 / 12).sqrt().log2()
        channels.append((centre.where(seen, RESOLUTION / 2), spread.where(seen, -1.8)))
    (x, width), (y, height) = channels
    return torch.stack([x, y, width, height], -1)


def trajectory_correlation(track: Tensor, truth: Tensor) -> Tensor:
    """Pearson's r over the frames of `track` with `truth`, both `[batch, frames, 4]` → `[batch]`.

    The mean over the channels that move in the truth; NaN where none does (a motion of angle or shear alone).
    """
    a, b = (value - value.mean(1, keepdim=True) for value in (track, truth))
    r = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt().clamp(min=1e-6)
    moves = truth.std(1) > torch.tensor(_STEADY, device=truth.device)
    return torch.where(moves, r, 0).sum(1) / moves.sum(1)  # 0 / 0 is NaN
