"""Follow Motion under every sampler: the embedded base model in a real ComfyUI, on clips that no published table uses.

    COMFYUI_PATH=... python benchmarks/motion_samplers.py --clips 16 --samplers euler dpmpp_2m --strength 1.0

Each clip is sampled without and with guidance from the same noise, with the same sampler. It runs with ComfyUI's
Python, on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "ComfyUI"))
SAMPLERS = ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "res_multistep", "lcm", "ddim"]
SEED = 810_000


def arguments() -> argparse.Namespace:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--clips", type=int, default=16)
    parse.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parse.add_argument("--scheduler", default="normal")
    parse.add_argument("--steps", type=int, default=10)
    parse.add_argument("--cfg", type=float, default=2.0)
    parse.add_argument("--denoise", type=float, default=1.0, help="below 1 from the base model's own clip")
    parse.add_argument("--strength", type=float, nargs="+", default=[0.0, 1.0])
    parse.add_argument("--end", type=float, default=0.25)
    return parse.parse_args()


OPTIONS = arguments()
sys.argv = [sys.argv[0], "--cpu"]  # the host reads its options from here at import
sys.path.insert(0, str(COMFYUI))
sys.path.append(str(ROOT))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sample  # noqa: E402
import torch  # noqa: E402


def pack():
    """The pack, imported from its folder as the host does."""
    spec = importlib.util.spec_from_file_location(
        "echoreel_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


pack()

import echoreel_pack.nodes  # noqa: E402, F401
from echoreel_pack.echoreel_core.pixel_actions.evaluation import table  # noqa: E402
from echoreel_pack.echoreel_core.pixel_actions.evaluation.judge import load_judge  # noqa: E402
from echoreel_pack.echoreel_core.pixel_actions.model.adapted_model import noise_for  # noqa: E402
from echoreel_pack.echoreel_core.pixel_actions.world.actions import UNSEEN  # noqa: E402
from echoreel_pack.nodes import load_echoreel  # noqa: E402
from echoreel_pack.nodes.follow_motion import follow_motion  # noqa: E402


class Bench:
    """The embedded model as the host loads it, the clips and what guides them."""

    def __init__(self, clips: int) -> None:
        self.model, self.clip, self.vae, _ = load_echoreel.LoadCheckpoint.execute(load_echoreel.EMBEDDED).result
        self.judge = load_judge(ROOT / "echoreel_core/pixel_actions/evaluation/judge.safetensors")
        self.clips = table.balanced(tuple(UNSEEN), clips, SEED)
        self.noise = noise_for(len(self.clips), SEED)
        self.others, self.shown = table.references("echoreel", self.clips, torch.Generator().manual_seed(SEED))
        self.negative = self.text("")

    def text(self, words: str) -> list:
        return [[self.clip.encode_from_tokens(self.clip.tokenize(words)), {}]]

    def sampled(self, row: int, sampler: str, strength: float, start: torch.Tensor | None = None) -> torch.Tensor:
        """Latents [16, 4, 8, 8] of one clip; from `start` if the run begins late."""
        frames = self.shown[row].movedim(1, -1)
        model = follow_motion(self.model, self.vae, frames, strength, end_percent=OPTIONS.end)
        noise = self.noise[row].transpose(0, 1).contiguous()
        latents = torch.zeros_like(noise) if start is None else start
        settings = {"denoise": 1.0 if start is None else OPTIONS.denoise, "disable_pbar": True, "seed": SEED + row}
        texts = self.text(self.clips[row : row + 1].captions()[0]), self.negative
        run = sampler, OPTIONS.scheduler, *texts, latents
        with torch.autocast("cpu", torch.bfloat16):
            return comfy.sample.sample(model, noise, OPTIONS.steps, OPTIONS.cfg, *run, **settings)

    def measured(self, sampler: str, strength: float) -> str:
        begin, found = time.perf_counter(), []
        for row in range(len(self.clips)):
            start = None if OPTIONS.denoise == 1 else self.sampled(row, sampler, 0.0)
            pixels = self.vae.decode(self.sampled(row, sampler, strength, start)).movedim(-1, 1)[None].float()
            one = slice(row, row + 1)
            found.append(table.measure(pixels, self.clips[one], self.others[one], self.judge))
        means = [torch.cat([part[name] for part in found]).nanmean().item() for name in table.MEASURES]
        return " ".join(f"{mean:6.3f}" for mean in means) + f" {time.perf_counter() - begin:5.0f}"


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    bench = Bench(OPTIONS.clips)
    print(f"{vars(OPTIONS)}\nsampler, strength: {', '.join(table.MEASURES)}, seconds", flush=True)
    for sampler in OPTIONS.samplers:
        for strength in OPTIONS.strength:
            print(f"{sampler:20} {strength:4.2f}: {bench.measured(sampler, strength)}", flush=True)


if __name__ == "__main__":
    main()
