"""A training log: one JSON object a line, with the seconds since the start."""

from __future__ import annotations

import json
import time
from pathlib import Path


class Log:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.start = path, time.monotonic()

    def __call__(self, **values: float) -> None:
        line = {"seconds": round(time.monotonic() - self.start, 1), **values}
        with self.path.open("a") as file:
            file.write(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}) + "\n")
