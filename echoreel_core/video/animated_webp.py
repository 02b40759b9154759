"""Animated WebP, which ComfyUI writes but PyAV's FFmpeg does not decode: read with the host's Pillow."""

import os
from fractions import Fraction

import torch

from ..errors import EchoReelError
from .picture import over_background
from .pillow import bytes_of

UNTIMED = 100  # ms a picture stays when the file says 0, as in browsers


class AnimatedWebP:
    """The pictures of the animated WebP at `path`: a sequence of [H, W, 3] byte tensors, decoded when indexed,
    transparent parts over white.

    Attributes:
        times: when each is shown, seconds from 0.
        end: when the last one leaves the screen.

    Raises:
        EchoReelError: it, or a picture of it, cannot be decoded.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        from PIL import Image  # the host's; reading other clips does without

        self.name = os.path.basename(path)
        try:
            self._image = Image.open(path, formats=["WEBP"])
        except (OSError, ValueError, Image.DecompressionBombError):
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
        picture = bytes_of(self._image)
        return over_background(picture) if self._image.mode == "RGBA" else picture

    def __enter__(self) -> "AnimatedWebP":
        return self

    def __exit__(self, *_: object) -> None:
        self._image.close()

    def _seek(self, index: int) -> None:
        try:
            self._image.seek(index)
            self._image.load()
        except Exception:  # whatever damaged bytes make Pillow run into
            raise EchoReelError(f"{self.name!r} is damaged at picture {index + 1}: export it again.") from None
