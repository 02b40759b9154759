"""Motion without an adapter on the embedded base model: a table of settings, on clips that no published table uses.

    python benchmarks/motion_guidance.py --device cuda --clips 200 \\
        --grid '{"strength": [0.9, 1.2, 1.5], "end": [0.3, 0.4]}' --arms echoreel still

Every combination of the grid is a row; keys are those of `evaluation.guidance.Guidance`, and what is not
named is as there by default. It needs torch, einops and safetensors alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from echoreel_core.pixel_actions.evaluation.guidance import Guidance  # noqa: E402
from echoreel_core.pixel_actions.evaluation.judge import load_judge  # noqa: E402
from echoreel_core.pixel_actions.evaluation.lvdm import generate_guided  # noqa: E402
from echoreel_core.pixel_actions.evaluation.table import MEASURES, balanced, measure, references  # noqa: E402
from echoreel_core.pixel_actions.model.adapted_model import noise_for  # noqa: E402
from echoreel_core.pixel_actions.model.embedded import load_embedded  # noqa: E402
from echoreel_core.pixel_actions.model.files import EMBEDDED_FILE  # noqa: E402
from echoreel_core.pixel_actions.model.latents import decode, encode  # noqa: E402
from echoreel_core.pixel_actions.world.actions import UNSEEN  # noqa: E402

SEED = 810_000


@torch.inference_mode()
def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--device", default="cpu")
    parse.add_argument("--clips", type=int, default=32)
    parse.add_argument("--steps", type=int, default=10)
    parse.add_argument("--guidance", type=float, default=2.0)
    parse.add_argument("--arms", nargs="+", default=["echoreel"], choices=["echoreel", "wrong", "still", "shuffled"])
    parse.add_argument("--grid", type=json.loads, default={}, help="JSON: lists of values by name")
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--at-once", type=int, default=4, help="clips; more for a GPU")
    options = parse.parse_args()
    torch.set_num_threads(options.threads)
    model, autoencoder = load_embedded(EMBEDDED_FILE)
    base, autoencoder = model.base.to(options.device), autoencoder.to(options.device)
    judge = load_judge(ROOT / "echoreel_core/pixel_actions/evaluation/judge.safetensors")
    clips = balanced(tuple(UNSEEN), options.clips, SEED)
    noise = noise_for(len(clips), SEED)
    shown = {}
    for arm in options.arms:
        others, pixels = references(arm, clips, torch.Generator().manual_seed(SEED))
        shown[arm] = (
            others,
            torch.cat([encode(autoencoder, part.to(options.device)) for part in pixels.split(options.at_once)]),
        )
    print("arm, " + ", ".join(MEASURES) + ", seconds: setting", flush=True)
    for values in itertools.product(*options.grid.values()):
        named = dict(zip(options.grid, values, strict=True))
        for arm, (others, latents) in shown.items():
            begin, found = time.perf_counter(), []
            for rows in torch.arange(len(clips)).split(options.at_once):
                made = generate_guided(
                    base,
                    clips[rows].captions(),
                    noise[rows].to(options.device),
                    latents[rows.to(latents.device)],
                    Guidance(**named),
                    options.steps,
                    options.guidance,
                )
                found.append(measure(decode(autoencoder, made).cpu(), clips[rows], others[rows], judge))
            means = [torch.cat([part[name] for part in found]).nanmean().item() for name in MEASURES]
            line = " ".join(f"{mean:6.3f}" for mean in means)
            print(f"{arm:9} {line} {time.perf_counter() - begin:5.0f}: {json.dumps(named)}", flush=True)


if __name__ == "__main__":
    main()
