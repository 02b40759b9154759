"""What the pictures that nodes draw have in common: colours, letters, and the way from frames to Pillow and back."""

from __future__ import annotations

import torch
from PIL import Image, ImageFont
from torch import Tensor

from ...echoreel_core.video.pillow import bytes_of

GROUND, CARD, TEXT, MARK = (24, 24, 24), (48, 48, 48), (230, 230, 230), (255, 196, 0)


def letters(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all pictures; `size` in pixels."""
    return ImageFont.load_default(size)


def to_picture(frame: Tensor) -> Image.Image:
    """A frame [H, W, 3], floats from 0 to 1."""
    return Image.fromarray(frame.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy())


def to_frame(picture: Image.Image) -> Tensor:
    """[H, W, 3 or 4], floats from 0 to 1."""
    return bytes_of(picture).float().div_(255)
