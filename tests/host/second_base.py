"""The second base in a real ComfyUI, with stock loaders and sampler, on the eight shipped clips.

    COMFYUI_PATH=... python tests/host/second_base.py            --adapter FILE for another than the one that is here
    COMFYUI_PATH=... python tests/host/second_base.py --guided   without an adapter, by Follow Motion at its best

The clips have 16 frames, spread evenly over the base's 33. Run by the host's Python. Prints for each clip how the paths
of the reference and of what was made of another subject correlate, with EchoReel and without: the mean and the least of
the seeds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from comfy_server import ComfyServer, Run
from PIL import Image
from places import ROOT
from torch import Tensor

sys.path.append(str(ROOT))

from echoreel_core.pixel_actions.evaluation.tracker import background_of, track, trajectory_correlation  # noqa: E402
from echoreel_core.pixel_actions.wan.export import ADAPTER_FILE, MODEL_FILE, VAE_FILE  # noqa: E402
from echoreel_core.pixel_actions.wan.latents import FRAMES, RESOLUTION, seen  # noqa: E402
from echoreel_core.pixel_actions.wan.pipeline import WanPipeline  # noqa: E402
from echoreel_core.pixel_actions.wan.train_base import SHIFT  # noqa: E402
from echoreel_core.pixel_actions.world.actions import UNSEEN  # noqa: E402
from echoreel_core.pixel_actions.world.pictures import contact_sheet  # noqa: E402

WAN = ROOT / "echoreel_core" / "pixel_actions" / "wan"
BEST = WanPipeline.best_guidance
BY_GUIDANCE = {
    "patched": (
        "EchoReelFollowMotion",
        {"model": ["base", 0], "vae": ["vae", 0], "frames": ["video", 0], "follow": "motion only"}
        | {"strength": BEST.strength, "start_percent": 0.0, "end_percent": BEST.end},
    )
}
EMBEDDED = "Pixel Actions (comes with EchoReel)"
CLIPS = ROOT / "echoreel_core" / "pixel_actions" / "example_clips"
SEED_STEP = 8
"""From one seed of a clip to the next; the first is the clip's number."""
FIGURES = (
    ("big green star", "navy"),
    ("small red robot", "teal"),
    ("big yellow cat", "maroon"),
    ("small blue heart", "brown"),
)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--base", type=Path, default=WAN / MODEL_FILE)
    parse.add_argument("--adapter", type=Path, default=WAN / ADAPTER_FILE)
    parse.add_argument("--guided", action="store_true")
    parse.add_argument("--steps", type=int, default=25)
    parse.add_argument("--cfg", type=float, default=3.0)
    parse.add_argument("--seeds", type=int, default=1, help="of each clip")
    parse.add_argument("--clips", nargs="+", help="names; all of them, if left out")
    parse.add_argument("--out", type=Path, help="a folder for a strip of pictures of each clip")
    options = parse.parse_args()
    with tempfile.TemporaryDirectory() as folder, ComfyServer(prepared(Path(folder), options), threads=2) as server:
        for number, clip in enumerate(sorted(CLIPS.glob("*.mp4"))):
            if options.clips and clip.stem not in options.clips:
                continue
            shutil.copy(clip, server.base / "input" / clip.name)
            reference = drawn(clip)
            made = {
                name: [
                    pictures(server, server.run(prompt(clip, number, seed, options, on), 900))
                    for seed in range(number, number + SEED_STEP * options.seeds, SEED_STEP)
                ]
                for name, on in (("with", True), ("without", False))
            }
            told = [
                f"  {name} {found.mean():6.3f}, least {found.min():6.3f}"
                for name, clips in made.items()
                for found in [torch.cat([trajectory_correlation(path_of(x), path_of(reference)) for x in clips])]
            ]
            print(clip.stem.ljust(14) + "".join(told), flush=True)
            if options.out:
                rows = {"reference": reference[0], "with": made["with"][0][0], "without": made["without"][0][0]}
                contact_sheet(rows, factor=3).save(options.out / f"{clip.stem}.png")


def prepared(base: Path, options: argparse.Namespace) -> Path:
    """A folder for the server, with the files in it."""
    files = {"diffusion_models": options.base, "vae": WAN / VAE_FILE}
    if not options.guided:
        files["echoreel"] = options.adapter
    for kind, path in files.items():
        place = base / "models" / kind
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / path.name)
    return base


def prompt(clip: Path, number: int, seed: int, options: argparse.Namespace, with_clip: bool) -> dict:
    """The graph that an artist would build, stock nodes but for those that load and use the clip."""
    figure, background = FIGURES[number % len(FIGURES)]
    text = f"a {figure} {UNSEEN[clip.stem.replace(' ', '_')][0]} on a {background} background"
    sampled = ["patched", 0] if with_clip else ["base", 0]
    frames = {"frame_count": FRAMES, "width": RESOLUTION, "height": RESOLUTION, "sampling": "spread evenly"}
    nodes = {
        "base": ("UNETLoader", {"unet_name": options.base.name, "weight_dtype": "default"}),
        "text": ("EchoReelLoadCheckpoint", {"checkpoint": EMBEDDED}),
        "vae": ("VAELoader", {"vae_name": VAE_FILE}),
        "positive": ("CLIPTextEncode", {"clip": ["text", 1], "text": text}),
        "negative": ("CLIPTextEncode", {"clip": ["text", 1], "text": ""}),
        "video": (
            "EchoReelLoadReferenceVideo",
            {"file": clip.name, "start": 0.0, "duration": 0.0, "every_nth": 1, "target_fps": 16.0, "crop": "center"}
            | frames,
        ),
        **(BY_GUIDANCE if options.guided else by_adapter(options.adapter.name)),
        "shift": ("ModelSamplingSD3", {"model": sampled, "shift": SHIFT}),
        "empty": (
            "EmptyHunyuanLatentVideo",
            {"width": RESOLUTION, "height": RESOLUTION, "length": FRAMES, "batch_size": 1},
        ),
        "sampler": (
            "KSampler",
            {"model": ["shift", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
            | {"latent_image": ["empty", 0], "seed": seed, "steps": options.steps, "cfg": options.cfg}
            | {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0},
        ),
        "decode": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["vae", 0]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "frame"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def by_adapter(name: str) -> dict:
    return {
        "adapter": ("EchoReelLoadAdapter", {"adapter": name}),
        "prism": (
            "EchoReelActionPrismEncode",
            {"echoreel": ["adapter", 0], "vae": ["vae", 0], "clip": ["text", 1], "frames": ["video", 0]}
            | {"caption": ["video", 2], "positive": ["positive", 0], "negative": ["negative", 0]},
        ),
        "patched": (
            "EchoReelApply",
            {"model": ["base", 0], "echoreel": ["adapter", 0], "action": ["prism", 0]}
            | {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
        ),
    }


def pictures(server: ComfyServer, run: Run) -> Tensor:
    """The saved frames as judge and tracker look at them, [1, 16, 3, 32, 32]."""
    files = [server.base / "output" / entry["subfolder"] / entry["filename"] for entry in run.outputs["save"]["images"]]
    frames = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return seen(torch.from_numpy(frames).movedim(-1, 1)[None] / 255)


def drawn(clip: Path) -> Tensor:
    """A shipped clip as it was drawn, [1, 16, 3, 32, 32]."""
    with av.open(str(clip)) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    return F.avg_pool2d(torch.from_numpy(frames).movedim(-1, 1) / 255, frames.shape[1] // 32)[None]


def path_of(clip: Tensor) -> Tensor:
    return track(clip, background_of(clip))


if __name__ == "__main__":
    main()
