"""What a check has to say: rows of one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass

import torch

COLUMNS = ("check", "what", "result", "remark")


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    check: str
    what: str
    result: str
    remark: str = ""


@dataclass(frozen=True)
class Bench:
    """What a check is given.

    Attributes:
        check: its name. device: the one to measure on.
        small: whether to run in a form that a CPU does in seconds.
        until: reading of `time.monotonic` after which the check is stopped.
        send: takes the rows, one by one, as soon as they are known.
    """

    check: str
    device: torch.device
    small: bool
    until: float
    send: Callable[[Row], None]

    def row(self, what: str, result: str, remark: str = "") -> None:
        """One line."""
        self.send(Row(self.check, what, result, remark))

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """The body is for the line `what`; an exception in it becomes that line, and the rest goes on."""
        try:
            yield
        except Exception as error:
            self.row(what, failure(error))

    def enough(self, what: str, seconds: float) -> bool:
        """Whether `seconds` are left; if not, the line `what` says that it was skipped."""
        if self.left >= seconds:
            return True
        self.row(what, f"skipped: takes about {seconds:.0f} s, {max(self.left, 0):.0f} s are left")
        return False

    @property
    def left(self) -> float:
        """Seconds before the check is stopped."""
        return self.until - time.monotonic()


def failure(error: BaseException) -> str:
    """An exception as a result."""
    if isinstance(error, torch.OutOfMemoryError):
        return "failed: out of memory"
    lines = str(error).strip().splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0][:200]}".rstrip(": ")


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    cells = [COLUMNS, *(tuple(cell.replace("|", "/") for cell in astuple(row)) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]

    def line(values: Sequence[str], fill: str = " ") -> str:
        return "| " + " | ".join(value.ljust(width, fill) for value, width in zip(values, widths, strict=True)) + " |"

    return "\n".join([line(cells[0]), line([""] * len(COLUMNS), "-"), *map(line, cells[1:])])
