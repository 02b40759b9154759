"""The training loop, one optimizer step at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..action.adapter import EchoReelAdapter
from ..errors import EchoReelError
from .augment import augmented
from .average import AverageOfWeights
from .config import TrainingSettings
from .data.batches import MicroBatch, PairSource, micro_batches, pair_index, same_shape
from .held_out import LEVELS, held_out_loss
from .loss import NoiseLevels, draw, drawn_level, seed_of
from .objective import Objective
from .optimizer import Optimizer
from .prism_start import MotionReader
from .process_group import ProcessGroup
from .start import look_at_same_frame
from .trainable import TrainableModel

READER = "reader."
"""Before the names of the reader's parameters among those that are trained."""
LAST_RATE = 0.03
"""Share of the learning rate that the "linear" schedule comes down to, over the last `WAY_DOWN` of the steps."""
WAY_DOWN = 0.3


@dataclass(frozen=True)
class StepResult:
    """One optimizer step.

    Attributes:
        step: number of steps done, this one included.
        loss: mean over all samples of the step, on all processes.
        gradient_norm: before clipping.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float


class Trainer:
    """Trains an adapter's prism and added layers on a frozen model.

        trainer = Trainer(trainable, adapter, pairs, settings)
        for result in trainer:          # until settings.steps; stop whenever you like
            ...
        trainer.close()

    Everything chance decides is a function of the seed and the sample's running number, so that `state.state` and
    `state.load_state` carry a run on exactly. Safe to drive from inside `torch.inference_mode()`.

    Args:
        trainable: its model is frozen and stays on its device; where it was made in inference mode, see
            `leave_inference_mode`.
        adapter: moved to the processes' device, kept in float32. Layers that have learned nothing get their start.
        pairs: of at least one pair.

    Attributes:
        step: number of steps done.
        prism_started: whether the prism's start is done.
        average: of the adapter's weights; what is saved and measured.
        reader: reads the motion off the tokens all along; None without `motion_loss`.

    Raises: EchoReelError where the adapter was not made for this model.
    """

    def __init__(
        self,
        trainable: TrainableModel,
        adapter: EchoReelAdapter,
        pairs: PairSource,
        settings: TrainingSettings,
        process_group: ProcessGroup | None = None,
    ) -> None:
        if not len(pairs):
            raise EchoReelError("There are no pairs to train on: run `check` to see why.")
        self.trainable, self.pairs, self.settings = trainable, pairs, settings
        self.process_group = process_group or ProcessGroup()
        self.step, self.prism_started = 0, False
        self.levels = NoiseLevels(settings.noise_spread, settings.noise_bias, settings.noise_shift)
        trainable.model.requires_grad_(False).eval()
        with torch.inference_mode(False):
            leave_inference_mode(adapter)
            device = self.process_group.device
            self.adapter = adapter.to(device, torch.float32).requires_grad_(True).train()
            self.objective = Objective(trainable, self.adapter, settings, device)
            if settings.same_frame_start:
                look_at_same_frame(self.adapter)
            self.reader = self._new_reader() if settings.motion_loss else None
            trained = {**dict(self.adapter.named_parameters()), **self._reader_parameters()}
            self.optimizer = self._optimizer(trained, {"prism.": settings.prism_rate})
            self.average = AverageOfWeights(self.adapter, settings.average)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.mixed_precision == "fp16")

    def _new_reader(self) -> MotionReader:
        example = self.pairs.batch([0], [0]).reference
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.settings.seed, "prism start"))
            reader = MotionReader(self.adapter.prism.config.action_dim, example.float())
        return reader.to(self.process_group.device)

    def _reader_parameters(self) -> dict[str, nn.Parameter]:
        return {} if self.reader is None else {READER + key: value for key, value in self.reader.named_parameters()}

    def _optimizer(self, named: Mapping[str, nn.Parameter], slow: Mapping[str, float]) -> Optimizer:
        settings = self.settings
        betas = (settings.beta1, settings.beta2)
        return Optimizer(
            named.items(),
            settings.optimizer,
            settings.learning_rate,
            betas=betas,
            weight_decay=settings.weight_decay,
            slow=slow,
        )

    def __iter__(self) -> Iterator[StepResult]:
        """Steps until `settings.steps` are done, after the prism's start."""
        for _ in self.start_prism():
            pass
        while self.step < self.settings.steps:
            yield self.train_step()

    def close(self) -> None:
        """Leaves the model as it was found; a compiled one has hooks until then."""
        self.objective.close()

    @torch.inference_mode(False)
    @torch.enable_grad()
    def train_step(self) -> StepResult:
        """One optimizer step over `accumulation` batches per process.

        Reads loss and gradient back from the device once, when all of it is under way.

        Raises: EchoReelError where the loss or the gradient is not a number; the weights are then those before the
            step.
        """
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.process_group.device)
        for together, share in self._shares(self.step, self.settings.accumulation):
            with self.objective.loss(together) as (loss, action):
                self.scaler.scale((loss + self._motion_loss(action, together)) * share).backward()
            total += loss.detach() * share
        self._mean_gradients(self.optimizer, total)
        for part in self.optimizer.parts:
            self.scaler.unscale_(part)
        norm = self._clip(self.optimizer)
        loss, norm = torch.stack((total, norm.to(total))).tolist()
        if not math.isfinite(loss) or not (self.scaler.is_enabled() or math.isfinite(norm)):
            self.optimizer.zero_grad()
            raise EchoReelError(
                f"The loss or its gradient is not a number at step {self.step + 1} (loss {loss:g}, learning rate "
                f"{self.settings.learning_rate:g}): lower the learning rate, or use mixed precision 'no' or 'bf16'."
            )
        factor = self._rate_factor(self.step)
        self.optimizer.set_rates(factor)
        for part in self.optimizer.parts:
            self.scaler.step(part)
        self.scaler.update()
        self.average.follow(self.step)
        self.step += 1
        return StepResult(self.step, loss, norm, self.settings.learning_rate * factor)

    def _motion_loss(self, action: Tensor, batch: MicroBatch) -> Tensor | float:
        """What the tokens do not tell of the references, times its weight; those that were left out do not count."""
        if self.reader is None or batch.draws.drop_reference.all():
            return 0.0
        seen = (~batch.draws.drop_reference).nonzero().flatten().to(action.device)
        keypoints = None if batch.keypoints is None else batch.keypoints[seen]
        return self.settings.motion_loss * self.reader.loss(action[seen], batch.reference[seen], keypoints)

    def _shares(self, step: int, accumulation: int) -> Iterator[tuple[MicroBatch, float]]:
        """The micro-batches of a step in this process, and what share of its `accumulation` batches each is.

        All of one expert come first; every other step begins with the one that the step before ended with.
        """
        settings, group = self.settings, self.process_group
        experts = range(len(self.trainable.experts))
        for expert in reversed(experts) if step % 2 else experts:
            for part in range(accumulation):
                first = (step * accumulation + part) * group.count + group.rank
                samples = range(first * settings.batch_size, (first + 1) * settings.batch_size)
                for together in self._micro_batches(self._of_expert(expert, samples)):
                    yield together, len(together.target) / (settings.batch_size * accumulation)

    def _of_expert(self, expert: int, samples: Sequence[int]) -> Sequence[int]:
        """Those samples whose noise level belongs to the expert of this number."""
        u = torch.stack([drawn_level(self.settings.seed, sample, self.levels) for sample in samples])
        belongs = self.trainable.expert_of(self.trainable.noise_level(u)).tolist()
        return [sample for sample, own in zip(samples, belongs, strict=True) if own == expert]

    def _mean_gradients(self, optimizer: Optimizer, loss: Tensor) -> None:
        """Averages loss and gradients over all processes. What none has a gradient for stays without."""
        several = self.process_group.count > 1
        silent = [parameter for parameter in optimizer.parameters if several and parameter.grad is None]
        for parameter in silent:  # another process may have one, and all must bring the same tensors
            parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in optimizer.parameters if parameter.grad is not None]
        self.process_group.mean_([loss, *gradients])
        for parameter in silent:
            parameter.grad = parameter.grad if parameter.grad.any() else None
        optimizer.share_gradients()

    def _clip(self, optimizer: Optimizer) -> Tensor:
        """Clips the gradients; their norm before that."""
        return nn.utils.clip_grad_norm_(optimizer.parameters, self.settings.clip_gradient or math.inf)

    def _rate_factor(self, step: int) -> float:
        settings, done = self.settings, step / self.settings.steps
        factor = min(1.0, (step + 1) / (1 + min(settings.warmup, settings.steps // 10)))
        if settings.schedule == "cosine":
            return factor * 0.5 * (1 + math.cos(math.pi * done))
        if settings.schedule == "linear":
            return min(factor, max(LAST_RATE, (1 - done) / WAY_DOWN))
        return factor

    def _micro_batches(self, samples: Sequence[int]) -> Iterator[MicroBatch]:
        settings = self.settings
        indices = [pair_index(sample, len(self.pairs), settings.seed) for sample in samples]
        for places in same_shape(self.pairs, indices):
            yield from self._drawn([indices[place] for place in places], [samples[place] for place in places])

    def _drawn(self, indices: Sequence[int], samples: Sequence[int]) -> Iterator[MicroBatch]:
        settings = self.settings
        batch = self.pairs.batch(indices, [seed_of(settings.seed, "pair", sample) for sample in samples])
        batch = augmented(batch, samples, settings.seed, shift=settings.reference_shift, mirror=settings.mirror)
        draws = draw(
            settings.seed,
            samples,
            batch.target.shape[1:],
            levels=self.levels,
            noise_offset=settings.noise_offset if self.trainable.prediction == "noise" else 0.0,
            text_dropout=settings.text_dropout,
            reference_dropout=settings.reference_dropout,
        )
        return micro_batches(
            batch, draws, self.pairs.empty_text, self.process_group.device, self.trainable.micro_batch_limit
        )

    @property
    def prism_steps(self) -> int:
        """Steps of the prism's start: `prism_start_steps`, at most as many as the run has, for an adapter that has
        learned nothing yet."""
        learned = self.prism_started or any(layer.to_out.weight.any() for layer in self.adapter.attentions)
        return 0 if self.step or learned else min(self.settings.prism_start_steps, self.settings.steps)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def start_prism(self) -> Iterator[float]:
        """Lets the prism learn by itself for `prism_steps` steps; see `prism_start`. Gives each step's loss.

        The pairs are those that training begins with. A run that is cut off in it starts again.
        """
        prism, steps, device = self.adapter.prism, self.prism_steps, self.process_group.device
        settings, at_once = self.settings, self.settings.batch_size * self.process_group.count
        accumulation = max(settings.accumulation, math.ceil(settings.prism_start_pairs / at_once))
        if not steps:
            return
        reader = self.reader or self._new_reader()
        alone = nn.ModuleDict({"prism": prism, "reader": reader})
        optimizer = self._optimizer(dict(alone.named_parameters()), {})
        scaler = torch.amp.GradScaler(device.type, enabled=self.scaler.is_enabled())
        for step in range(steps):
            optimizer.zero_grad()
            total = torch.zeros((), device=device)
            for together, share in self._shares(step, accumulation):
                with self.objective.checkpointed():
                    loss = reader.loss(self.objective.action(together), together.reference, together.keypoints)
                    scaler.scale(loss * share).backward()
                total += loss.detach() * share
            self._mean_gradients(optimizer, total)
            for part in optimizer.parts:
                scaler.unscale_(part)
            self._clip(optimizer)
            warm = min(1.0, (step + 1) / (settings.warmup + 1))
            optimizer.set_rates(warm * 0.5 * (1 + math.cos(math.pi * step / steps)))
            for part in optimizer.parts:
                scaler.step(part)
            scaler.update()
            yield total.item()
        self.prism_started = True
        optimizer.zero_grad()
        self.average.load(self.adapter.state_dict())

    @torch.inference_mode(False)
    def held_out_loss(self, pairs: PairSource, limit: int, levels: Sequence[float] = LEVELS) -> list[float]:
        """The loss of the averaged weights; see `held_out.held_out_loss`."""
        with self.average.in_place():
            return held_out_loss(self.objective, pairs, limit, self.settings.batch_size, self.process_group, levels)


@torch.inference_mode(False)
def leave_inference_mode(module: nn.Module) -> None:
    """Replaces parameters and buffers that were made in inference mode, which autograd refuses, by normal copies."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_inference():
                setattr(part, name, nn.Parameter(parameter.clone(), requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_inference():
                setattr(part, name, buffer.clone())
