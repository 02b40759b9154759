"""Clips of the world: what is drawn for each, its caption, its exact poses and its pixels."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache

import torch
from torch import Tensor

from .actions import ACTIONS, DRAWS, FRAMES, NAMES, poses
from .sprites import BACKGROUND_COLOURS, SIZES, SPRITES, SUBJECT_COLOURS, SUBJECTS

RESOLUTION = 32
REACH = 9.0  # pixels between the middle of the picture and the furthest centre of a subject
_SPRITE = 12
_SAMPLES = 2  # per pixel and direction: edges move smoothly with the subject


@dataclass(frozen=True)
class Clips:
    """A batch of clips by what was drawn for them. All are index tensors `[batch]` but `draws`, `[batch, DRAWS]`."""

    action: Tensor
    subject: Tensor
    colour: Tensor
    size: Tensor
    background: Tensor
    draws: Tensor

    def __len__(self) -> int:
        return len(self.action)

    def __getitem__(self, rows: slice | Tensor) -> Clips:
        return Clips(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device | str) -> Clips:
        """The same on another device."""
        return Clips(*(getattr(self, field.name).to(device) for field in fields(self)))

    def poses(self, frames: int = FRAMES) -> Tensor:
        """Ground truth `[batch, frames, 6]`, see `actions`."""
        return poses(self.action, self.draws, frames)

    def track(self, frames: int = FRAMES) -> Tensor:
        """Ground truth `[batch, frames, 4]`: centre x and y in pixels of a picture of 32 x 32, width and height in log2
        of the scale."""
        pose = self.poses(frames)
        return torch.cat([pose[..., :2] * REACH + RESOLUTION / 2, pose[..., 2:4]], -1)

    def keypoints(self, frames: int = FRAMES) -> Tensor:
        """The middles of the four sides of each figure's sprite, `[batch, frames, 4, 2]`: x and y, −1 to 1 over the
        picture."""
        pose = self.poses(frames)
        half = torch.tensor(list(SIZES.values()), device=pose.device)[self.size, None] / 2
        wide, high = half * torch.exp2(pose[..., 2]), half * torch.exp2(pose[..., 3])
        none = torch.zeros_like(wide)
        across, down = torch.stack([none, wide, none, -wide], -1), torch.stack([-high, none, high, none], -1)
        across = across - pose[..., 5, None] * down
        cos, sin = pose[..., 4, None].cos(), pose[..., 4, None].sin()
        middle = pose[..., None, :2] * REACH
        points = middle + torch.stack([cos * across - sin * down, sin * across + cos * down], -1)
        return points / (RESOLUTION / 2)

    def captions(self) -> list[str]:
        """One per clip: subject, colour, size, action and background, and nothing about how it moves."""
        rows = zip(self.size, self.colour, self.subject, self.action, self.background, strict=True)
        return [caption(*(int(value) for value in row)) for row in rows]


def caption(size: int, colour: int, subject: int, action: int, background: int) -> str:
    words = (list(SIZES)[size], list(SUBJECT_COLOURS)[colour], SUBJECTS[subject], ACTIONS[NAMES[action]][0])
    return f"a {' '.join(words)} on a {list(BACKGROUND_COLOURS)[background]} background"


def draw_clips(count: int, seed: int, actions: tuple[str, ...] = NAMES) -> Clips:
    """Draw `count` clips of the named actions; the same seed draws the same clips."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.tensor([NAMES.index(name) for name in actions])

    def pick(choices: int) -> Tensor:
        return torch.randint(choices, (count,), generator=generator)

    return Clips(
        action=names[pick(len(names))],
        subject=pick(len(SUBJECTS)),
        colour=pick(len(SUBJECT_COLOURS)),
        size=pick(len(SIZES)),
        background=pick(len(BACKGROUND_COLOURS)),
        draws=torch.rand(count, DRAWS, generator=generator),
    )


def with_other_subject(clips: Clips, seed: int) -> Clips:
    """The same motions, action and drawn numbers, by other subjects of other colours on other backgrounds."""
    generator = torch.Generator().manual_seed(seed)

    def other(value: Tensor, choices: int) -> Tensor:
        return (value + torch.randint(1, choices, value.shape, generator=generator)) % choices

    return replace(
        clips,
        subject=other(clips.subject, len(SUBJECTS)),
        colour=other(clips.colour, len(SUBJECT_COLOURS)),
        size=torch.randint(len(SIZES), clips.size.shape, generator=generator),
        background=other(clips.background, len(BACKGROUND_COLOURS)),
    )


