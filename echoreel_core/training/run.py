"""A whole run: the loop, and what it writes to its folder.

<folder>/checkpoints/step-…/   adapter.safetensors and state.safetensors, to carry on from
<folder>/<name>.safetensors    the adapter at the end
<folder>/metrics.jsonl, loss.png, samples/step-….mp4
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import EchoReelError
from .checkpoints import PARTIAL, list_checkpoints, resume, save_checkpoint, write_adapter
from .config import OutputSettings
from .data.batches import PairSource
from .held_out import LEVELS
from .metrics import CURVE, FILE, MetricsLog, level_powers, save_curves
from .sample_videos import sample, write_sample
from .trainer import StepResult, Trainer

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
        self,
        on_step: Callable[[StepResult], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
        on_start: Callable[[int, int, float], None] = lambda *_: None,
    ) -> Path | None:
        """Runs.

        However it ends, what the finished steps have learned is kept, but where a second Ctrl-C cuts into a step.

        Args:
            on_step: called after each step; what it raises ends the run, after a checkpoint.
            stop: asked after each step; true ends the run after a checkpoint.
            on_start: called after each step of the prism's start, with its number, their number and the loss.

        Returns: the finished adapter's file, or None where the run was stopped.
        Raises: EchoReelError as `Trainer.train_step`, or where a checkpoint cannot be written.
        """
        try:
            return self._run(on_step, stop, on_start)
        finally:
            self.trainer.close()

    def _run(
        self,
        on_step: Callable[[StepResult], None],
        stop: Callable[[], bool],
        on_start: Callable[[int, int, float], None],
    ) -> Path | None:
        trainer, output = self.trainer, self.output
        log = MetricsLog(Path(output.folder) / FILE, trainer.step) if self.writes else None
        if trainer.step == 0:
            self._measure(log)  # a fresh adapter changes nothing, so this measures the plain model
        steps = trainer.prism_steps
        for step, loss in enumerate(trainer.start_prism(), start=1):
            on_start(step, steps, loss)
            if self._stops(stop):
                return None
        if steps:
            self._save(log)  # a start may take as long as many steps
        losses: list[float] = []
        began = time.monotonic()
        for result in self._steps():
            losses.append(result.loss)
            with self._kept():  # the step is complete, whatever comes now
                if result.step % output.log_every == 0 and log:
                    elapsed, began = time.monotonic() - began, time.monotonic()
                    log.append(self._record(result, losses, elapsed))
                    losses.clear()
                on_step(result)
                if self._stops(stop):
                    self._save(log)
                    return None
                self._after_step(result.step, log)
        self._save(log)
        final = Path(output.folder) / f"{output.name}.safetensors"
        if self.writes:
            write_adapter(trainer, final, self.facts, getattr(torch, output.stored_as))
        trainer.process_group.barrier()
        return final

    def _steps(self) -> Iterator[StepResult]:
        steps = iter(self.trainer)
        while True:
            try:
                result = next(steps, None)
            except KeyboardInterrupt:  # it may have come amid the change of the weights
                raise
            except BaseException:
                self._keep()
                raise
            if result is None:
                return
            yield result

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Whatever ends the `with` early passes on after the latest step was saved."""
        try:
            yield
        except BaseException:
            self._keep()
            raise

    def _after_step(self, step: int, log: MetricsLog | None) -> None:
        if _due(self.output.held_out_every, step):
            self._measure(log)
        if _due(self.output.checkpoint_every, step):
            self._save(log)
        if _due(self.output.sample_every, step):
            self._make_samples()

    def _stops(self, stop: Callable[[], bool]) -> bool:
        """Whether any process was asked to stop, so that all stop after the same step."""
        flag = torch.tensor(float(stop()), device=self.trainer.process_group.device)
        self.trainer.process_group.mean_([flag])
        return bool(flag > 0)

    def _record(self, result: StepResult, losses: list[float], seconds: float) -> dict[str, Any]:
        record = {
            "step": result.step,
            "loss": sum(losses) / len(losses),
            "levels": self._levels(result.step, len(losses)),
            "gradient_norm": result.gradient_norm,
            "learning_rate": result.learning_rate,
            "seconds_per_step": round(seconds / len(losses), 4),
        }
        if self.trainer.process_group.device.type == "cuda":
            record["peak_memory"] = torch.cuda.max_memory_allocated()
        return record

    def _levels(self, step: int, count: int) -> list[float]:
        """`level_powers` of the last `count` steps, on all processes."""
        settings = self.trainer.settings
        samples = settings.batch_size * settings.accumulation * self.trainer.process_group.count
        return level_powers(settings.seed, range((step - count) * samples, step * samples))

    def _measure(self, log: MetricsLog | None) -> None:
        if self.held_out is None or not self.output.held_out_every:
            return
        losses = self.trainer.held_out_loss(self.held_out, self.output.held_out_pairs)
        if log:
            levels = {f"{u:g}": loss for u, loss in zip(LEVELS, losses, strict=True)}
            log.append({"step": self.trainer.step, "held_out": sum(losses) / len(losses), "held_out_levels": levels})

    def _save(self, log: MetricsLog | None) -> None:
        """A checkpoint, and the curves so far. Raises: EchoReelError where it cannot be written."""
        if log:
            self._keep()
            save_curves(log.records, Path(self.output.folder) / CURVE)
        self.trainer.process_group.barrier()

    def _keep(self) -> None:
        """Writes the latest step's checkpoint, unless it was. Where it does not fit, the adapter alone: a sixth of it.

        Raises: EchoReelError where it does not fit, with what was kept.
        """
        trainer = self.trainer
        if not self.writes or trainer.step == self._saved or not (trainer.step or trainer.prism_started):
            return
        self._saved = trainer.step  # however it goes, not tried twice
        try:
            save_checkpoint(trainer, self.checkpoints, self.facts, self.output.keep)
        except (EchoReelError, OSError) as error:
            for unfinished in self.checkpoints.glob(f"*{PARTIAL}"):
                shutil.rmtree(unfinished, ignore_errors=True)
            path = Path(self.output.folder) / f"{self.output.name}.safetensors"
            write_adapter(trainer, path, self.facts, getattr(torch, self.output.stored_as))
            raise EchoReelError(
                f"{error} What was learned in {trainer.step} steps is in {path.name}; to go on with the run, make room "
                "first."
            ) from None

    @torch.no_grad()
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
