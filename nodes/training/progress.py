"""What a long-running node shows of its work: the host's progress bar, and a line of text on the node."""

from __future__ import annotations

import time
from typing import Any

import comfy.utils
from comfy_execution.utils import get_executing_context

EVERY = 0.25
"""Seconds between two lines, so that quick steps do not flood the page."""


class NodeProgress:
    """Bar and text of the node that is running; without a server, the bar alone."""

    def __init__(self) -> None:
        from server import PromptServer

        context = get_executing_context()
        self._node = context.node_id if context else None
        self._server = getattr(PromptServer, "instance", None)
        self._bar = comfy.utils.ProgressBar(1)
        self._said = 0.0

    def say(self, line: str) -> None:
        """Shows a line at once."""
        self._said = time.monotonic()
        if self._server is not None and self._node is not None:
            self._server.send_progress_text(line, self._node)

    def update(self, done: int, total: int, line: str, preview: Any = None) -> None:
        """Moves the bar, and shows the line unless another was shown just before; the last one always."""
        self._bar.update_absolute(done, total, preview)
        if done >= total or time.monotonic() - self._said > EVERY:
            self.say(line)
