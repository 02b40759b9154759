"""How work tells how far it has come."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called after each item; what it raises stops the work."""

    def __call__(self, done: int, total: int, line: str = "", /) -> None:
        """Items done, items in all, and one line about the latest where there is something to say."""
