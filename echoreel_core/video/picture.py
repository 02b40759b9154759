"""A decoded picture as people see it: upright, in the colours that players show."""

from __future__ import annotations

import struct

import av
import torch
from av.video.reformatter import Colorspace
from torch import Tensor

from . import hdr

BACKGROUND = 255
"""White: what shows through transparent parts."""
_UNSPECIFIED = 2
_HD = (1280, 577)
"""From this width or height on, players take colours that are not tagged for BT.709, below it for BT.601."""


def upright_rgb(picture: av.VideoFrame, turned: tuple[bool, bool, bool]) -> Tensor:
    """[H, W, 3] bytes: turned and mirrored as the file says, transparent parts over white, HDR brought to SDR.

    Args:
        turned: the clip's `orientation`.
    """
    swapped, left, up = turned
    image = _rgb(picture)
    if swapped:
        image = image.transpose(0, 1)
    sides = [side for side, reversed_ in ((0, up), (1, left)) if reversed_]
    return image.flip(sides) if sides else image


def orientation(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(rows and columns swapped, then columns reversed, rows reversed), by the display matrix.

    A point (x, y) of the picture is shown at (a x + c y, b x + d y), as in ISO 14496-12, 8.3.2; right angles only.
    To be asked once per clip: PyAV ties frame and side data into a circle, which keeps the frame in memory for long.
    """
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = struct.unpack_from("5i", bytes(matrix))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def _rgb(picture: av.VideoFrame) -> Tensor:
    if picture.color_trc in hdr.TRANSFERS:
        # RGB of 16 bits; torch has no arithmetic for unsigned ones
        deep = _plane(picture.reformat(format="rgb48le"), torch.int16).to(torch.int32) & 0xFFFF
        return hdr.to_sdr(deep, picture.color_trc)
    tagged = picture.colorspace != _UNSPECIFIED or picture.format.is_rgb
    is_hd = picture.width >= _HD[0] or picture.height >= _HD[1]
    colours = None if tagged or not is_hd else Colorspace.ITU709
    if not any(component.is_alpha for component in picture.format.components):
        return _plane(picture.reformat(format="rgb24", src_colorspace=colours), torch.uint8)
    rgba = _plane(picture.reformat(format="rgba", src_colorspace=colours), torch.uint8)
    if rgba[..., 3].amin() == 255:
        return rgba[..., :3]
    return over_background(rgba)


def over_background(rgba: Tensor) -> Tensor:
    """Bytes [H, W, 4], alpha last and straight → [H, W, 3]."""
    share = rgba[..., 3:].float() / 255
    return (rgba[..., :3] * share + BACKGROUND * (1 - share)).round().to(torch.uint8)


def _plane(picture: av.VideoFrame, dtype: torch.dtype) -> Tensor:
    """[H, W, channels] of a packed picture."""
    plane = picture.planes[0]
    rows = torch.frombuffer(plane, dtype=dtype).view(-1, plane.line_size // dtype.itemsize)[: picture.height]
    channels = len(picture.format.components)
    return rows[:, : picture.width * channels].unflatten(1, (picture.width, channels))
