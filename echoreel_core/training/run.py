"""A whole run: the loop, and what it writes to its folder.

<folder>/checkpoints/step-…/   adapter.safetensors and state.safetensors, to carry on from
<folder>/<name>.safetensors    the adapter at the end
<folder>/metrics.jsonl, loss.png, samples/step-….mp4
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .checkpoints import list_checkpoints, resume, save_checkpoint, write_adapter
from .config import OutputSettings
from .data.batches import PairSource
from .metrics import CURVE, FILE, MetricsLog, save_curves
from .sample_videos import sample, write_sample
from .trainer import HELD_OUT_LEVELS, StepResult, Trainer

CHECKPOINTS = "checkpoints"


class TrainingRun:
    """Runs a trainer to its end or until it is stopped, and can continue later from there.

    Args:
        facts: for the adapter's description: frames, fps, width, height, ….
        held_out: pairs to measure on and to make samples of, or None.
        decode: latents [C, T, H, W] → frames [T, H, W, 3]; needed for sample videos only.
    """

    def __init__(
        self,
        trainer: Trainer,
        output: OutputSettings,
        facts: Mapping[str, Any],
        held_out: PairSource | None = None,
        decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.trainer, self.output, self.facts, self.decode = trainer, output, dict(facts), decode
        self.held_out = held_out if held_out is not None and len(held_out) else None
        self.checkpoints = Path(output.folder) / CHECKPOINTS
        self.writes = trainer.process_group.rank == 0
        self._saved = -1

    def resume(self) -> dict[str, Any] | None:
        """Takes up the latest checkpoint, if there is one.

        Returns: the settings that are different now, as they were (see `checkpoints.resume`), or None for a new run.
        Raises: EchoReelError as there.
        """
        found = list_checkpoints(self.checkpoints)
        if not found:
            return None
        changed = resume(self.trainer, found[-1])
        self._saved = self.trainer.step
        return changed

    def __call__(
        self, on_step: Callable[[StepResult], None] = lambda _: None, stop: Callable[[], bool] = lambda: False
    ) -> Path | None:
        """Runs.

        Args:
            on_step: called after each step; what it raises ends the run, after a checkpoint.
            stop: asked after each step; true ends the run after a checkpoint.

        Returns: the finished adapter's file, or None where the run was stopped.
        Raises: EchoReelError as `Trainer.train_step`.
        """
        trainer, output = self.trainer, self.output
        log = MetricsLog(Path(output.folder) / FILE, trainer.step) if self.writes else None
        if trainer.step == 0:
            self._measure(log)  # a fresh adapter changes nothing, so this measures the plain model
        losses: list[float] = []
        began = time.monotonic()
        for result in trainer:
            losses.append(result.loss)
            if result.step % output.log_every == 0 and log:
                elapsed, began = time.monotonic() - began, time.monotonic()
                log.append(self._record(result, losses, elapsed))
                losses.clear()
            try:
                on_step(result)
            except BaseException:  # also an interruption: the step is complete, so it can be kept
                self._save(log)
                raise
            if self._stops(stop):
                self._save(log)
                return None
            if _due(output.held_out_every, result.step):
                self._measure(log)
            if _due(output.checkpoint_every, result.step):
                self._save(log)
            if _due(output.sample_every, result.step):
                self._make_samples()
        self._save(log)
        final = Path(output.folder) / f"{output.name}.safetensors"
        if self.writes:
            write_adapter(trainer, final, self.facts, getattr(torch, output.stored_as))
        trainer.process_group.barrier()
        return final

    def _stops(self, stop: Callable[[], bool]) -> bool:
        """Whether any process was asked to stop, so that all stop after the same step."""
        flag = torch.tensor(float(stop()), device=self.trainer.process_group.device)
        self.trainer.process_group.mean_([flag])
        return bool(flag > 0)

    def _record(self, result: StepResult, losses: list[float], seconds: float) -> dict[str, Any]:
        record = {
            "step": result.step,
            "loss": sum(losses) / len(losses),
            "gradient_norm": result.gradient_norm,
            "learning_rate": result.learning_rate,
            "seconds_per_step": round(seconds / len(losses), 4),
        }
        if self.trainer.process_group.device.type == "cuda":
            record["peak_memory"] = torch.cuda.max_memory_allocated()
        return record

    def _measure(self, log: MetricsLog | None) -> None:
        if self.held_out is None or not self.output.held_out_every:
            return
        losses = self.trainer.held_out_loss(self.held_out, self.output.held_out_pairs)
        if log:
            levels = {f"{u:g}": loss for u, loss in zip(HELD_OUT_LEVELS, losses, strict=True)}
            log.append({"step": self.trainer.step, "held_out": sum(losses) / len(losses), "held_out_levels": levels})

    def _save(self, log: MetricsLog | None) -> None:
        if log:
            if self._saved != self.trainer.step:
                save_checkpoint(self.trainer, self.checkpoints, self.facts, self.output.keep)
            save_curves(log.records, Path(self.output.folder) / CURVE)
        self._saved = self.trainer.step
        self.trainer.process_group.barrier()

    def _make_samples(self) -> None:
        if self.writes and self.decode is not None:
            pairs = self.held_out if self.held_out is not None else self.trainer.pairs
            for index in range(min(self.output.samples, len(pairs))):
                clips = sample(
                    self.trainer, pairs, index, steps=self.output.sample_steps, guidance=self.output.guidance
                )
                name = f"step-{self.trainer.step:07d}-{index + 1}.mp4"
                path = Path(self.output.folder) / "samples" / name
                write_sample(path, clips, self.decode, self.facts.get("fps", 8.0))
        self.trainer.process_group.barrier()


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
