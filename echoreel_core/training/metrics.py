"""A run's metrics: metrics.jsonl with one JSON object per line, and a picture of its curves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..files import whole_file
from .loss import NoiseLevels, drawn_level

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "metrics.jsonl"
CURVE = "loss.png"
INK, LOSS, HELD_OUT = "#80868e", "#3f8fd8", "#e07a1f"
"""Colours of the axes and curves: each stands out from a dark ground and from white, at a contrast of 2.9 or more."""
LEAST_EVENED = 12
"""Steps from which on it can be told what the loss owes to the noise levels."""
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


def level_powers(seed: int, samples: Sequence[int]) -> list[float]:
    """Means of u, u² and u³ over the noise levels of samples: what `evened` needs to know of them."""
    levels = [drawn_level(seed, sample, NoiseLevels()).item() for sample in samples]
    return [sum(u**power for u in levels) / len(levels) for power in (1, 2, 3)]


def evened(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(step, loss) as if every step had drawn the same noise levels.

    A step's loss says more of its levels than of what was learned: they change it tenfold. What log(loss) owes to them,
    by least squares over all steps, is taken out; the mean loss stays. Records of older runs do not hold their levels.
    """
    steps, losses = [r["step"] for r in records], [r["loss"] for r in records]
    known = [r.get("levels") for r in records]
    if len(records) < LEAST_EVENED or not all(isinstance(levels, list) and len(levels) == 3 for levels in known):
        return list(zip(steps, losses, strict=True))
    powers = torch.tensor(known, dtype=torch.float64)
    powers = powers - powers.mean(0)
    losses = torch.tensor(losses, dtype=torch.float64)
    logs = losses.log()
    even = (logs - powers @ (torch.linalg.pinv(powers) @ (logs - logs.mean()))).exp()
    return list(zip(steps, (even * losses.mean() / even.mean()).tolist(), strict=True))


def draw_curves(records: Iterable[Mapping[str, Any]], size: tuple[int, int] = (960, 540)) -> Image:
    """A PIL picture of the `evened` loss (thin), its running mean and the held-out loss over steps, on a logarithmic
    axis.

    It is transparent, in colours that can be told from a dark and from a light ground.

    Args:
        records: with "step" and "loss" or "held_out".
    """
    from PIL import Image, ImageDraw, ImageFont

    records = list(records)
    loss = evened([r for r in records if r.get("loss", 0) > 0])
    mean = smoothed(loss)
    held_out = [(r["step"], r["held_out"]) for r in records if r.get("held_out", 0) > 0]
    picture = Image.new("RGBA", size)
    draw = ImageDraw.Draw(picture)
    unit = size[1] / 18  # a line of text; a node shows the picture at less than half its size
    draw.font = ImageFont.load_default(0.8 * unit)
    left, top, right, bottom = 3 * unit, 0.5 * unit, size[0] - unit, size[1] - 1.4 * unit
    draw.rectangle((left, top, right, bottom), outline=INK)
    values = [value for _, value in (*mean, *held_out)]  # the thin line may leave the picture
    if not values:
        draw.text((left + unit, top + unit), "nothing measured yet", fill=INK)
        return picture
    low, high = math.log(min(values) / 1.2), math.log(max(values) * 1.2)
    last = max(step for step, _ in (*loss, *held_out)) or 1

    def place(step: float, value: float) -> tuple[float, float]:
        across, up = step / last, min(max((math.log(value) - low) / (high - low), 0), 1)
        return left + across * (right - left), bottom - up * (bottom - top)

    for value in _ticks(math.exp(low), math.exp(high)):
        y = place(0, value)[1]
        draw.line((left, y, right, y), fill=INK + "50")
        draw.text((left - 0.3 * unit, y), f"{value:g}", fill=INK, anchor="rm")
    for part in range(5):
        x, step = left + (right - left) * part / 4, last * part / 4
        draw.text((x, bottom + 0.4 * unit), f"{step:.0f}", fill=INK, anchor="mt")
    _line(draw, [place(*point) for point in loss], LOSS + "70", 1)
    _line(draw, [place(*point) for point in mean], LOSS, 4)
    _line(draw, [place(*point) for point in held_out], HELD_OUT, 4)
    for x, y in (place(*point) for point in held_out):
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=HELD_OUT)
    drawn = [("loss", LOSS)] * bool(loss) + [("held-out loss", HELD_OUT)] * bool(held_out)
    for row, (name, colour) in enumerate(drawn):
        draw.text((right - 0.5 * unit, top + (0.8 + row) * unit), name, fill=colour, anchor="rm")
    return picture


def _line(draw: Any, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
    if len(points) > 1:
        draw.line(points, fill=colour, width=width)


def _ticks(low: float, high: float) -> list[float]:
    """Round values within [low, high]: 1, 2, 5 times a power of ten, finer ones where that is fewer than two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), range(1, 10), [1 + i / 5 for i in range(45)]):
        ticks = [tick for power in powers for digit in digits if low <= (tick := digit * 10.0**power) <= high]
        if len(ticks) > 1:
            break
    return ticks


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.05) -> list[tuple[float, float]]:
    """An exponential running mean that looks back over about `share` of all points, and no fewer than `LOOK_BACK`."""
    keep = 1 - 1 / max(LOOK_BACK, share * len(points))
    out, mean, weight = [], 0.0, 0.0
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((step, mean / weight))
    return out


def save_curves(records: Iterable[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Writes `draw_curves` on white as PNG, whole or not at all."""
    from PIL import Image

    curves = draw_curves(records)
    picture = Image.new("RGBA", curves.size, "white")
    picture.alpha_composite(curves)
    with whole_file(path) as temporary:
        picture.convert("RGB").save(temporary, format="PNG")
