"""The training loop, one optimizer step at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..action.action import Action, Reference
from ..action.adapter import EchoReelAdapter
from ..action.injection import AddedLayer, added_layers
from ..errors import EchoReelError, counted
from .config import TrainingSettings
from .data.batches import MicroBatch, PairSource, micro_batches, pair_index
from .loss import add_noise, draw, loss_weight, seed_of, target
from .process_group import ProcessGroup
from .trainable import TrainableModel

HELD_OUT_LEVELS = tuple(level / 10 for level in range(1, 10))
"""The noise levels u at which the held-out loss is measured."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


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

    Everything chance decides is a function of the seed and the sample's running number, so `state` and `load_state`
    carry a run on exactly. Safe to drive from inside `torch.inference_mode()`.

    Args:
        trainable: its model is frozen and stays on its device; where it was made in inference mode, see
            `leave_inference_mode`.
        adapter: moved to the processes' device, kept in float32.
        pairs: of at least one pair.

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
        self.step = 0
        sites = trainable.sites()
        for site, config in zip(sites, adapter.config.sites, strict=False):
            if site.name != config.name:
                raise EchoReelError(
                    f"The adapter has a layer for {config.name}, but the model has {site.name} in its place."
                )
        if len(sites) != len(adapter.config.sites):
            raise EchoReelError(
                f"The adapter has {counted(len(adapter.config.sites), 'layer')}, but the model has "
                f"{counted(len(sites), 'block')}."
            )
        self.sites = sites
        trainable.model.requires_grad_(False).eval()
        with torch.inference_mode(False):
            leave_inference_mode(adapter)
            self.adapter = adapter.to(self.process_group.device, torch.float32).requires_grad_(True).train()
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": [*adapter.prism.parameters()]},
                    {"params": [*adapter.attentions.parameters()]},
                ],
                lr=settings.learning_rate,
                betas=(settings.beta1, settings.beta2),
                weight_decay=settings.weight_decay,
            )
        self.scaler = torch.amp.GradScaler(self.process_group.device.type, enabled=settings.mixed_precision == "fp16")

    def __iter__(self) -> Iterator[StepResult]:
        """Steps until `settings.steps` are done."""
        while self.step < self.settings.steps:
            yield self.train_step()

    @torch.inference_mode(False)
    @torch.enable_grad()
    def train_step(self) -> StepResult:
        """One optimizer step over `accumulation` batches per process.

        Raises: EchoReelError where the loss or the gradient is not a number; the weights are then those before the
            step.
        """
        settings, process_group = self.settings, self.process_group
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=process_group.device)
        for part in range(settings.accumulation):
            first = (self.step * settings.accumulation + part) * process_group.count + process_group.rank
            samples = range(first * settings.batch_size, (first + 1) * settings.batch_size)
            for together in self._micro_batches(samples):
                share = len(together.target) / (settings.batch_size * settings.accumulation)
                with self.loss(together) as loss:
                    self.scaler.scale(loss * share).backward()
                total += loss.detach() * share
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        process_group.mean_([total, *gradients])
        self.scaler.unscale_(self.optimizer)
        limit = settings.clip_gradient or math.inf
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        if not torch.isfinite(total) or not (self.scaler.is_enabled() or torch.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise EchoReelError(
                f"The loss or its gradient is not a number at step {self.step + 1} (loss {total.item():g}, learning "
                f"rate {settings.learning_rate:g}): lower the learning rate, or use mixed precision 'no' or 'bf16'."
            )
        rate = self._set_learning_rates()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return StepResult(self.step, total.item(), norm.item(), rate)

    def _set_learning_rates(self) -> float:
        settings = self.settings
        factor = min(1.0, (self.step + 1) / (settings.warmup + 1))
        if settings.schedule == "cosine":
            factor *= 0.5 * (1 + math.cos(math.pi * self.step / settings.steps))
        rate = settings.learning_rate * factor
        prism, attentions = self.optimizer.param_groups
        prism["lr"] = settings.prism_learning_rate * factor if settings.prism_learning_rate else rate
        attentions["lr"] = rate
        return rate

    def _micro_batches(self, samples: Sequence[int]) -> Iterator[MicroBatch]:
        settings = self.settings
        indices = [pair_index(sample, len(self.pairs), settings.seed) for sample in samples]
        batch = self.pairs.batch(indices, [seed_of(settings.seed, "pair", sample) for sample in samples])
        draws = draw(
            settings.seed,
            samples,
            batch.target.shape[1:],
            noise_bias=settings.noise_bias,
            text_dropout=settings.text_dropout,
            reference_dropout=settings.reference_dropout,
        )
        return micro_batches(
            batch, draws, self.pairs.empty_text, self.process_group.device, self.trainable.micro_batch_limit
        )

    @contextmanager
    def loss(self, batch: MicroBatch) -> Iterator[Tensor]:
        """The weighted loss, a scalar. Its backward pass must run inside the `with`, as it may run layers again."""
        settings, trainable = self.settings, self.trainable
        latents, noise = batch.target.float() / trainable.sigma_data, batch.draws.noise.to(batch.target.device)
        level = trainable.noise_level(batch.draws.u)  # on the CPU: float64, which not every device has
        noisy = add_noise(latents, noise, level)
        with ExitStack() as stack:
            stack.enter_context(trainable.gradient_context())
            if settings.gradient_checkpointing and torch.is_grad_enabled():
                stack.enter_context(
                    gradient_checkpointed([*trainable.checkpointed_modules(), *self.adapter.prism.layers])
                )
            stack.enter_context(self.autocast())
            action = self.adapter.prism(batch.reference.float(), torch.cat((batch.prompt, batch.caption), 1).float())
            stack.enter_context(self.attached(action, batch.target.shape[2]))
            predicted = trainable.predict(noisy, level.time.to(latents.device), batch.prompt, batch.conditionings)
            with torch.autocast(latents.device.type, enabled=False):
                error = (
                    (predicted.float() - target(trainable.prediction, latents, noise, level))
                    .square()
                    .flatten(1)
                    .mean(1)
                )
                weight = loss_weight(settings.weighting, trainable.prediction, level, settings.min_snr_gamma)
                yield (weight.to(error) * error).mean()

    def autocast(self) -> torch.autocast:
        """Mixed precision as the settings say."""
        dtype = AUTOCAST.get(self.settings.mixed_precision)
        return torch.autocast(self.process_group.device.type, dtype=dtype, enabled=dtype is not None)

    @contextmanager
    def attached(self, action: Tensor, latent_frames: int) -> Iterator[None]:
        """The model runs with the added layers inside, for action tokens [B, S, action_dim]."""
        batch, frames = action.shape[0], self.trainable.token_frames(latent_frames)
        whole = Action.of(Reference(action, action), "", self.adapter.config.host)
        context = whole.context("positive", frames)
        context = replace(context, distance=context.distance.to(action.device))

        def layer(attention: nn.Module) -> AddedLayer:
            def added(hidden: Tensor) -> Tensor | None:
                tokens = self.trainable.tokens(hidden, batch, frames)
                return None if tokens is None else self.trainable.hidden(attention(tokens.float(), context), hidden)

            return added

        with added_layers(self.sites, [layer(attention) for attention in self.adapter.attentions]):
            yield

    @torch.inference_mode(False)
    @torch.no_grad()
    def held_out_loss(self, pairs: PairSource, limit: int, levels: Sequence[float] = HELD_OUT_LEVELS) -> list[float]:
        """The loss at fixed noise levels, over the first `limit` pairs, with noise of its own that never changes.

        Nothing is dropped. Each process takes its share of the pairs.
        """
        process_group, size = self.process_group, self.settings.batch_size
        count = min(limit, len(pairs))
        sums = torch.zeros(len(levels), device=process_group.device)
        batches = [range(start, min(start + size, count)) for start in range(0, count, size)]
        for indices in batches[process_group.rank :: process_group.count]:
            batch = pairs.batch(indices, [seed_of("held out pair", index) for index in indices])
            drawn = draw(seed_of("held out"), indices, batch.target.shape[1:])
            for together in micro_batches(
                batch, drawn, pairs.empty_text, process_group.device, self.trainable.micro_batch_limit
            ):
                draws = together.draws
                for place, u in enumerate(levels):
                    at_level = replace(draws, u=torch.full_like(draws.u, u))
                    with self.loss(replace(together, draws=at_level)) as loss:
                        pass
                    sums[place] += loss * len(together.target)
        process_group.mean_([sums])
        return (sums * process_group.count / count).tolist()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a continued run needs besides the adapter: the optimizer's tensors by name, and JSON-ready values."""
        names = self._parameter_names()
        tensors = {
            f"{names[parameter]}.{key}": value
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        }
        return tensors, {"step": self.step, "scaler": self.scaler.state_dict()}

    def load_state(
        self, adapter: Mapping[str, Tensor], tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> None:
        """Takes up what `state` gave, and the adapter's weights. Raises: EchoReelError where they do not fit."""
        try:
            self.adapter.load_state_dict(adapter)
            with torch.inference_mode(False):
                for parameter, name in self._parameter_names().items():
                    found = {key.rpartition(".")[2]: key for key in tensors if key.rpartition(".")[0] == name}
                    self.optimizer.state[parameter] = {
                        key: tensors[full].clone() if key == "step" else tensors[full].to(parameter).clone()
                        for key, full in found.items()
                    }
            self.scaler.load_state_dict(values["scaler"])
            self.step = values["step"]
        except (RuntimeError, KeyError) as error:
            raise EchoReelError(
                f"This training state belongs to another adapter, or it is damaged: {str(error)[:200]}."
            ) from None

    def _parameter_names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.adapter.named_parameters()}


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


@contextmanager
def gradient_checkpointed(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the `with`, these modules keep no activations: they run again in the backward pass (same `with`)."""
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward
