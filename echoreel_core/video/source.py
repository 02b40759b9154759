"""The file behind a clip, as PyAV reads it: never anything but a plain file, and never for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import BinaryIO

from ..files import check_file

Source = str | os.PathLike | BinaryIO
Step = Callable[[], None]

PATIENCE = 0.5
"""Seconds without a packet after which zeros are the end: what follows in a download that was cut off."""
ASK = 0.1
"""Seconds between two questions whether to go on."""
BLOCK = 1 << 20


class WatchedFile:
    """A path, or a seekable binary file, for PyAV to read: all of it goes through here, so it can be stopped.

    Attributes:
        name: how to call it in messages.
        step: called while it is read; what it raises ends the reading.

    Raises: EchoReelError where a path is no plain file that can be read.
    """

    def __init__(self, source: Source) -> None:
        self.step: Step = lambda: None
        self._own = isinstance(source, (str, os.PathLike))
        if self._own:
            self.name = os.path.basename(os.fspath(source))
            check_file(source, "video")
            self._file = open(source, "rb")
        else:
            name = getattr(source, "name", None)
            self.name = os.path.basename(name) if isinstance(name, str) else "the video"
            self._file = source
        self._stopped: BaseException | None = None
        self._end: int | None = None  # where the zeros begin that are the end
        self.restart()

    def restart(self) -> None:
        """Back to the beginning."""
        self._file.seek(0)
        self._asked = 0.0
        self.found()

    def found(self) -> None:
        """To be called for each packet, and where no more comes. Raises what `step` has raised."""
        self._since = time.monotonic()
        if self._stopped is not None:
            raise self._stopped

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end, and where a long search has only zeros before it."""
        now = time.monotonic()
        if now - self._asked > ASK:
            self._asked = now
            try:
                self.step()
            except BaseException as stopped:  # FFmpeg may take it for damage: it goes on its way in `found`
                self._stopped = stopped
        if self._stopped is not None:
            return b""
        place = self._file.tell()
        if self._end is not None:
            size = min(size, max(self._end - place, 0))
        data = self._file.read(size)
        if now - self._since > PATIENCE and data and not data.strip(b"\0"):
            self._end = self._begin_of_zeros(place)
            return b""
        return data

    def _begin_of_zeros(self, place: int) -> int:
        while place > 0:
            before = max(place - BLOCK, 0)
            self._file.seek(before)
            block = self._file.read(place - before)
            if rest := block.rstrip(b"\0"):
                return before + len(rest)
            place = before
        return 0

    def seek(self, *place: int) -> int:
        return self._file.seek(*place)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        """Closes the file where it was opened here."""
        if self._own:
            self._file.close()
