"""Write the example clips: one of each unseen action, eight times enlarged, with its caption as its title."""

from __future__ import annotations

from ...video.write import write_video
from ..model.files import CLIPS
from ..world.actions import UNSEEN
from ..world.clips import draw_clips, render
from ..world.pictures import enlarge

FPS = 8


def write_clips(seed: int = 800_000) -> None:
    """Write `clips/*.mp4` beside this file."""
    CLIPS.mkdir(exist_ok=True)
    for offset, name in enumerate(UNSEEN):
        clip = draw_clips(1, seed + offset, (name,))
        frames = enlarge(render(clip)[0])
        write_video(CLIPS / f"{name.replace('_', ' ')}.mp4", frames, FPS, title=clip.captions()[0])
