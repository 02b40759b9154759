"""What Follow Motion adds to a step of a sampling run in a real ComfyUI, in time and in memory.

    COMFYUI_PATH=... python benchmarks/motion_cost.py --cpu-time --threads 1

Time: one step of small models, guided over unguided, medians. Such models are the hard case, for what guidance computes
depends on the latents alone, and the passes of a big model take thousands of times as long. Memory: all that is alive
on the model's device at the worst moment of a guided step beyond the sampler's own latents, at 81 frames of 832 x 480.
"""

from __future__ import annotations

import statistics
import sys
import time
import weakref
from pathlib import Path

import torch
from timing import arguments, median_ratio
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = arguments(__doc__.splitlines()[0], repeats=7).parse_args()
sys.path[:0] = [str(ROOT / "tests" / "host"), str(ROOT / "tests")]

import conftest  # noqa: E402, F401  the tests' way to import the host, and the pack as the host does

# isort: split
import comfy.sample  # noqa: E402
import tiny_models  # noqa: E402
from conditioning import prompt  # noqa: E402
from guidance import KnownLatents, passing_square  # noqa: E402

STEPS = 6


class Living(TorchDispatchMode):
    """Bytes of all storages that were made inside and still live, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for found in tree_leaves(result):
            if isinstance(found, torch.Tensor):
                self._meet(found.untyped_storage())
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._part, key, size)

    def _part(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def seconds_of_steps(model, latents, texts, clock) -> list[float]:
    """Of every step but the first and the last."""
    moments = []
    run = STEPS, 2.0, "euler", "normal", *texts, latents
    noise = comfy.sample.prepare_noise(latents, 0)
    comfy.sample.sample(model, noise, *run, callback=lambda *_: moments.append(clock()), disable_pbar=True, seed=0)
    return [after - before for before, after in zip(moments, moments[1:-1], strict=False)]


def time_of_steps(name: str, model, vae, latents, texts, frames) -> None:
    from echoreel_pack.nodes.follow_motion import follow_motion

    clock = time.process_time if OPTIONS.cpu_time else time.perf_counter
    guided = follow_motion(model, vae, frames, end_percent=1.0)
    taken = {False: [], True: []}
    for _ in range(OPTIONS.repeats):
        for is_guided, found in ((False, model), (True, guided)):
            taken[is_guided] += seconds_of_steps(found, latents, texts, clock)
    ratio = median_ratio(taken[True], taken[False])
    print(f"{name:30} {statistics.median(taken[False]) * 1000:8.1f} ms a step, guided {ratio:.3f} times", flush=True)


def memory_of_a_step() -> None:
    from echoreel_pack.echoreel_core.guide.course import Course, Fade
    from echoreel_pack.echoreel_core.guide.gradient import MotionLoss, moving_region

    x, clean = (torch.randn(1, 16, 21, 60, 104) for _ in range(2))
    with Living() as living:
        reference = torch.randn_like(x)
        options = {"place": lambda sigma: 1 - sigma, "deviation": lambda _: 1.0, "region": moving_region(reference)}
        course = Course(reference, MotionLoss(keeps_mean=False), 1.0, Fade(0.0, 1.0), **options)
        for sigma in (1.0, 0.9, 0.8):
            course.moved(x, sigma)
            course.observe(clean, sigma)
    one = x.nbytes / 2**20
    print(f"81 frames of 832 x 480: {living.peak / 2**20:.0f} MB at most, the latents being {one:.1f} MB", flush=True)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(OPTIONS.threads)
    memory_of_a_step()
    wan = tiny_models.wan()
    for size in ((3, 8, 6), (5, 16, 16)):
        latents = torch.zeros(1, 16, *size)
        name = f"tiny Wan, {size[0]} x {size[1]} x {size[2]}"
        time_of_steps(name, wan, KnownLatents(16), latents, (prompt(4096), prompt(4096, seed=2)), passing_square())
    from echoreel_pack.nodes import load_echoreel

    model, clip, vae, _ = load_echoreel.LoadCheckpoint.execute(load_echoreel.EMBEDDED).result
    texts = [[[clip.encode_from_tokens(clip.tokenize(words)), {}]] for words in ("a red cat", "")]
    frames = passing_square(16, (32, 32))
    time_of_steps("embedded LVDM, 16 x 8 x 8", model, vae, torch.zeros(16, 4, 8, 8), texts, frames)


if __name__ == "__main__":
    main()
