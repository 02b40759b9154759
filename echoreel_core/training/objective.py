"""What training minimises: the frozen model's error with the added layers in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..action.action import Action, Reference
from ..action.adapter import EchoReelAdapter
from ..action.attention import ActionContext
from ..action.injection import AddedLayer, added_layers
from ..errors import EchoReelError, counted
from .config import TrainingSettings
from .data.batches import MicroBatch
from .gradient_checkpointing import gradient_checkpointed
from .loss import add_noise, loss_weight, target
from .trainable import TrainableModel

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Objective:
    """The trainable model with an adapter, and its error.

    With `compile`, prism and model are compiled and the layers hooked in at the first pass, until `close`: hooks that
    come and go would have every pass compiled anew.

    Raises: EchoReelError where the adapter was not made for this model.
    """

    def __init__(
        self, trainable: TrainableModel, adapter: EchoReelAdapter, settings: TrainingSettings, device: torch.device
    ) -> None:
        self.trainable, self.adapter, self.settings, self.device = trainable, adapter, settings, device
        _check_sites([site.name for site in trainable.sites()], [site.name for site in adapter.config.sites])
        experts = trainable.experts
        self.sites = [site for expert in experts for site in expert.sites()]
        self._layers = [self._layer(attention, expert) for expert in experts for attention in adapter.attentions]
        self._now: tuple[ActionContext, int] | None = None  # what the layers attend to, and the clip's token frames
        self._contexts: dict[tuple[int, int], ActionContext] = {}
        self._hooked: AbstractContextManager[None] | None = None

    def close(self) -> None:
        """Leaves the model as it was found."""
        if self._hooked is not None:
            self._hooked.__exit__(None, None, None)
            self._hooked = None
            for module in self._compiled():
                module._compiled_call_impl = None

    def autocast(self) -> torch.autocast:
        """Mixed precision as the settings say."""
        dtype = AUTOCAST.get(self.settings.mixed_precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def checkpointed(self) -> AbstractContextManager[None]:
        """Gradient checkpointing as the settings say, around a forward pass and the backward pass after it."""
        if not (self.settings.gradient_checkpointing and torch.is_grad_enabled()):
            return nullcontext()
        return self._checkpointed()

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        trainable, offload = self.trainable, self.settings.offload_activations
        blocks = gradient_checkpointed(trainable.checkpointed_modules(), offload, trainable.changes_in_place)
        with blocks, gradient_checkpointed(self.adapter.prism.layers, offload):
            yield

    def action(self, batch: MicroBatch) -> Tensor:
        """Action tokens [B, S, action_dim] of the references."""
        if self.settings.compile == "reduce-overhead":  # what earlier passes left in the graphs' memory may go
            torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            return self.adapter.prism(batch.reference.float(), torch.cat((batch.prompt, batch.caption), 1).float())

    def errors(self, batch: MicroBatch, action: Tensor, u: Tensor) -> Tensor:
        """The weighted squared error [B] at noise levels u [B], which are on the CPU, and of a single expert.

        Call it inside `attached`.
        """
        settings, trainable = self.settings, self.trainable
        latents, noise = batch.target.float() / trainable.sigma_data, batch.draws.noise.to(batch.target.device)
        level = trainable.noise_level(u)
        noisy = add_noise(latents, noise, level)
        with self.autocast():
            expert = trainable.at(level)
            predicted = expert.predict(noisy, level.time_on(latents.device), batch.prompt, batch.conditionings)
        wanted = target(trainable.prediction, latents, noise, level)
        error = (predicted.float() - wanted).square().flatten(1).mean(1)
        return loss_weight(settings.weighting, trainable.prediction, level, settings.min_snr_gamma).to(error) * error

    @contextmanager
    def loss(self, batch: MicroBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """The mean error, a scalar, and the action tokens behind it. The backward pass has to run inside the `with`, as
        it may run layers again."""
        with self.trainable.gradient_context(), self.checkpointed():
            action = self.action(batch)
            with self.attached(action, batch.target.shape[2]):
                yield self.errors(batch, action, batch.draws.u).mean(), action

    @contextmanager
    def attached(self, action: Tensor, latent_frames: int) -> Iterator[None]:
        """The model runs with the added layers inside, for action tokens [B, S, action_dim]."""
        if self.settings.compile != "no" and self._hooked is None:
            self._hook_for_good()
        frames = self.trainable.token_frames(latent_frames)
        before, self._now = self._now, (self._context(action, frames), frames)
        try:
            with nullcontext() if self._hooked else added_layers(self.sites, self._layers):
                yield
        finally:
            self._now = before

    def _compiled(self) -> list[nn.Module]:
        """What `compile` is about."""
        return [*(expert.model for expert in self.trainable.experts), self.adapter.prism]

    def _hook_for_good(self) -> None:
        for module in self._compiled():
            module.compile(mode=self.settings.compile)
        self._hooked = added_layers(self.sites, self._layers, traced=True)
        self._hooked.__enter__()

    def _context(self, action: Tensor, frames: int) -> ActionContext:
        """As `Action.context`, its distances made and brought to the device only once."""
        key = action.shape[1], frames
        if key not in self._contexts:
            whole = Action.of(Reference(action, action), "", self.adapter.config.host)
            context = whole.context("positive", frames)
            self._contexts[key] = replace(
                context, tokens=action.detach()[:0], distance=context.distance.to(action.device)
            )
        return replace(self._contexts[key], tokens=action)

    def _layer(self, attention: nn.Module, expert: TrainableModel) -> AddedLayer:
        def added(hidden: Tensor) -> Tensor | None:
            if self._now is None:
                return None
            context, frames = self._now
            tokens = expert.tokens(hidden, context.tokens.shape[0], frames)
            return None if tokens is None else expert.hidden(attention(tokens.float(), context), hidden)

        return added


def _check_sites(of_model: list[str], of_adapter: list[str]) -> None:
    for found, expected in zip(of_model, of_adapter, strict=False):
        if found != expected:
            raise EchoReelError(f"The adapter has a layer for {expected}, but the model has {found} in its place.")
    if len(of_model) != len(of_adapter):
        raise EchoReelError(
            f"The adapter has {counted(len(of_adapter), 'layer')}, but the model has {counted(len(of_model), 'block')}."
        )
