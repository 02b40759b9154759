"""From Pillow's pictures to tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def bytes_of(picture: Image) -> Tensor:
    """A picture of mode RGB, RGBA or L as bytes [H, W, 3, 4 or 1]."""
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.view(picture.height, picture.width, -1)
