"""One run of Train EchoReel: the clips are encoded, an adapter is created or loaded, and trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from torch import Tensor

from ...echoreel_core.training.config import (
    BucketSettings,
    DataSettings,
    OutputSettings,
    TrainingSettings,
    VideoSettings,
)
from ...echoreel_core.training.data.buckets import framed_pairs
from ...echoreel_core.training.data.cache import build_cache
from ...echoreel_core.training.data.cached_pairs import CachedPairs
from ...echoreel_core.training.data.pairs import read_pairs
from ...echoreel_core.training.metrics import FILE, draw_curves, read_metrics
from ...echoreel_core.training.process_group import ProcessGroup
from ...echoreel_core.training.progress import Pace, memory_advice, prism_line, step_line
from ...echoreel_core.training.run import TrainingRun
from ...echoreel_core.training.trainer import StepResult, Trainer
from ..models.adapter import LoadedAdapter, adapter_weights
from .encoders import NodeEncoders
from .experts import trainable_host
from .fitting import fitting_adapter, reference_framing
from .progress import NodeProgress
from .trainable import own_copy

CURVE_SECONDS = 5
"""Seconds between two drawings of the live loss curve: each reads the whole log."""


@dataclass
class TrainingSession:
    """The node's connections and settings.

    Attributes:
        start: the adapter to continue from, or None for a new one.
        video: the framing of the clips that the model learns to generate.
        buckets: how the clips' own sizes and lengths are met.
        low_noise_model, boundary: the second of two experts, or None; see `HostExperts`.
    """

    model: Any
    vae: Any
    clip: Any
    vision: Any
    start: LoadedAdapter | None
    data: DataSettings
    video: VideoSettings
    buckets: BucketSettings
    training: TrainingSettings
    output: OutputSettings
    low_noise_model: Any = None
    boundary: float = 0.0

    def run(self) -> Path:
        """Trains, or continues training, and returns the adapter's file.

        Cancelling takes effect before every clip and every pass of the model; what was learned by then is saved.

        Raises: EchoReelError if the model cannot be trained, no pair is left, the adapter does not fit, or memory
            runs out.
        """
        self._progress = NodeProgress()
        self._progress.say("Checking the clips")
        trainable_host(
            self.model, self.low_noise_model, self.boundary
        )  # refuses what cannot be trained before any clip is encoded
        self._reference = reference_framing(self.video, self.vae, self.start and self.start.config)
        self._encoders = NodeEncoders(self.model, self.vae, self.clip, self.vision)
        with memory_advice(self.training, self.video, "frame_count"):
            cached, held_out = self._cache()
            self._progress.update(0, self.training.steps, "Loading the model")
            with torch.inference_mode(False):
                low = None if self.low_noise_model is None else own_copy(self.low_noise_model)
                self._trainable = trainable_host(own_copy(self.model), low, self.boundary)
                return self._trainable.sampling_run(
                    cached.batch([0], [0]).target, lambda: self._train(cached, held_out)
                )

    def _cache(self) -> tuple[CachedPairs, CachedPairs]:
        """The data's pairs, encoded: those for training and those held out.

        Raises: EchoReelError if there are none.
        """
        pace, data = Pace(), self.data

        def progress(done: int, total: int, line: str) -> None:
            pace.tick()
            shown = " ".join(line.split())  # without the columns of a console
            self._progress.update(done, total, f"{done} of {total}: {shown}, {pace.words(total - done, 'clip')}")

        pairs = read_pairs(data, Path(folder_paths.get_input_directory()))
        pairs = framed_pairs(pairs, self.video, self.buckets)
        build_cache(data.cache, pairs, self._encoders, self.video, self._reference, progress)
        with torch.inference_mode(False):
            return CachedPairs(data.cache), CachedPairs(data.cache, held_out=True)

    def _train(self, cached: CachedPairs, held_out: CachedPairs) -> Path:
        """The loop, with a line for each step and a live loss curve. Returns: the adapter's file."""
        self._progress.say("Making the adapter")
        device = comfy.model_management.get_torch_device()
        start = self.start and (self.start.config, adapter_weights(self.start))
        adapter = fitting_adapter(self._trainable, cached.batch([0], [0]), self.training.seed, start)
        trainer = Trainer(self._trainable, adapter, cached, self.training, ProcessGroup(device))
        facts = {
            "frames": self._reference.frames,
            "fps": round(cached.fps, 3),
            "width": self._reference.width,
            "height": self._reference.height,
            "pairs": len(cached),
        }
        run = TrainingRun(trainer, self.output, facts, held_out, self._decode)
        run.resume()
        self._progress.update(trainer.step, self.training.steps, f"step {trainer.step + 1} of {self.training.steps}")
        return run(self._on_step(), on_start=self._on_start())

    def _on_start(self) -> Callable[[int, int, float], None]:
        pace = Pace()

        def on_start(step: int, steps: int, loss: float) -> None:
            pace.tick()
            self._progress.update(0, self.training.steps, prism_line(step, steps, loss, pace))
            comfy.model_management.throw_exception_if_processing_interrupted()

        return on_start

    def _on_step(self) -> Callable[[StepResult], None]:
        pace, steps, log = Pace(), self.training.steps, Path(self.output.folder) / FILE
        drawn = time.monotonic()

        def on_step(result: StepResult) -> None:
            nonlocal drawn
            pace.tick()
            curve = None
            if time.monotonic() - drawn > CURVE_SECONDS:
                drawn = time.monotonic()
                curve = ("PNG", draw_curves(read_metrics(log)), 512)
            self._progress.update(result.step, steps, step_line(result.step, steps, result.loss, pace), curve)
            comfy.model_management.throw_exception_if_processing_interrupted()

        return on_step

    def _decode(self, latents: Tensor) -> Tensor:
        frames = self._encoders.decode_video(latents)
        self._trainable.load()  # the VAE may have pushed it out of memory
        return frames
