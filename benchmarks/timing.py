"""What the benchmarks share: interleaved timing, so that a busy machine burdens all variants alike, and medians."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def arguments(description: str, repeats: int) -> argparse.ArgumentParser:
    """A parser with the options every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default %(default)s")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds to take medians of, default %(default)s")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count CPU seconds, not those on the wall: for a machine that others are using (then with --threads 1)",
    )
    return parser


def interleaved(
    variants: Mapping[str, Callable[[], object]], repeats: int, cpu_time: bool = False
) -> dict[str, list[float]]:
    """Runs all variants in turn, `repeats` times after a first round that does not count; seconds of each run."""
    clock = time.process_time if cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(repeats + 1):
        for name, run in variants.items():
            start = clock()
            run()
            if round_ > 0:
                seconds[name].append(clock() - start)
    return seconds


def waited_for(work: Callable[[], object], device: torch.device, times: int = 1) -> Callable[[], None]:
    """Does the work several times in a row and waits until the device has finished."""

    def run() -> None:
        for _ in range(times):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def on_device(
    works: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, most: int = 20
) -> dict[str, list[float]]:
    """Seconds each of the works takes, interleaved, in at most `most` rounds that take about `seconds` in all.

    Short works are done several times in a row, so that a GPU does not wait for the Python that starts them.
    """
    first = interleaved({name: waited_for(work, device) for name, work in works.items()}, 1)
    times = max(1, min(50, round(0.04 / max(min(runs[0] for runs in first.values()), 1e-6))))
    round_ = sum(runs[0] for runs in first.values()) * times
    repeats = max(3, min(most, int(seconds / round_)))
    taken = interleaved({name: waited_for(work, device, times) for name, work in works.items()}, repeats)
    return {name: [run / times for run in runs] for name, runs in taken.items()}


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of how many times as long `slow` took as `fast` in the same round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
