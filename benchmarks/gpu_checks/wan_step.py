"""A training step of Wan 2.1 1.3B at true size: seconds and memory, with and without what saves memory."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from dataclasses import replace

import timing
import torch
from blocks import WAN_1_3B, Float8Linear, PlainWan, WanSizes, keep_in_float8, with_random_weights
from torch import Tensor, nn

from echoreel_core.action.adapter import EchoReelAdapter
from echoreel_core.action.injection import Site
from echoreel_core.training.config import TrainingSettings
from echoreel_core.training.data.conditioning import Conditioning
from echoreel_core.training.default_sizes import AdapterInputs, general_form, parameter_count
from echoreel_core.training.process_group import ProcessGroup
from echoreel_core.training.trainable import NoiseLevel, Prediction, TrainableModel
from echoreel_core.training.trainer import Trainer

from .pairs import NoisePairs
from .report import Bench

LATENT_FRAMES = (21, 17, 13, 9, 5)
"""As many as memory allows, of 81, 65, 49, 33 and 17 frames."""

SIZE = (60, 104)
REFERENCE_SIDE = 32
TEXT_TOKENS = 512


class PlainWanTrainable(TrainableModel):
    """The plain model as the trainer sees it."""

    family = "wan"
    prediction: Prediction = "flow"

    def __init__(self, model: PlainWan) -> None:
        self.model = model

    def sites(self) -> Sequence[Site]:
        """See `TrainableModel`."""
        return [Site(f"blocks.{i}", b, b.norm2, self.model.sizes.dim) for i, b in enumerate(self.model.blocks)]

    def noise_level(self, u: Tensor) -> NoiseLevel:
        """See `TrainableModel`."""
        return NoiseLevel(1 - u, u, u)

    def predict(self, noisy: Tensor, time: Tensor, text: Tensor, conditioning: Sequence[Conditioning] = ()) -> Tensor:
        """See `TrainableModel`."""
        return self.model(noisy.bfloat16(), time, text.bfloat16())


def check(bench: Bench) -> None:
    """Rows: the frozen model's forward pass, then steps in four forms."""
    sizes = replace(WAN_1_3B, dim=64, feed_forward=128, heads=2, depth=2, text_width=32) if bench.small else WAN_1_3B
    for float8 in (False, True):
        stored = "float8 weights" if float8 else "bfloat16 weights"
        with bench.attempt(stored):
            linear = Float8Linear if float8 else nn.Linear
            model = with_random_weights(lambda linear=linear: PlainWan(sizes, linear), bench.device)
            if float8:
                keep_in_float8(model)
            trainable, adapter = PlainWanTrainable(model), _adapter(sizes, bench)
            _measure_steps(bench, trainable, adapter, stored)
        del model, trainable, adapter
        _free(bench.device)


def _measure_steps(bench: Bench, trainable: PlainWanTrainable, adapter: EchoReelAdapter, stored: str) -> None:
    forward: dict[int, float] = {}
    for checkpointing in (True, False):
        line = f"step, {stored}, {'' if checkpointing else 'no '}gradient checkpointing"
        if bench.enough(line, 1 if bench.small else 15):
            with bench.attempt(line):
                settings = TrainingSettings(batch_size=1, mixed_precision="bf16", gradient_checkpointing=checkpointing)
                _step_row(bench, line, trainable, adapter, settings, forward)
        _free(bench.device)


def _step_row(
    bench: Bench,
    line: str,
    trainable: PlainWanTrainable,
    adapter: EchoReelAdapter,
    settings: TrainingSettings,
    forward: dict[int, float],
) -> None:
    tried = []
    for frames in LATENT_FRAMES if not bench.small else (3, 2):
        size, side = (SIZE, REFERENCE_SIDE) if not bench.small else ((4, 6), 8)
        channels = trainable.model.sizes.channels
        text = (TEXT_TOKENS, trainable.model.sizes.text_width)
        pairs = NoisePairs((channels, frames, *size), (channels, frames, side, side), text, 2)
        trainer = Trainer(trainable, adapter, pairs, settings, ProcessGroup(bench.device))
        try:
            seconds, before, peak = _measured(bench, trainer)
        except torch.OutOfMemoryError:
            tried.append(frames)
        else:
            if frames not in forward:
                forward[frames] = _forward_seconds(bench, trainer)
            unit = forward[frames]
            memory = "" if peak is None else f", peak {peak:.1f} GiB ({before:.1f} before the step)"
            short = f"; {', '.join(map(str, tried))} latent frames do not fit" if tried else ""
            bench.row(
                line,
                f"{seconds:.3g} s{memory}",
                f"{frames} latent frames of {size[0]} x {size[1]}{short}; {seconds / unit:.1f} x the frozen forward "
                f"pass ({unit:.3g} s); trained {parameter_count(adapter.config) / 1e6:.0f} M parameters",
            )
            return
        del trainer
        _free(bench.device)
    raise torch.OutOfMemoryError("not even with the fewest latent frames")


def _measured(bench: Bench, trainer: Trainer) -> tuple[float, float | None, float | None]:
    """Median seconds of a step, GiB before and at its peak."""
    step = timing.waited_for(trainer.train_step, bench.device)
    step()  # makes the optimizer's state
    before = peak = None
    if bench.device.type == "cuda":
        trainer.optimizer.zero_grad()
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device) / 2**30
    seconds = timing.interleaved({"step": step}, 1 if bench.small else 3)["step"]
    if bench.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(bench.device) / 2**30
    return statistics.median(seconds), before, peak


def _forward_seconds(bench: Bench, trainer: Trainer) -> float:
    (batch,) = trainer._micro_batches(range(1))

    @torch.no_grad()
    def forward() -> None:
        with trainer.objective.autocast():
            trainer.trainable.predict(batch.target, batch.draws.u.to(bench.device), batch.prompt, batch.conditionings)

    return statistics.median(timing.on_device({"": forward}, bench.device, 3.0 if not bench.small else 0.1)[""])


def _adapter(sizes: WanSizes, bench: Bench) -> EchoReelAdapter:
    prism = {"width": 32, "heads": 2, "head_dim": 16, "depth": 1} if bench.small else {}
    side = 8 if bench.small else REFERENCE_SIDE
    fit = AdapterInputs(
        "wan",
        [(f"blocks.{i}", sizes.dim) for i in range(sizes.depth)],
        latent_channels=sizes.channels,
        latent_size=(side, side),
        latent_frames=LATENT_FRAMES[0],
        text_width=sizes.text_width,
    )
    config = general_form(fit, **prism)
    with bench.device:
        adapter = EchoReelAdapter(config)
    for attention in adapter.attentions:  # at zero, the gradient of all before it would be zero too
        nn.init.normal_(attention.to_out.weight, std=0.02)
    return adapter


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
