"""Write the clips that come with the pack, eight times enlarged: references, and pairs to try training with."""

from __future__ import annotations

from ...video.write import write_video
from ..model.files import CLIPS, PAIRS
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


def write_pairs(seed: int = 810_000) -> None:
    """Write `example_pairs/<action>/take <n>.mp4` with captions: two takes of each unseen action."""
    for offset, name in enumerate(UNSEEN):
        clips = draw_clips(2, seed + offset, (name,))
        folder = PAIRS / name.replace("_", " ")
        folder.mkdir(parents=True, exist_ok=True)
        for take, (frames, caption) in enumerate(zip(render(clips), clips.captions(), strict=True), start=1):
            write_video(folder / f"take {take}.mp4", enlarge(frames), FPS)
            (folder / f"take {take}.txt").write_text(f"{caption}\n", encoding="utf-8")
