"""What `check`, `cache` and `train` do with a settings file, whatever model it names."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import EchoReelError
from .checkpoints import settings_of
from .config import Config, VideoSettings, read_config
from .cost import measured_lines
from .data.buckets import framed_pairs
from .data.cache import build_cache
from .data.cache_folder import CacheFolder, request
from .data.cached_pairs import CachedPairs
from .data.check import check_files, framings, summary
from .data.digests import Digests
from .data.pairs import Pair, read_pairs
from .default_sizes import parameter_count
from .model_source import ModelSource
from .process_group import AcceleratedProcessGroup, ProcessGroup, best_device
from .progress import Pace, memory_advice, prism_line, step_line
from .run import TrainingRun
from .trainer import StepResult, Trainer

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


Open = Callable[[Config, ProcessGroup], ModelSource]
"""Gives the model that the settings name."""


def pairs_of(config: Config) -> list[Pair]:
    """The pairs that the settings name, framed as they say."""
    return framed_pairs(read_pairs(config.data), config.video, config.buckets)


def check(config: Config, open_model: Open) -> int:
    """One line per file, a summary, and what a run will cost; 1 if nothing can be used."""
    pairs = pairs_of(config)
    reports = []
    for report in check_files(framings(pairs, config.video, config.reference)):
        print(report.line, flush=True)
        reports.append(report)
    print(*summary(reports, pairs, Digests()), sep="\n")
    if all(report.verdict == "bad" for report in reports):
        return 1
    try:
        model = open_model(config, start_processes(config.model.device))
        model.check()
    except EchoReelError as error:
        print(f"The cost of a run was not measured: {error}")
        return 0
    for line in frame_lines(pairs, config.video, model.frames_per_latent):
        print(line)
    if cache_is_current(config, model):
        with memory_advice(config.training, config.video):
            print(*measured_lines(config, model), sep="\n")
    else:
        print("The cache is not complete yet: run `cache`, then `check` measures how long a step takes.")
    return 0


def frame_lines(pairs: Sequence[Pair], video: VideoSettings, each: float) -> list[str]:
    """A line for each number of frames that does not come out even for the model: 1, and `each` for every latent."""
    if each % 1:
        return []
    counts = sorted({(pair.target.framing or video).frames for pair in pairs})
    step = int(each)
    lower = [(count, 1 + (count - 1) // step * step) for count in counts]
    return [
        f"{count} frames are not {step}n + 1, which the model takes: use {low} or {low + step}."
        for count, low in lower
        if count != low
    ]


def cache(config: Config, model: ModelSource) -> int:
    """Makes what is missing in the cache."""
    pace = Pace()

    def progress(done: int, total: int, line: str) -> None:
        pace.tick()
        print(f"[{done}/{total}] {line}, {pace.words(total - done, 'clip')}", flush=True)

    model.check()
    pairs = pairs_of(config)
    for line in frame_lines(pairs, config.video, model.frames_per_latent):
        print(line, flush=True)
    with memory_advice(config.training, config.video):
        result = build_cache(config.data.cache, pairs, model.encoders, config.video, model.reference, progress)
    print(*result.copies, sep="\n", end="\n" if result.copies else "")
    print(f"{result.made} made, {result.found} were there, {len(result.bad)} files left out.")
    print(f"{result.pairs} pairs, {result.held_out} of them held out for measuring.")
    return 0


def cache_is_current(config: Config, model: ModelSource) -> bool:
    """Whether the cache matches the settings; without the data, a finished cache is used unchanged."""
    folder = CacheFolder(config.data.cache)
    if not folder.is_whole() or not config.data.pairs.exists():
        return folder.is_whole()
    manifest, pairs = folder.manifest(), pairs_of(config)
    return manifest["request"] == request(pairs, config.video, model.reference, model.identity)


def train(config: Config, config_file: Path, open_model: Open) -> int:
    """Trains, continuing from the latest checkpoint in the output folder."""
    processes = start_processes(config.model.device)
    model = open_model(config, processes)
    if processes.rank == 0:
        model.check()
        if not cache_is_current(config, model):
            print("The cache is not complete: filling it first.", flush=True)
            cache(config, model)
    processes.barrier()
    pairs = CachedPairs(config.data.cache)
    return model.run(pairs, lambda: _train(config, config_file, model, pairs, processes))


def _train(config: Config, config_file: Path, model: ModelSource, pairs: CachedPairs, processes: ProcessGroup) -> int:
    main, adapter, held_out = processes.rank == 0, model.adapter(pairs), CachedPairs(config.data.cache, held_out=True)
    trainer = Trainer(model.host, adapter, pairs, config.training, processes)
    decode = model.decode if main and config.output.sample_every else None
    run = TrainingRun(trainer, config.output, facts(config, pairs, model) if main else {}, held_out, decode)
    if main:
        say = f"Training {parameter_count(adapter.config) / 1e6:.1f} million parameters on {len(pairs)} pairs"
        print(f"{say}, {len(held_out)} held out, on {processes.count} x {processes.device}.", flush=True)
        config.output.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config_file, config.output.folder / "config.toml")
    changed = run.resume()
    if changed is not None and main:
        print(f"Continuing after step {trainer.step}.", flush=True)
        now = settings_of(trainer)
        for name, value in changed.items():
            print(f"  {name} was {value} so far, and is {now.get(name, 'gone')} from now on.")

    stopper, pace = Stopper(), Pace()

    def on_step(result: StepResult) -> None:
        pace.tick()
        if main and (result.step % config.output.log_every == 0 or result.step == 1):
            print(step_line(result.step, config.training.steps, result.loss, pace), flush=True)

    prism_pace = Pace()

    def on_start(step: int, steps: int, loss: float) -> None:
        prism_pace.tick()
        if main and (step % config.output.log_every == 0 or step == 1):
            print(prism_line(step, steps, loss, prism_pace), flush=True)

    with stopper, memory_advice(config.training, config.video):
        final = run(on_step, stopper.asked, on_start)
    if main and final is None and not trainer.step:
        print("Stopped before the first step. Run the same command again to begin anew.")
    elif main and final is None:
        print(f"Stopped after step {trainer.step}, saved. Run the same command again to continue.")
    elif main:
        print(f"Done: {final}")
    return INTERRUPTED if final is None else 0


def facts(config: Config, pairs: CachedPairs, model: ModelSource) -> dict[str, Any]:
    """What the adapter's file tells about its training."""
    framing = model.reference or config.video
    return {
        "frames": framing.frames,
        "fps": round(pairs.fps, 3),
        "width": framing.width,
        "height": framing.height,
        "pairs": len(pairs),
        **config.model.names(),
        "weighting": config.training.weighting,
    }


