"""What a training step costs: against the frozen model's forward pass, in memory, with and without the cache, and in
two processes against one. Ratios and medians of one run; random weights, so nothing has to be downloaded.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import timing  # noqa: E402
import torch  # noqa: E402

from echoreel_core.action.adapter import EchoReelAdapter  # noqa: E402
from echoreel_core.action.prism import ActionPrismConfig  # noqa: E402
from echoreel_core.lvdm.autoencoder import Autoencoder, AutoencoderConfig  # noqa: E402
from echoreel_core.lvdm.text_encoder import CLIPTextEncoder, TextConfig  # noqa: E402
from echoreel_core.lvdm.unet import LVDMConfig, LVDMUNet  # noqa: E402
from echoreel_core.training.config import OutputSettings, TrainingSettings, VideoSettings  # noqa: E402
from echoreel_core.training.data.batches import Batch  # noqa: E402
from echoreel_core.training.data.cache import build_cache  # noqa: E402
from echoreel_core.training.data.cached_pairs import CachedPairs  # noqa: E402
from echoreel_core.training.data.pairs import Clip, Pair  # noqa: E402
from echoreel_core.training.default_sizes import AdapterInputs, parameter_count, released_form  # noqa: E402
from echoreel_core.training.lvdm.trainable import LVDMEncoders, TrainableLVDM  # noqa: E402
from echoreel_core.training.process_group import AcceleratedProcessGroup  # noqa: E402
from echoreel_core.training.trainer import Trainer  # noqa: E402
from echoreel_core.video.frames import read_video  # noqa: E402
from echoreel_core.video.write import write_video  # noqa: E402

FRAMES = 16
SIZES = {
    "embedded": {
        "unet": LVDMConfig(
            model_channels=64,
            channel_mult=(1, 2),
            res_blocks=1,
            attention_levels=(True, True),
            heads=4,
            context_dim=64,
        ),
        "prism": {"width": 80, "depth": 2, "heads": 4, "head_dim": 20},
        "vae": AutoencoderConfig(channels=32, multipliers=(1, 1, 2), blocks=1),
        "text": TextConfig(width=64, depth=2, feed_forward=256),
        "pixels": 32,
    },
    "released": {
        "unet": LVDMConfig(),
        "prism": {name: getattr(ActionPrismConfig(), name) for name in ("width", "depth", "heads", "head_dim")},
        "vae": AutoencoderConfig(),
        "text": TextConfig(),
        "pixels": 256,
    },
}


class Repeated:
    """Pairs over and over, as many as are asked for; implements `PairSource`."""

    def __init__(self, pairs: CachedPairs, count: int) -> None:
        self._pairs, self._count, self.empty_text = pairs, count, pairs.empty_text

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """See `PairSource`."""
        return self._pairs.batch([index % len(self._pairs) for index in indices], seeds)


def make_trainer(size: str, folder: Path, settings: TrainingSettings, device: str) -> Trainer:
    """A trainer with random weights on the cache in `folder`."""
    sizes, processes = SIZES[size], AcceleratedProcessGroup(device)
    torch.manual_seed(0)
    side = sizes["pixels"] // sizes["vae"].factor
    with processes.device:
        host = TrainableLVDM(LVDMUNet(sizes["unet"]))
        inputs = AdapterInputs(
            host=host.family,
            sites=[(site.name, site.dim) for site in host.sites()],
            latent_channels=4,
            latent_size=(side, side),
            latent_frames=FRAMES,
            text_width=sizes["unet"].context_dim,
        )
        adapter = EchoReelAdapter(released_form(inputs, block_heads=sizes["unet"].heads, **sizes["prism"]))
    for attention in adapter.attentions:  # at zero, the gradient of all before it would be zero too
        torch.nn.init.normal_(attention.to_out.weight, std=0.02)
    return Trainer(host, adapter, CachedPairs(folder), settings, processes)


def make_encoders(size: str, device: str) -> LVDMEncoders:
    """VAE and text encoder with random weights; the tokenizer is a stand-in of the same length."""
    with torch.device(device):
        vae, text = Autoencoder(SIZES[size]["vae"]).eval(), CLIPTextEncoder(SIZES[size]["text"]).eval()
    return LVDMEncoders(vae, text, lambda texts: torch.full((len(texts), 77), 49407), "benchmark")


def make_data(size: str, folder: Path, count: int = 8) -> tuple[list[Pair], VideoSettings]:
    """Clips of noise at twice the model's size, as pairs."""
    pixels, generator, clips = SIZES[size]["pixels"], torch.Generator().manual_seed(0), []
    for number in range(count):
        frames = torch.rand(4 * FRAMES, 2 * pixels, 2 * pixels, 3, generator=generator)
        write_video(folder / f"{number}.mp4", frames, 25)
        clips.append(Clip(folder / f"{number}.mp4", f"clip {number}"))
    pairs = [Pair(clip, (clips[number - 1],)) for number, clip in enumerate(clips)]
    return pairs, VideoSettings(frames=FRAMES, width=pixels, height=pixels)


