"""How long a stage trains: on a card by the clock, elsewhere by steps. Its learning rate has run down at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

import torch

_AHEAD = 16  # steps that may wait on a device; the clock would run ahead of the work otherwise


def factor(step: int, share: float, warmup: int = 100, down: float = 0.4) -> float:
    """Of the learning rate, at this step and share of the whole: up, level, and during the last `down` of it down to
    nearly nothing."""
    return min(1.0, (step + 1) / warmup, max(0.01, (1 - share) / down))


def steps(minutes: float, device: torch.device, first: int = 0) -> Iterator[tuple[int, float]]:
    """Step numbers and the share of the time that has passed, until it is over."""
    start, waiting, step = time.monotonic(), deque(), first
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        yield step, share
        step += 1
        if device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            waiting.append(event)
            if len(waiting) > _AHEAD:
                waiting.popleft().synchronize()


def graphed(
    step: Callable[[], None], device: torch.device, log: Callable[..., None], wanted: bool = True
) -> Callable[[], None]:
    """The step as one CUDA graph, after a few that warm up; as it is on other devices and where it cannot be held
    or is not wanted.

    The step takes no arguments: all that changes lies in tensors, chance comes from the device's own generator.
    """
    if device.type != "cuda" or not wanted:
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        log(graph=str(error)[:500])
        torch.cuda.synchronize()
        return step
    return graph.replay


class Every:
    """True once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._next = seconds, time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self.seconds
        return True