@cache
def _sprites() -> tuple[Tensor, Tensor]:
    """Palette indices `[subjects, 12, 12]` (0 is empty), and where each sprite's mass lies `[subjects, 2]`."""
    index = torch.tensor([[[".#o+".index(c) for c in row] for row in s.split()] for s in SPRITES.values()])
    filled = (index > 0).float()
    along = torch.arange(_SPRITE) + 0.5 - _SPRITE / 2
    mass = filled.sum((1, 2))
    return index, torch.stack([(filled.sum(1) * along).sum(1) / mass, (filled.sum(2) * along).sum(1) / mass], 1)


def backgrounds(resolution: int = RESOLUTION) -> Tensor:
    """The empty scenes, `[backgrounds, 3, resolution, resolution]` in 0 to 1: a wall lit from the upper left, and a
    darker floor. The mean of each 2 x 2 pixels is the pixel at half the resolution."""
    scale = resolution / RESOLUTION
    across = ((torch.arange(resolution) + 0.5) / scale - 0.5) / (RESOLUTION - 1)
    light = 1.2 - 0.2 * across[None, :] - 0.2 * across[:, None]
    light = torch.where(torch.arange(resolution)[:, None] >= resolution - 4 * scale, light * 0.65, light)
    return torch.tensor(list(BACKGROUND_COLOURS.values()))[:, :, None, None] / 255 * light


def palettes() -> Tensor:
    """Main, dark and light shade of the subject colours, `[colours, 3 shades, 3]` in 0 to 1."""
    main = torch.tensor(list(SUBJECT_COLOURS.values())) / 255
    return torch.stack([main, 0.3 * main, 0.4 * main + 0.6], 1)


def render(clips: Clips, resolution: int = RESOLUTION, frames: int = FRAMES) -> Tensor:
    """Draw the clips: `[batch, frames, 3, resolution, resolution]`, float32 in 0 to 1, on their device."""
    return paint(clips, clips.poses(frames), resolution)


def paint(clips: Clips, pose: Tensor, resolution: int) -> Tensor:
    """The clips' subjects in any poses `[batch, frames, 6]`, as `render` gives them. Nothing is read back from the
    device."""
    count, frames = pose.shape[:2]
    fine = resolution * _SAMPLES
    grid, sprites, centre, sizes, shades, scenes = _tables(resolution, pose.device)
    dx = grid[None, None, None, :] - (RESOLUTION / 2 + REACH * pose[..., 0, None, None])
    dy = grid[None, None, :, None] - (RESOLUTION / 2 + REACH * pose[..., 1, None, None])
    # Undo, in order: rotation, shear, scale. What is left is the place in the sprite.
    cos, sin = pose[..., 4, None, None].cos(), pose[..., 4, None, None].sin()
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    u = u + pose[..., 5, None, None] * v
    cell, centre = sizes[clips.size] / _SPRITE, centre[clips.subject]
    u = u / (cell[:, None] * torch.exp2(pose[..., 2]))[..., None, None] + (centre[:, 0, None, None, None] + _SPRITE / 2)
    v = v / (cell[:, None] * torch.exp2(pose[..., 3]))[..., None, None] + (centre[:, 1, None, None, None] + _SPRITE / 2)
    inside = (u >= 0) & (u < _SPRITE) & (v >= 0) & (v < _SPRITE)
    flat = (v.clamp(0, _SPRITE - 1).long() * _SPRITE + u.clamp(0, _SPRITE - 1).long()).flatten(1)
    shade = torch.where(inside.flatten(1), sprites[clips.subject].flatten(1).gather(1, flat), 0)
    shade = shade.reshape(count * frames, 1, fine, fine)
    cover = torch.cat([(shade == level) for level in (1, 2, 3)], 1).float()
    cover = torch.nn.functional.avg_pool2d(cover, _SAMPLES).reshape(count, frames, 3, resolution, resolution)
    painted = torch.einsum("nfshw,nsc->nfchw", cover, shades[clips.colour])
    return painted + (1 - cover.sum(2, keepdim=True)) * scenes[clips.background][:, None]


@cache
@torch.inference_mode(False)
def _tables(resolution: int, device: torch.device) -> tuple[Tensor, ...]:
    """What `paint` looks up, on a device."""
    fine = resolution * _SAMPLES
    grid = (torch.arange(fine) + 0.5) * (RESOLUTION / fine)
    tables = (grid, *_sprites(), torch.tensor(list(SIZES.values())), palettes(), backgrounds(resolution))
    return tuple(table.to(device) for table in tables)
