"""The named motions of the world. Each is a function of a clip's own drawn numbers and nothing else.

A motion gives six channels per frame: `x`, `y` (place, −1 to 1 over the reach of the subject's centre), `width`,
`height` (log2 of the scale), `angle` (radians) and `shear`. The numbers a clip draws (phase, speed, extent,
direction, …) are one row of uniform random values; two clips with the same row make the same motion.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

FRAMES = 16
DRAWS = 48
CHANNELS = ("x", "y", "width", "height", "angle", "shear")
_WAYPOINTS = 12  # index of the first draw used for random points; the ones before it are single numbers

Motion = Callable[["Draws"], dict[str, Tensor]]


class Draws:
    """The random numbers of a batch of clips, `[batch, DRAWS]` in 0 to 1, by meaning."""

    def __init__(self, values: Tensor, frames: int = FRAMES) -> None:
        self.values = values
        self.time = torch.linspace(0, 1, frames, device=values.device)[None]  # [1, frames]

    def between(self, index: int, low: float, high: float) -> Tensor:
        return low + (high - low) * self.values[:, index, None]

    def sign(self, index: int) -> Tensor:
        return torch.where(self.values[:, index, None] < 0.5, -1.0, 1.0)

    def turns(self, low: float, high: float) -> Tensor:
        """Cycles done by each frame, `[batch, frames]`: phase and speed are draws 0 and 1."""
        return self.between(0, 0, 1) + self.between(1, low, high) * self.time

    def place(self, room: float | Tensor = 0.7) -> dict[str, Tensor]:
        """A point that stays where it is (draws 2 and 3), at most `room` from the middle."""
        return {"x": room * self.between(2, -1, 1) + 0 * self.time, "y": room * self.between(3, -1, 1) + 0 * self.time}

    def points(self, count: int, size: int) -> Tensor:
        """Random points, `[batch, count, size]` in −1 to 1."""
        drawn = self.values[:, _WAYPOINTS : _WAYPOINTS + count * size]
        return drawn.reshape(-1, count, size) * 2 - 1

    def visit(self, points: Tensor, beats: Tensor, travel: float) -> Tensor:
        """Go from point to point: at beat `n` leave point `n`, arrive after `travel` of a beat, and wait."""
        index = beats.long().clamp(0, points.shape[1] - 2)
        share = ((beats - index) / travel).clamp(0, 1) if travel else torch.ones_like(beats)
        share = share * share * (3 - 2 * share)
        pick = index[..., None].expand(-1, -1, points.shape[2])
        start, end = points.gather(1, pick), points.gather(1, pick + 1)
        return start + (end - start) * share[..., None]


def _sin(turns: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * turns)


def _cos(turns: Tensor) -> Tensor:
    return torch.cos(2 * math.pi * turns)


def _triangle(turns: Tensor) -> Tensor:
    return 4 * (turns - torch.floor(turns + 0.5)).abs() - 1


def _smooth_path(d: Draws) -> dict[str, Tensor]:
    waves = d.points(6, 3)  # three waves for x, three for y
    turns = (waves[..., 0, None] + 1) / 2 + (0.9 + 0.7 * waves[..., 1, None]) * d.time[:, None]
    wave = _sin(turns) * (0.7 + 0.3 * waves[..., 2, None])
    return {"x": torch.tanh(0.9 * wave[:, :3].sum(1)), "y": torch.tanh(0.9 * wave[:, 3:].sum(1))}


def bounce(d: Draws) -> dict[str, Tensor]:
    start, end = d.between(2, -0.9, 0.9), d.between(3, -0.9, 0.9)
    height = d.between(4, 1.0, 1.9)
    return {"x": start + (end - start) * d.time, "y": 0.95 - height * torch.sin(math.pi * d.turns(1.3, 3.0)).abs()}


def circle(d: Draws) -> dict[str, Tensor]:
    radius = d.between(4, 0.4, 0.95)
    turns, centre = d.sign(5) * d.turns(0.8, 2.0), d.place(1 - radius)
    return {"x": centre["x"] + radius * _cos(turns), "y": centre["y"] + radius * _sin(turns)}


def pace(d: Draws) -> dict[str, Tensor]:
    return {"x": d.between(4, 0.5, 1.0) * _sin(d.turns(0.8, 2.0)), "y": d.place()["y"]}


def march(d: Draws) -> dict[str, Tensor]:
    side = d.between(4, 0.5, 0.95)
    turns, centre = d.sign(5) * d.turns(0.7, 1.5), d.place(1 - side)

    def edge(t: Tensor) -> Tensor:  # −1, up to 1, stay, down to −1, stay
        return (2 * _triangle(t)).clamp(-1, 1)

    return {"x": centre["x"] + side * edge(turns), "y": centre["y"] + side * edge(turns + 0.25)}


def dash(d: Draws) -> dict[str, Tensor]:
    beats = d.between(0, 0, 1) + d.between(1, 2.5, 4.5) * d.time
    place = d.visit(d.points(7, 2) * 0.95, beats, travel=0.7)
    return {"x": place[..., 0], "y": place[..., 1]}


def teleport(d: Draws) -> dict[str, Tensor]:
    beats = d.between(0, 0, 1) + d.between(1, 2.5, 5.5) * d.time
    place = d.visit(d.points(8, 2) * 0.95, beats, travel=0.0)
    return {"x": place[..., 0], "y": place[..., 1]}


def wander(d: Draws) -> dict[str, Tensor]:
    return _smooth_path(d)


def tumble(d: Draws) -> dict[str, Tensor]:
    turns = d.between(0, 0, 1) + d.sign(5) * d.between(1, 0.8, 2.0) * d.time
    return {**_smooth_path(d), "angle": 2 * math.pi * turns}


def dance(d: Draws) -> dict[str, Tensor]:
    beats = d.between(0, 0, 1) + d.between(1, 2.5, 4.5) * d.time
    reach = torch.tensor([0.6, 0.6, 0.45, 0.45, 1.0], device=d.values.device)
    pose = d.visit(d.points(7, 5) * reach, beats, travel=0.8)
    return dict(zip(CHANNELS, pose.unbind(-1), strict=False))


def spin(d: Draws) -> dict[str, Tensor]:
    return {**d.place(), "angle": 2 * math.pi * d.sign(5) * d.turns(0.8, 2.2)}


def rock(d: Draws) -> dict[str, Tensor]:
    return {**d.place(), "angle": d.between(4, 0.45, 1.0) * _sin(d.turns(1.0, 2.5))}


def pulse(d: Draws) -> dict[str, Tensor]:
    size = d.between(4, 0.3, 0.55) * _sin(d.turns(1.2, 2.8))
    return {**d.place(), "width": size, "height": size}


def squash(d: Draws) -> dict[str, Tensor]:
    size = d.between(4, 0.3, 0.6) * _sin(d.turns(1.0, 2.5))
    return {**d.place(), "width": size, "height": -size}


def shake(d: Draws) -> dict[str, Tensor]:
    place = d.place()
    return {**place, "x": place["x"] + d.between(4, 0.12, 0.26) * _sin(d.turns(4.0, 6.5))}


def grow(d: Draws) -> dict[str, Tensor]:
    start, length = d.between(0, 0.0, 0.35), d.between(1, 0.4, 0.65)
    small, large = d.between(4, -0.65, -0.4), d.between(5, 0.35, 0.6)
    size = small + (large - small) * ((d.time - start) / length).clamp(0, 1)
    return {**d.place(0.5), "width": size, "height": size}


def sway(d: Draws) -> dict[str, Tensor]:
    return {**d.place(), "shear": d.between(4, 0.4, 0.8) * _sin(d.turns(1.0, 2.5))}


def figure_eight(d: Draws) -> dict[str, Tensor]:
    turns = d.sign(5) * d.turns(0.9, 1.5)
    long, short = d.between(4, 0.65, 1.0) * _sin(turns), d.between(6, 0.45, 0.75) * _sin(2 * turns)
    lying = d.sign(7) > 0
    return {"x": torch.where(lying, long, short), "y": torch.where(lying, short, long)}


def spiral(d: Draws) -> dict[str, Tensor]:
    inner, outer = d.between(4, 0.05, 0.2), d.between(6, 0.8, 1.0)
    share = torch.where(d.sign(7) > 0, d.time, 1 - d.time)
    radius, turns = inner + (outer - inner) * share, d.sign(5) * d.turns(1.6, 2.4)
    return {"x": radius * _cos(turns), "y": radius * _sin(turns)}


def zigzag(d: Draws) -> dict[str, Tensor]:
    along = d.sign(5) * (2 * d.time - 1) * d.between(4, 0.75, 1.0)
    across = d.between(6, 0.4, 0.8) * _triangle(d.turns(1.8, 3.2))
    level = d.sign(7) > 0
    return {"x": torch.where(level, along, across), "y": torch.where(level, across, along)}


def climb_stairs(d: Draws) -> dict[str, Tensor]:
    steps = d.between(1, 2.5, 4.5)
    walked = d.between(0, 0, 1) + steps * d.time
    flat = torch.floor(walked) + (2 * (walked % 1)).clamp(0, 1) - d.between(0, 0, 1)
    rise = torch.floor(walked) + (2 * (walked % 1) - 1).clamp(0, 1) - d.between(0, 0, 1)
    reach = d.between(4, 0.75, 0.95)
    return {"x": d.sign(5) * reach * (2 * flat / steps - 1), "y": -reach * (2 * rise / steps - 1)}


def swing(d: Draws) -> dict[str, Tensor]:
    lean = d.between(4, 0.6, 1.1) * _sin(d.turns(0.9, 2.0))
    rope = d.between(6, 1.0, 1.6)
    return {
        "x": d.between(2, -0.2, 0.2) + rope * torch.sin(lean),
        "y": rope * torch.cos(lean) - d.between(3, 0.7, 1.0),
        "angle": -lean,
    }


def cartwheel(d: Draws) -> dict[str, Tensor]:
    x = d.between(4, 0.75, 1.0) * _sin(d.turns(0.6, 1.3))
    return {"x": x, "y": d.between(3, 0.3, 0.95) + 0 * d.time, "angle": d.between(6, 2.6, 4.2) * x}


def shrink(d: Draws) -> dict[str, Tensor]:
    size = grow(d)["width"].flip(1)
    return {**d.place(0.5), "width": size, "height": size}


def somersault(d: Draws) -> dict[str, Tensor]:
    share = (d.turns(1.2, 2.2) % 1) / 0.75  # a quarter of each cycle is spent on the ground
    share = share.clamp(0, 1)
    height = d.between(4, 1.0, 1.7)
    return {
        "x": d.place()["x"],
        "y": 0.9 - height * 4 * share * (1 - share),
        "angle": 2 * math.pi * d.sign(5) * share,
    }


# name → (what a caption says, motion). Base model and adapter are trained on SEEN and on nothing else.
SEEN: dict[str, tuple[str, Motion]] = {
    "bounce": ("bouncing", bounce),
    "circle": ("circling", circle),
    "pace": ("pacing", pace),
    "march": ("marching", march),
    "dash": ("dashing", dash),
    "teleport": ("teleporting", teleport),
    "wander": ("wandering", wander),
    "tumble": ("tumbling", tumble),
    "dance": ("dancing", dance),
    "spin": ("spinning", spin),
    "rock": ("rocking", rock),
    "pulse": ("pulsing", pulse),
    "squash": ("squashing", squash),
    "shake": ("shaking", shake),
    "grow": ("growing", grow),
    "sway": ("swaying", sway),
}
UNSEEN: dict[str, tuple[str, Motion]] = {
    "figure_eight": ("tracing figure eights", figure_eight),
    "spiral": ("spiraling", spiral),
    "zigzag": ("zigzagging", zigzag),
    "climb_stairs": ("climbing stairs", climb_stairs),
    "swing": ("swinging", swing),
    "cartwheel": ("cartwheeling", cartwheel),
    "shrink": ("shrinking", shrink),
    "somersault": ("somersaulting", somersault),
}
ACTIONS = {**SEEN, **UNSEEN}
NAMES = tuple(ACTIONS)


def poses(action: Tensor, draws: Tensor, frames: int = FRAMES) -> Tensor:
    """Poses `[batch, frames, 6]` of clips whose actions are indices into NAMES and whose numbers are `draws`.

    The motion takes the whole clip, however many frames it is shown in.
    """
    out = draws.new_zeros(len(draws), frames, len(CHANNELS))
    for index in action.unique().tolist():
        rows = (action == index).nonzero()[:, 0]
        motion = ACTIONS[NAMES[index]][1](Draws(draws[rows], frames))
        for channel, value in motion.items():
            out[rows, :, CHANNELS.index(channel)] = value.expand(len(rows), frames)
    return out
