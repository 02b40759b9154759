"""What the device is, and how fast it copies and multiplies."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
from dataclasses import dataclass

import timing
import torch

from .report import Bench


@dataclass(frozen=True)
class Device:
    """The device's name and where it stands.

    Attributes:
        kind: "cuda" or "cpu".
    """

    kind: str
    name: str


def find_device(wanted: str) -> Device:
    """The first CUDA card where that is wanted and there is one, or else the CPU."""
    if wanted == "cuda" and torch.cuda.is_available():
        return Device("cuda", torch.cuda.get_device_name())
    return Device("cpu", f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)")


def check(bench: Bench) -> None:
    """Rows: memory, versions, bandwidth, bfloat16 products."""
    cuda, device = bench.device.type == "cuda", bench.device
    if cuda:
        facts = torch.cuda.get_device_properties(device)
        capability = f"compute capability {facts.major}.{facts.minor}, {facts.multi_processor_count} multiprocessors"
        bench.row("memory", f"{facts.total_memory / 2**30:.1f} GiB", f"{facts.name}, {capability}")
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, driver {_driver()}" if cuda else ""
    bench.row("torch", torch.__version__, versions)
    with bench.attempt("copy within the device"):
        size = 2**32 if cuda else 2**26
        source = torch.empty(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        seconds = _seconds(lambda: target.copy_(source), bench)
        bench.row("copy within the device", f"{2 * size / seconds / 1e9:,.0f} GB/s", "bytes read and written")
    if cuda:
        with bench.attempt("copy to the device"):
            source = torch.empty(2**30, dtype=torch.uint8, pin_memory=True)
            seconds = _seconds(lambda: target[: 2**30].copy_(source, non_blocking=True), bench)
            bench.row("copy to the device", f"{2**30 / seconds / 1e9:,.0f} GB/s", "from pinned memory")
    with bench.attempt("bfloat16 product"):
        side = 8192 if cuda else 512
        a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
        seconds = _seconds(lambda: a @ b, bench)
        bench.row("bfloat16 product", f"{2 * side**3 / seconds / 1e12:,.2f} TFLOP/s", f"{side} x {side} x {side}")


def _seconds(work, bench: Bench) -> float:
    return statistics.median(timing.on_device({"": work}, bench.device, 2.0 if not bench.small else 0.2)[""])


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"
