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


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of how many times as long `slow` took as `fast` in the same round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
