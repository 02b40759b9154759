"""`python -m echoreel_core.training check|cache|train CONFIG`, alone or under `accelerate launch`."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import Config, read_config
from .cost import disk_line, measured_lines, parameters_of
from .data.cache import build_cache
from .data.cache_folder import CacheFolder, request
from .data.cached_pairs import CachedPairs
from .data.check import check_files, framings, summary
from .data.digests import Digests
from .data.pairs import read_pairs
from .default_sizes import parameter_count
from .lvdm.released import ReleasedModel
from .process_group import AcceleratedProcessGroup, ProcessGroup, best_device
from .progress import Pace, memory_advice, step_line
from .run import TrainingRun
from .trainer import StepResult, Trainer

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def check(config: Config) -> int:
    """One line per file, a summary, and what a run will cost; 1 if nothing can be used."""
    pairs = read_pairs(config.data)
    reports = []
    for report in check_files(framings(pairs, config.video, config.reference)):
        print(report.line, flush=True)
        reports.append(report)
    print(*summary(reports, pairs, Digests()), sep="\n")
    if all(report.verdict == "bad" for report in reports):
        return 1
    if config.model.checkpoint.is_file():
        _print_cost(config)
    return 0


def _print_cost(config: Config) -> None:
    model = ReleasedModel(config, start_processes(config.model.device).device)
    print(disk_line(config, parameters_of(model)))
    if cache_is_current(config, model):
        with memory_advice(config.training, config.video):
            print(*measured_lines(config, model), sep="\n")
    else:
        print("The cache is not complete yet: run `cache`, then `check` measures how long a step takes.")


def cache(config: Config, model: ReleasedModel) -> int:
    """Makes what is missing in the cache."""
    pace = Pace()

    def progress(done: int, total: int, line: str) -> None:
        pace.tick()
        print(f"[{done}/{total}] {line}, {pace.words(total - done, 'clip')}", flush=True)

    result = build_cache(
        config.data.cache, read_pairs(config.data), model.encoders, config.video, config.reference, progress
    )
    print(*result.copies, sep="\n", end="\n" if result.copies else "")
    print(f"{result.made} made, {result.found} were there, {len(result.bad)} files left out.")
    print(f"{result.pairs} pairs, {result.held_out} of them held out for measuring.")
    return 0


def cache_is_current(config: Config, model: ReleasedModel) -> bool:
    """Whether the cache matches the settings; without the data, a finished cache is used unchanged."""
    folder = CacheFolder(config.data.cache)
    if not folder.is_whole() or not config.data.pairs.exists():
        return folder.is_whole()
    manifest, pairs = folder.manifest(), read_pairs(config.data)
    return manifest["request"] == request(pairs, config.video, config.reference, model.identity)


def train(config: Config, config_file: Path) -> int:
    """Trains, continuing from the latest checkpoint in the output folder."""
    process_group = start_processes(config.model.device)
    model = ReleasedModel(config, process_group.device)
    main = process_group.rank == 0
    if main and not cache_is_current(config, model):
        print("The cache is not complete: filling it first.", flush=True)
        cache(config, model)
    process_group.barrier()
    adapter = model.adapter()
    pairs, held_out = CachedPairs(config.data.cache), CachedPairs(config.data.cache, held_out=True)
    trainer = Trainer(model.host, adapter, pairs, config.training, process_group)
    wants_samples = main and config.output.sample_every
    decode = model.encoders.decode_video if wants_samples else None
    run = TrainingRun(trainer, config.output, facts(config, pairs), held_out, decode)
    if main:
        say = f"Training {parameter_count(adapter.config) / 1e6:.1f} million parameters on {len(pairs)} pairs"
        print(f"{say}, {len(held_out)} held out, on {process_group.count} x {process_group.device}.", flush=True)
        config.output.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config_file, config.output.folder / "config.toml")
    changed = run.resume()
    if changed is not None and main:
        print(f"Continuing after step {trainer.step}.", flush=True)
        for name, value in changed.items():
            print(f"  {name} was {value} so far, and is {getattr(config.training, name, 'gone')} from now on.")

    stopper, pace = Stopper(), Pace()

    def on_step(result: StepResult) -> None:
        pace.tick()
        if main and (result.step % config.output.log_every == 0 or result.step == 1):
            print(step_line(result.step, config.training.steps, result.loss, pace), flush=True)

    with stopper, memory_advice(config.training, config.video):
        final = run(on_step, stopper.asked)
    if final is None:
        if main:
            print(f"Stopped after step {trainer.step}, saved. Run the same command again to continue.")
        return INTERRUPTED
    if main:
        print(f"Done: {final}")
    return 0


def facts(config: Config, pairs: CachedPairs) -> dict[str, Any]:
    """What the adapter's file tells about its training."""
    framing = config.reference or config.video
    return {
        "frames": framing.frames,
        "fps": round(pairs.fps, 3),
        "width": framing.width,
        "height": framing.height,
        "pairs": len(pairs),
        "base_model": config.model.checkpoint.name,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m echoreel_core.training", description=__doc__)
    commands = {
        "check": "decode every clip once and say what will happen to it",
        "cache": "make the latents and text tokens that training reads; continues an interrupted run",
        "train": "train; continues from the latest checkpoint in the output folder",
    }
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, text in commands.items():
        subparsers.add_parser(name, help=text, description=text).add_argument(
            "config", type=Path, help="settings in TOML, see example.toml beside this program"
        )
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
        if options.command == "check":
            return check(config)
        if options.command == "cache":
            device = start_processes(config.model.device).device
            return cache(config, ReleasedModel(config, device))
        return train(config, options.config)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
