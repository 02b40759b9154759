"""A folder of pictures, one for each frame, as 3D programs and editors write them."""

from __future__ import annotations

import os
import re
from fractions import Fraction

from torch import Tensor

from ..errors import EchoReelError
from .frame_choice import FrameSelection
from .kinds import PICTURE_SUFFIXES
from .picture import orientation, upright_rgb
from .reader import VideoFile

RATE = 24
"""Frames per second of a sequence, which does not say its own."""


def sequence_files(folder: str | os.PathLike) -> list[str]:
    """The pictures of a sequence in the order of the numbers in their names; links, which lead elsewhere, left out.

    Raises: OSError where the folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.name.lower().endswith(PICTURE_SUFFIXES) and entry.is_file(follow_symlinks=False)
        ]
    parts = {name: [(part.zfill(20), part) for part in re.split(r"(\d+)", name)] for name in names}
    return sorted(names, key=lambda name: parts[name])


class ImageSequence:
    """The pictures of the `folder`: a sequence of [H, W, 3] byte tensors, decoded when indexed.

    Attributes:
        name: how to call it in messages.
        times: when each is shown, seconds from 0.
        end: when the last one leaves the screen.

    Raises:
        EchoReelError: there are none, or one that is asked for cannot be decoded.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self._folder = os.fspath(folder)
        self.name = os.path.basename(os.path.normpath(folder))
        try:
            self._files = sequence_files(folder)
        except OSError as error:
            raise EchoReelError(f"The folder {self.name!r} cannot be read ({error.strerror}).") from None
        if not self._files:
            raise EchoReelError(
                f"The folder {self.name!r} holds no pictures ({', '.join(PICTURE_SUFFIXES)}): choose another clip."
            )
        self.times = [Fraction(index, RATE) for index in range(len(self._files))]
        self.end = Fraction(len(self._files), RATE)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        with VideoFile(os.path.join(self._folder, self._files[index])) as still:
            still.scan(FrameSelection(frames=1, every_nth=1))
            _, picture = next(still.pictures(still.times[:1]))
            return upright_rgb(picture, orientation(picture))

    def __enter__(self) -> ImageSequence:
        return self

    def __exit__(self, *_: object) -> None:
        pass