def start_processes(device: str) -> ProcessGroup:
    """Accelerate's processes; without accelerate, one."""
    try:
        return AcceleratedProcessGroup(device)
    except ImportError:
        return ProcessGroup(device or best_device())


class Stopper:
    """Inside the `with`, the first Ctrl-C (or request to terminate) asks to stop after the step; the second stops."""

    def __init__(self) -> None:
        self._asked = False

    def asked(self) -> bool:
        """Whether to stop."""
        return self._asked

    def __enter__(self) -> Stopper:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


COMMANDS = {
    "train": "train, continuing from the latest checkpoint in the output folder (when no command is given)",
    "check": "decode every clip once and say what will happen to it, and what a run will cost",
    "cache": "make the latents and text tokens that training reads; continues an interrupted run",
}


def command_line(program: str, open_model: Open, arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit code.

    Args:
        program: how the user calls it.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not every console can show every file's name
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog=program, description="Trains an EchoReel adapter.")
    lines = "; ".join(f"{name}: {text}" for name, text in COMMANDS.items())
    parser.add_argument("command", nargs="?", choices=COMMANDS, default="train", help=lines)
    parser.add_argument("config", type=Path, help="settings in TOML, see echoreel_core/training/example.toml")
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
        if options.command == "check":
            return check(config, open_model)
        if options.command == "cache":
            return cache(config, open_model(config, start_processes(config.model.device)))
        return train(config, options.config, open_model)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
