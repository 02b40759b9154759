"""Runs checks one after another, each in a process of its own, so that none can take the others' time or card."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from .report import Bench, Row, failure

LEAST = 5.0
"""Seconds below which no check is started."""


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: as on the command line and in the table.
        run: makes the rows.
        seconds: the limit after which it is stopped.
    """

    name: str
    run: Callable[[Bench], None]
    seconds: float


def run(check: Check, device: str, small: bool, end: float) -> Iterator[Row]:
    """The rows of one check, which is stopped after its own time or at `end` (a reading of `time.monotonic`)."""
    left = end - time.monotonic()
    if left < LEAST:
        yield Row(check.name, "all of it", "skipped: no time left")
        return
    until = time.monotonic() + min(check.seconds, left)
    try:
        yield from _in_a_process(_check, (check, device, small, until), until)
    except TimeoutError:
        yield Row(check.name, "the rest", f"stopped after {min(check.seconds, left):.0f} s")
    except ChildProcessError as error:
        yield Row(check.name, "the rest", f"failed: {error}")


def ask(question: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What the function gives in a process of its own, so that this one never touches the card."""
    (answer,) = _in_a_process(_answer, (question,), time.monotonic() + seconds)
    return answer


def _check(connection: Connection, check: Check, device: str, small: bool, until: float) -> None:
    bench = Bench(check.name, torch.device(device), small, until, connection.send)
    if small:
        torch.set_num_threads(1)  # on a busy machine toy layers spend ten times longer waiting for a second
    try:
        check.run(bench)
    except Exception as error:
        bench.row("the rest", failure(error))


def _answer(connection: Connection, question: Callable[[], Any]) -> None:
    connection.send(question())


def _in_a_process(work: Callable[..., None], arguments: tuple, until: float) -> Iterator[Any]:
    """What the work sends. Raises: TimeoutError after `until`; ChildProcessError where the process broke down."""
    # a fork has torch imported already; it may use the card because this process never has
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, work, arguments))
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(max(0.0, until - time.monotonic())):
                raise TimeoutError
            try:
                yield receiver.recv()
            except EOFError:
                break
        process.join(10)
        if process.exitcode:
            raise ChildProcessError(f"the process ended with code {process.exitcode}")
    finally:
        _kill(process)


def _child(connection: Connection, work: Callable[..., None], arguments: tuple) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # so that the compiler's processes end with this one
    work(connection, *arguments)
    connection.close()


def _kill(process: multiprocessing.Process) -> None:
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    elif process.is_alive():
        process.kill()
    process.join()
