"""One training process or several: all that the loop knows about them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BUCKET = 1 << 26
"""Values averaged between processes at a time: 256 MB in float32."""


def best_device() -> str:
    """The fastest kind of device that this torch can use."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class ProcessGroup:
    """A single process, without a launcher.

    Attributes:
        rank: of this process, 0 for the one that writes files.
        count: of all processes.
    """

    rank = 0
    count = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces the tensors by their mean over all processes."""

    def barrier(self) -> None:
        """Waits for all processes."""


class AcceleratedProcessGroup(ProcessGroup):
    """The processes that `accelerate launch` started, each on its own device.

    Gradients are averaged after the last backward pass of a step, rather than by wrapping the model: what is trained
    runs inside hooks of a model that is not.

    Raises: ImportError if accelerate is not installed.
    """

    def __init__(self, device: str = "") -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=device == "cpu")
        self.rank, self.count = self._state.process_index, self._state.num_processes
        single = self.count == 1 and device
        super().__init__(device if single else self._state.device)

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces the tensors by their mean over all processes."""
        if self.count == 1:
            return
        from accelerate.utils import reduce

        bucket: list[Tensor] = []

        def flush() -> None:
            flat = reduce(torch.cat([tensor.flatten() for tensor in bucket]), "mean")
            for tensor, mean in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(mean.view_as(tensor))
            bucket.clear()

        for tensor in tensors:
            bucket.append(tensor)
            if sum(t.numel() for t in bucket) >= BUCKET:
                flush()
        if bucket:
            flush()

    def barrier(self) -> None:
        """Waits for all processes."""
        self._state.wait_for_everyone()
