"""A run's metrics: metrics.jsonl with one JSON object per line, and a picture of its curves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "metrics.jsonl"
CURVE = "loss.png"
LOOK_BACK = 25
"""Steps over which the noise levels drawn even out: a single one's loss says more of its level than of the training."""


class MetricsLog:
    """Appends to a metrics file. Lines after `step`, from a run that was interrupted later, are removed."""

    def __init__(self, path: str | os.PathLike, step: int = 0) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.records = [record for record in read_metrics(self.path) if record["step"] <= step] if step else []
        with whole_file(self.path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one line; `record` names its "step"."""
        self.records.append(dict(record))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a metrics file; none if there is no file. Lines that are damaged or cut off are skipped."""
    records = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def draw_curves(records: Iterable[Mapping[str, Any]], size: tuple[int, int] = (960, 540)) -> Image:
    """A PIL picture of the loss (thin), its running mean and the held-out loss over steps, on a logarithmic axis.

    Args:
        records: with "step" and "loss" or "held_out".
    """
    from PIL import Image, ImageDraw

    records = list(records)
    loss = [(r["step"], r["loss"]) for r in records if r.get("loss", 0) > 0]
    held_out = [(r["step"], r["held_out"]) for r in records if r.get("held_out", 0) > 0]
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = 70, 20, size[0] - 20, size[1] - 40
    draw.rectangle((left, top, right, bottom), outline="#999999")
    values = [value for _, value in (*loss, *held_out)]
    if not values:
        draw.text((left + 10, top + 10), "nothing measured yet", fill="#666666")
        return picture
    low, high = math.log(min(values) / 1.1), math.log(max(values) * 1.1)
    last = max(step for step, _ in (*loss, *held_out)) or 1

    def place(step: float, value: float) -> tuple[float, float]:
        across, up = step / last, (math.log(value) - low) / (high - low)
        return left + across * (right - left), bottom - up * (bottom - top)

    for value in _ticks(math.exp(low), math.exp(high)):
        y = place(0, value)[1]
        draw.line((left, y, right, y), fill="#e4e4e4")
        draw.text((left - 8, y), f"{value:g}", fill="#666666", anchor="rm")
    for part in range(5):
        x, step = left + (right - left) * part / 4, last * part / 4
        draw.text((x, bottom + 8), f"{step:.0f}", fill="#666666", anchor="mt")
    _line(draw, [place(*point) for point in loss], "#bcd2ea", 1)
    _line(draw, [place(*point) for point in smoothed(loss)], "#1f5fa8", 3)
    _line(draw, [place(*point) for point in held_out], "#d2691e", 3)
    for x, y in (place(*point) for point in held_out):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="#d2691e")
    for row, (name, colour) in enumerate((("loss", "#1f5fa8"), ("held-out loss", "#d2691e"))):
        draw.text((right - 10, top + 14 + 16 * row), name, fill=colour, anchor="rm")
    return picture


def _line(draw: Any, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
    if len(points) > 1:
        draw.line(points, fill=colour, width=width)


def _ticks(low: float, high: float) -> list[float]:
    """Round values (1, 2, 5 times a power of ten) within [low, high]."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.05) -> list[tuple[float, float]]:
    """An exponential running mean that looks back over about `share` of all points, and no fewer than `LOOK_BACK`."""
    keep = 1 - 1 / max(LOOK_BACK, share * len(points))
    out, mean, weight = [], 0.0, 0.0
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((step, mean / weight))
    return out


def save_curves(records: Iterable[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Writes `draw_curves` as PNG, whole or not at all."""
    with whole_file(path) as temporary:
        draw_curves(records).save(temporary, format="PNG")
