"""What a run will cost, before it is begun: time, memory and disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from .config import Config
from .data.cached_pairs import CachedPairs
from .default_sizes import parameter_count
from .model_source import ModelSource
from .process_group import ProcessGroup
from .progress import duration
from .trainer import Trainer

STEPS = 3
"""That are measured of each expert; the first of each is not counted, as everything is made then."""
MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2, "muon": 4}
"""Of what the optimizer keeps, per parameter; of Muon's few vectors and tables AdamW keeps twice that."""


def disk_line(config: Config, parameters: int) -> str:
    """What the run's folder will take up at most."""
    settings, output = config.training, config.output
    weights = 8 if settings.average else 4  # the average, and then the weights beside it, in float32
    checkpoint = (weights + MOMENT_BYTES[settings.optimizer]) * parameters
    final = parameters * getattr(torch, output.stored_as).itemsize
    most = (output.keep + 1) * checkpoint + final  # one more while it is written
    return (
        f"{parameters / 1e6:.1f} million parameters are trained; a checkpoint takes {_size(checkpoint)}, the run up to "
        f"{_size(most)}, its adapter {_size(final)}."
    )


def measured_lines(config: Config, model: ModelSource) -> Iterator[str]:
    """Disk space, and time and on a GPU memory of a few steps on the cached pairs. Nothing is kept of them."""
    settings = config.training
    device = torch.device(model.device)
    pairs = CachedPairs(config.data.cache)
    adapter = model.adapter(pairs)
    yield disk_line(config, parameter_count(adapter.config))

    def seconds() -> float:
        experts = len(model.host.experts)
        steps = STEPS * experts
        trainer = Trainer(
            model.host, adapter, pairs, replace(settings, steps=steps, prism_start_steps=0), ProcessGroup(device)
        )
        times = [time.monotonic()]
        for _ in trainer:
            times.append(time.monotonic())
        return (times[-1] - times[experts]) / (steps - experts)

    a_step = model.run(pairs, seconds)
    yield f"{a_step:.2g} s a step on {device}: {duration(a_step * settings.steps)} for {settings.steps} steps."
    if device.type == "cuda":
        yield f"{_size(torch.cuda.max_memory_allocated(device))} of GPU memory at most."


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
