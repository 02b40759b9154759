"""Progress in words: how far, how fast, how long still; and what to change where memory runs out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..errors import EchoReelError
from .config import TrainingSettings, VideoSettings

WINDOW = 20
"""The pace is that of the latest items: the first are slow, and other programs come and go."""


def duration(seconds: float) -> str:
    """A length of time as people say it: "40 seconds", "53 minutes", "5 hours", "3 days"."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count = round(seconds / size)
        if count >= 2 or size == 1 or (count == 1 and seconds >= size):
            return f"{count} {unit}{'' if count == 1 else 's'}"
    raise AssertionError("unreachable")


class Pace:
    """Seconds for an item, from the times at which `tick` was called.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times = deque([clock()], maxlen=WINDOW + 1)

    def tick(self) -> None:
        """Another item is done."""
        self._times.append(self._clock())

    @property
    def seconds(self) -> float:
        """For one item, mean over the latest; 0 before the first."""
        return (self._times[-1] - self._times[0]) / max(1, len(self._times) - 1)

    def words(self, left: int, item: str) -> str:
        """For instance "3.2 s a step, 53 minutes left" for items called "step"."""
        if not left:
            return f"{self.seconds:.2g} s a {item}"
        return f"{self.seconds:.2g} s a {item}, {duration(self.seconds * left)} left"


def step_line(step: int, steps: int, loss: float, pace: Pace) -> str:
    """For instance "step 12 of 1000, loss 0.41, 3.2 s a step, 53 minutes left"."""
    return f"step {step} of {steps}, loss {loss:.3g}, {pace.words(steps - step, 'step')}"


def prism_line(step: int, steps: int, loss: float, pace: Pace) -> str:
    """The same of the prism's start."""
    return f"The prism first learns by itself: {step_line(step, steps, loss, pace)}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of the GPU's or the computer's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "not enough memory" in text)


@contextmanager
def memory_advice(settings: TrainingSettings, video: VideoSettings, frames: str = "frames") -> Iterator[None]:
    """Inside the `with`, running out of memory becomes a sentence with the settings that need less.

    Args:
        frames: what the user knows the number of frames by.

    Raises: EchoReelError in place of what torch raises.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        less = []
        if not settings.gradient_checkpointing:
            less.append("gradient_checkpointing on")
        elif not settings.offload_activations:
            less.append("offload_activations on")
        if settings.mixed_precision == "no":
            less.append("mixed_precision bf16")
        if settings.optimizer == "adamw":
            less.append("optimizer adamw8bit")
        elif settings.optimizer == "muon":
            less.append("optimizer adamw8bit with a tenth of learning_rate")
        if settings.batch_size > 1:
            less.append(f"batch_size below {settings.batch_size}")
        less += [f"{frames} below {video.frames}", f"width and height below {video.width} x {video.height}"]
        raise EchoReelError(f"There is not enough memory. These settings need less: {'; '.join(less)}.") from error
