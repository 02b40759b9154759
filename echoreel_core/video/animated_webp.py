"""Animated WebP, which ComfyUI writes but PyAV's FFmpeg does not decode: read with the host's Pillow."""

import os
from fractions import Fraction

import numpy as np
import torch
from PIL import Image

from ..errors import EchoReelError

UNTIMED = 100  # ms a picture stays when the file says 0, as in browsers


class AnimatedWebP:
    """The pictures of the animated WebP at `path`: a sequence of [H, W, 3] byte tensors, decoded when indexed.

    Attributes:
        times: when each is shown, seconds from 0.
        end: when the last one leaves the screen.

    Raises:
        EchoReelError: it, or a picture of it, cannot be decoded.
    """

    def __init__(self, path: str) -> None:
        self.name = os.path.basename(path)
        try:
            self._image = Image.open(path, formats=["WEBP"])
        except (OSError, ValueError):
            raise EchoReelError(f"{self.name!r} cannot be read as a video: it is damaged or cut off.") from None
        shown, self.times = 0, []
        for index in range(len(self)):
            self._seek(index)
            self.times.append(Fraction(shown, 1000))
            shown += self._image.info.get("duration") or UNTIMED
        self.end = Fraction(shown, 1000)

    def __len__(self) -> int:
        return self._image.n_frames

    def __getitem__(self, index: int) -> torch.Tensor:
        self._seek(index)
        return torch.from_numpy(np.array(self._image.convert("RGB")))

    def __enter__(self) -> "AnimatedWebP":
        return self

    def __exit__(self, *_: object) -> None:
        self._image.close()

    def _seek(self, index: int) -> None:
        try:
            self._image.seek(index)
            self._image.load()
        except (OSError, EOFError, ValueError):
            raise EchoReelError(f"{self.name!r} is damaged at picture {index + 1}: export it again.") from None


def is_animated_webp(path: str) -> bool:
    """By content: the flag for animation in the file's extended header."""
    with open(path, "rb") as file:
        head = file.read(21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20:21] and head[20] & 2)
