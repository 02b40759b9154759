"""Takes the pictures of the help pages anew: small graphs in the real page, with clips of Pixel Actions.

    COMFYUI_PATH=... python tests/web/help_pictures.py [--checkpoint FILE] [NODE ID ...]

Run it in ComfyUI's Python, where Node and a Chromium are installed (npm install --prefix tests/web). What runs does so
with the embedded model. Files of models that no picture runs are empty: only their names are seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "host"), str(HERE.parent)]
sys.path.append(str(ROOT))

from comfy_server import ComfyServer  # noqa: E402
from PIL import Image  # noqa: E402

from echoreel_core.pixel_actions.model.files import EMBEDDED_FILE  # noqa: E402
from echoreel_core.pixel_actions.world.actions import UNSEEN  # noqa: E402
from echoreel_core.pixel_actions.world.clips import draw_clips, render  # noqa: E402
from echoreel_core.pixel_actions.world.pictures import enlarge  # noqa: E402
from echoreel_core.video.frames import FrameSelection, read_video  # noqa: E402
from echoreel_core.video.write import write_video  # noqa: E402

PICTURES = ROOT / "web" / "docs" / "pictures"
IMAGE_CONDITIONING = (
    "checkpoints/checkpoint.pt",
    "diffusion_models/wan2.1_t2v_1.3B_bf16.safetensors",
    "text_encoders/umt5_xxl_fp16.safetensors",
    "vae/wan_2.1_vae.safetensors",
    "echoreel/wan2.1_1.3B_echoreel.safetensors",
)
ENLARGED, REPEATED, RATE = 8, 4, 25
"""Pixels per pixel; video frames per frame of the world, so that every 4th is a new one; frames per second."""


def write_clips(folder: Path, count: int, seed: int) -> None:
    """Clips of actions with their captions beside them, in a folder per action."""
    for name in UNSEEN:
        clips = draw_clips(count, seed, (name,))
        for number, (frames, caption) in enumerate(zip(render(clips), clips.captions(), strict=True), start=1):
            path = folder / name / f"{name}_{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, enlarge(frames, ENLARGED).repeat_interleave(REPEATED, 0), RATE)
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def filmstrips(clip: Path) -> Image.Image:
    """The frames that each way of sampling takes of the first second and a half of a clip."""
    side, gap, ways = (
        72,
        4,
        (FrameSelection(8, "every_nth", every_nth=4), FrameSelection(8, "even"), FrameSelection(8, "fps", fps=12.0)),
    )
    strip = Image.new("RGB", (8 * (side + gap) - gap, 3 * (side + gap) - gap), (32, 32, 32))
    for row, sampling in enumerate(ways):
        for column, frame in enumerate(read_video(clip, sampling, width=side, height=side).frames):
            picture = Image.fromarray((frame * 255).round().byte().numpy())
            strip.paste(picture, (column * (side + gap), row * (side + gap)))
    return strip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nodes", nargs="*", metavar="NODE ID", help="default all")
    parser.add_argument("--checkpoint", type=Path, default=EMBEDDED_FILE, help="to run in place of the embedded one")
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(Path(folder, "comfyui"))
        for name in IMAGE_CONDITIONING:
            path = server.base / "models" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        shutil.copy(options.checkpoint, server.base / "models" / "checkpoints" / EMBEDDED_FILE.name)
        for name in ("jump_00001_.safetensors", "run_00001_.safetensors"):
            path = server.base / "output" / "echoreel_actions" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        write_clips(server.base / "input" / "actions", 3, seed=3)
        clip = server.base / "input" / "somersault.mp4"
        shutil.copy(server.base / "input" / "actions" / "somersault" / "somersault_1.mp4", clip)
        PICTURES.mkdir(parents=True, exist_ok=True)
        with server:
            task = {"url": server.url, "chromium": chromium, "only": options.nodes, "shots": folder}
            Path(folder, "task.json").write_text(json.dumps(task), encoding="utf-8")
            subprocess.run(["node", "help_pictures.mjs", str(Path(folder, "task.json"))], cwd=HERE, check=True)
        for shot in sorted(Path(folder).glob("*.png")):
            Image.open(shot).convert("RGB").save(
                PICTURES / f"{shot.stem}.jpg", quality=82, subsampling=0, optimize=True
            )
        filmstrips(clip).save(PICTURES / "sampling.jpg", quality=85, optimize=True)
    for picture in sorted(PICTURES.iterdir()):
        print(f"{picture.stat().st_size / 1000:6.1f} kB  {picture.name}")


if __name__ == "__main__":
    main()