def medians(works: Mapping[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each."""
    device = torch.device(options.device)
    seconds = timing.interleaved(
        {name: timing.waited_for(work, device) for name, work in works.items()}, options.repeats, options.cpu_time
    )
    return {name: statistics.median(values) for name, values in seconds.items()}


def _status(entry: str) -> int:
    return int(re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def step_memory(trainer: Trainer) -> int | None:
    """Bytes that one step takes on top of what is there between steps; None where that cannot be told."""
    trainer.train_step()
    trainer.optimizer.zero_grad()
    gc.collect()
    if trainer.process_group.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.train_step()
        return torch.cuda.max_memory_allocated() - before
    if not Path("/proc/self/clear_refs").exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = _status("VmRSS")
    trainer.train_step()
    return _status("VmHWM") - before


def worker(options: argparse.Namespace) -> None:
    """One process of those measured: prints the median seconds of a step and its memory."""
    torch.set_num_threads(max(1, options.threads // int(os.environ.get("WORLD_SIZE", 1))))
    settings = TrainingSettings(batch_size=options.batch, gradient_checkpointing=options.gradient_checkpointing)
    trainer = make_trainer(options.size, options.worker, settings, options.device)
    seconds = medians({"step": trainer.train_step}, options)["step"]
    memory = step_memory(trainer)
    if trainer.process_group.rank == 0:
        print(json.dumps([seconds, memory]))


def in_processes(count: int, options: argparse.Namespace, folder: Path, *more: str) -> tuple[float, int | None]:
    """(seconds, bytes in the first process) of a step of `options.batch` pairs spread over so many processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    arguments = ["--size", options.size, "--device", options.device, "--repeats", str(options.repeats)]
    arguments += ["--batch", str(options.batch // count), "--worker", str(folder), *more]
    arguments += ["--threads", str(options.threads)]
    out = subprocess.run([sys.executable, *launch, __file__, *arguments], check=True, capture_output=True, text=True)
    seconds, memory = json.loads(out.stdout.strip().splitlines()[-1])
    return seconds, memory


def compare_work(options: argparse.Namespace, folder: Path) -> None:
    """Forward pass, step, and the ways to come by a batch; fills the cache in `folder`."""
    pairs, video = make_data(options.size, folder)
    encoders = make_encoders(options.size, options.device)
    build_cache(folder, pairs, encoders, video)
    settings = TrainingSettings(batch_size=options.batch)
    trainer = make_trainer(options.size, folder, settings, options.device)
    device = trainer.process_group.device
    sparing_settings = replace(settings, gradient_checkpointing=True)
    sparing = Trainer(trainer.trainable, trainer.adapter, trainer.pairs, sparing_settings, trainer.process_group)
    (batch,) = trainer._micro_batches(range(options.batch))
    timesteps = trainer.trainable.noise_level(batch.draws.u).time.to(device)

    @torch.no_grad()
    def forward() -> None:
        trainer.trainable.predict(batch.target, timesteps, batch.prompt, batch.conditionings)

    @torch.no_grad()
    def adapted_forward() -> None:
        with trainer.objective.loss(batch):
            pass

    def both_ways() -> None:
        trainer.optimizer.zero_grad()
        with trainer.objective.loss(batch) as (loss, _):
            loss.backward()

    measured = Repeated(trainer.pairs, OutputSettings(folder).held_out_pairs)

    def measure() -> None:
        trainer.held_out_loss(measured, len(measured))

    def cached() -> None:
        trainer.pairs.batch(range(options.batch), [0] * options.batch)

    def uncached() -> None:
        for pair in pairs[: options.batch]:
            for clip in (pair.target, *pair.references):
                frames = read_video(clip.path, video.choice(), width=video.width, height=video.height).frames
                encoders.encode_video(frames)
                encoders.encode_text([clip.caption])

    works = {
        "forward pass of the frozen model": forward,
        "the same with prism and added layers": adapted_forward,
        "… and backward": both_ways,
        "training step, optimizer and all": trainer.train_step,
        "… with gradient checkpointing": sparing.train_step,
        f"measuring on {len(measured)} held-out pairs": measure,
    }
    reading = {"reading the batch from the cache": cached, "making it from the videos": uncached}
    seconds = medians({**works, **reading}, options)
    print_medians(options, folder, trainer, list(works), list(reading), seconds)


def print_medians(
    options: argparse.Namespace,
    folder: Path,
    trainer: Trainer,
    works: Sequence[str],
    reading: Sequence[str],
    seconds: Mapping[str, float],
) -> None:
    """The lines of `compare_work`, whose last work is measuring held-out pairs."""
    trained = parameter_count(trainer.adapter.config) / 1e6
    frozen = sum(p.numel() for p in trainer.trainable.model.parameters()) / 1e6
    threads = f", {options.threads} threads" if options.device == "cpu" else ""
    threads += ", CPU time" if options.cpu_time else ""
    print(f"{options.size} size, batch {options.batch}, {options.device}{threads}, medians of {options.repeats}")
    print(f"frozen {frozen:.1f} M parameters, trained {trained:.1f} M\n")
    unit, step = seconds["forward pass of the frozen model"], seconds["training step, optimizer and all"]
    for name in works:
        print(f"{name:38} {seconds[name]:8.3f} s  {seconds[name] / unit:6.2f} x the forward pass")
    for name in reading:
        print(f"{name:38} {seconds[name]:8.3f} s  {seconds[name] / step:6.3f} x the step")
    every, between = OutputSettings(folder).held_out_every, seconds[works[-1]]
    print(f"measuring every {every} steps takes {between / (between + every * step):.1%} of the time")


def compare_processes(options: argparse.Namespace, folder: Path) -> None:
    """One and two processes, and the memory of a step."""
    one, memory = in_processes(1, options, folder)
    _, sparing_memory = in_processes(1, options, folder, "--gradient-checkpointing")
    two, _ = in_processes(2, options, folder)
    name = f"two processes, {max(1, options.threads // 2)} threads each"
    print(f"{name:38} {two:8.3f} s  {two / one:6.2f} x one with {options.threads}, by the clock")
    if memory and sparing_memory:
        print(f"{'memory of a step':38} {memory / 2**20:8.0f} MB")
        name = "… with gradient checkpointing"
        print(f"{name:38} {sparing_memory / 2**20:8.0f} MB {sparing_memory / memory:6.2f} x")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = timing.arguments(__doc__, repeats=7)
    parser.add_argument("--size", choices=SIZES, default="embedded")
    parser.add_argument("--batch", type=int, default=4, help="pairs of a step; even")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--gradient-checkpointing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        worker(options)
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare_work(options, Path(folder))
        compare_processes(options, Path(folder))


if __name__ == "__main__":
    main()
