"""How an action gets into a model while it samples: two wrappers around the host's own calls, nothing else.

`ActionPatch.sampling` runs once per sampling run and sets up the run's state; `ActionPatch.model_call` runs for every
call of the model and hooks the added layers in for its duration. A patch never changes after it is made; what belongs
to a run lives in the run, what belongs to a call in the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

from ..echoreel_core.action import Action, Role
from ..echoreel_core.action_attention import ActionAttention
from ..echoreel_core.injection import Site, added_layers
from .hosts.base import Host, TokenGrid

FramesLayer = Callable[[Tensor], Tensor]
"""[B, T, P, dim] → what is to be added to it."""


@dataclass
class RunState:
    """What one sampling run keeps from step to step.

    Attributes:
        roles: the role of each conditioning, by its uuid.
        layers: the layers made ready for this run's action, by role, frames, device and dtype.
        sigmas: the sigmas between which the action applies.
    """

    roles: dict[Any, Role] = field(default_factory=dict)
    layers: dict[tuple, list[FramesLayer]] = field(default_factory=dict)
    sigmas: tuple[float, float] | None = None


@dataclass
class CallState:
    """What one call of the model knows once its diffusion model is entered."""

    grid: TokenGrid | None = None


@dataclass(frozen=True, eq=False)
class ActionPatch:
    """One Apply EchoReel.

    Attributes:
        key: unique per Apply, so that several add up.
        sites: names of the blocks the adapter has layers for, in order.
        attentions: the adapter's added layers as the host manages them.
        start_percent, end_percent: of the sampling run.
    """

    key: str
    host: Host
    sites: tuple[str, ...]
    attentions: comfy.model_patcher.ModelPatcher
    action: Action
    strength: float
    start_percent: float
    end_percent: float

    def sampling(self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, *args: Any, **kwargs: Any) -> Any:
        """SAMPLER_SAMPLE wrapper: notes which conditioning is the negative one, by its identity."""
        state = RunState(roles=_roles(guider.conds))
        options = extra_args["model_options"].setdefault("transformer_options", {})  # a copy made for this run
        options[self.key] = state
        try:
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        finally:
            options.pop(self.key, None)
            state.layers.clear()

    def model_call(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> Any:
        """APPLY_MODEL wrapper: runs the model with the added layers in its blocks, or untouched out of range."""
        options = {} if transformer_options is None else transformer_options
        model = executor.class_obj
        state = options.get(self.key) or RunState()
        in_range = self._in_range(model, options, state)
        with self._hooked(model, options, state) if in_range else nullcontext():
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _in_range(self, model: Any, options: dict, state: RunState) -> bool:
        """Whether the action applies at this step. Costs a look at the device only where a range is set."""
        if self.start_percent <= 0.0 and self.end_percent >= 1.0:
            return True
        if state.sigmas is None:
            sampling = model.model_sampling
            state.sigmas = tuple(float(sampling.percent_to_sigma(p)) for p in (self.start_percent, self.end_percent))
        first, last = state.sigmas
        return last <= float(options["sigmas"].max()) <= first

    @contextmanager
    def _hooked(self, model: Any, options: dict, state: RunState) -> Iterator[None]:
        """Hooks the added layers into the live model, for the `with` only."""
        diffusion_model = model.diffusion_model
        by_name = {site.name: site for site in self.host.sites(diffusion_model)}
        sites = [by_name[name] for name in self.sites]
        roles = _chunk_roles(options, state)
        call = CallState()

        def enter(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            call.grid = self.host.grid(module, args[0], kwargs)

        # python values that the layers read must not be baked into a compiled graph
        layers = [
            torch.compiler.disable(partial(self._delta, index, model, state, call, roles))
            for index in range(len(sites))
        ]
        handle = diffusion_model.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            with added_layers(sites, layers):
                yield
        finally:
            handle.remove()

    def _delta(
        self, index: int, model: Any, state: RunState, call: CallState, roles: list[Role], hidden: Tensor
    ) -> Tensor:
        """What the layer at site `index` adds to a block's hidden state, in the host's layout."""
        frames = self.host.to_frames(hidden, call.grid)
        chunks = frames.chunk(len(roles))
        deltas = [
            self._layers(model, state, role, chunk)[index](chunk) for role, chunk in zip(roles, chunks, strict=True)
        ]
        delta = deltas[0] if len(deltas) == 1 else torch.cat(deltas)
        if self.strength != 1.0:
            delta = delta * self.strength
        return self.host.from_frames(delta, hidden, call.grid)

    def _layers(self, model: Any, state: RunState, role: Role, frames: Tensor) -> list[FramesLayer]:
        """The layers with the action folded in, made at their first use in a run."""
        made_for = (role, frames.shape[1], frames.device, frames.dtype)
        if made_for not in state.layers:
            attentions: list[ActionAttention] = self._attentions_on_this_device(model)
            context = self.action.context(role, frames.shape[1])
            batch, clips = context.tokens.shape[0], frames.shape[0]
            if batch not in (1, clips):
                raise ValueError(
                    f"The action holds {batch} samples, the latents {clips}: encode one reference, or one per latent."
                )
            state.layers[made_for] = [
                attention.fold(context, frames.dtype, frames.device)
                if attention.worth_folding(context.tokens.shape[1])
                else partial(attention, context=context)
                for attention in attentions
            ]
        return state.layers[made_for]

    def _attentions_on_this_device(self, model: Any) -> torch.nn.ModuleList:
        """The added layers beside this copy of the model: every GPU has its own."""
        patcher = model.current_patcher
        beside = patcher.get_additional_models_with_key(self.key) if patcher is not None else []
        return (beside[0] if beside else self.attentions).model


def _roles(conds: dict[str, list[dict]]) -> dict[Any, Role]:
    """The role of every conditioning of a guider: those it calls negative are, all others are positive."""
    return {
        cond["uuid"]: "negative" if "negative" in name else "positive"
        for name, entries in conds.items()
        for cond in entries or ()
        if "uuid" in cond
    }


def _chunk_roles(options: dict, state: RunState) -> list[Role]:
    """The role of each chunk of the batch; outside a sampling run by the order in which it is customary."""
    order = options.get("cond_or_uncond", [0])
    uuids = options.get("uuids", [None] * len(order))
    return [
        state.roles.get(uuid, "negative" if index == 1 else "positive")
        for uuid, index in zip(uuids, order, strict=True)
    ]


def check_fit(host: Host, diffusion_model: torch.nn.Module, wanted: dict[str, int]) -> list[Site]:
    """The model's sites that an adapter has layers for.

    Args:
        wanted: width of the hidden state by block name, as the adapter was trained.

    Raises: ValueError naming both numbers where a block is missing or of another width.
    """
    sites = {site.name: site for site in host.sites(diffusion_model)}
    missing = [name for name in wanted if name not in sites]
    if missing:
        raise ValueError(
            f"The EchoReel adapter was trained for another {host.title} model: it has layers for {len(wanted)} "
            f"blocks, this model has {len(sites)} (there is no {missing[0]}). Use the adapter made for it."
        )
    for name, dim in wanted.items():
        width = sites[name].norm.normalized_shape[-1]
        if width != dim:
            raise ValueError(
                f"The EchoReel adapter was trained for a {host.title} model that is {dim} wide at {name}, this one is "
                f"{width} wide: use the adapter made for it."
            )
    return [sites[name] for name in wanted]
