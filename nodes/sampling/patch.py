"""How an action gets into a model while it samples: two wrappers around the host's own calls, nothing else.

`ActionPatch.sampling` runs once per sampling run and sets up the run's state; `ActionPatch.model_call` runs for every
call of the model and hooks the added layers in for its duration. A patch never changes after it is made; what belongs
to a run lives in the run, what belongs to a call in the call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

from ...echoreel_core.action.action import Action, Role
from ...echoreel_core.action.attention import ActionAttention, ActionContext
from ...echoreel_core.action.injection import AnySite, added_layers
from ...echoreel_core.errors import EchoReelError, counted
from ..families.base import ModelFamily, TokenGrid
from .control import Control, value_at
from .windows import ClipFrames, clip_frames

FramesLayer = Callable[[Tensor], Tensor]
"""[B, T, P, dim] → what is to be added to it."""


@dataclass
class RunState:
    """What one sampling run keeps from step to step.

    Attributes:
        roles: the role of each conditioning, by its uuid.
        layers: the layers made ready for this run's action, the last ones for each way the model is called.
        masks: the mask at the tokens, by frames, grid, device and dtype.
        range: the sigmas between which the action applies.
        sigmas: the run's sigmas, where the strength changes over the steps.
    """

    roles: dict[Any, Role] = field(default_factory=dict)
    layers: dict[tuple, tuple[ClipFrames, list[FramesLayer | None]]] = field(default_factory=dict)
    masks: dict[tuple, Tensor] = field(default_factory=dict)
    range: tuple[float, float] | None = None
    sigmas: tuple[float, ...] = ()


@dataclass
class CallState:
    """What one call of the model knows once its diffusion model is entered.

    Attributes:
        model_fps: frames per second that the model was made for.
    """

    roles: tuple[Role, ...]
    strength: float
    model_fps: float
    grid: TokenGrid | None = None
    frames: ClipFrames | None = None


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
    family: ModelFamily
    sites: tuple[str, ...]
    attentions: comfy.model_patcher.ModelPatcher
    action: Action
    strength: float
    start_percent: float = 0.0
    end_percent: float = 1.0
    control: Control = field(default_factory=Control)

    def sampling(self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, *args: Any, **kwargs: Any) -> Any:
        """SAMPLER_SAMPLE wrapper: notes which conditioning is the negative one, by its identity."""
        state = RunState(roles=_roles(guider.conds))
        if self.control.changes_over_steps:
            state.sigmas = tuple(sigmas.tolist())
        options = extra_args["model_options"].setdefault("transformer_options", {})  # a copy made for this run
        options[self.key] = state
        try:
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        finally:
            options.pop(self.key, None)
            state.layers.clear()
            state.masks.clear()

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
        strength = self._strength(model, options, state)
        with self._hooked(model, options, state, strength) if strength else nullcontext():
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _strength(self, model: Any, options: dict, state: RunState) -> float:
        """The factor at this step, 0 where the action does not apply; looks at the device only where it may change."""
        always = self.start_percent <= 0.0 and self.end_percent >= 1.0
        if always and not state.sigmas:
            return 1.0
        sigma = float(options["sigmas"].max())
        if not always:
            if state.range is None:
                sampling = model.model_sampling
                state.range = tuple(float(sampling.percent_to_sigma(p)) for p in (self.start_percent, self.end_percent))
            first, last = state.range
            if not last <= sigma <= first:
                return 0.0
        return value_at(self.control.step_factors, _progress(state.sigmas, sigma)) if state.sigmas else 1.0

    @contextmanager
    def _hooked(self, model: Any, options: dict, state: RunState, strength: float) -> Iterator[None]:
        """Hooks the added layers into the live model, for the `with` only."""
        factors = self.control.block_factors or (1.0,) * len(self.sites)
        used = [index for index, factor in enumerate(factors) if factor]
        diffusion_model = uncompiled(model.diffusion_model)
        by_name = {site.name: site for site in self.family.sites(diffusion_model)}
        call = CallState(tuple(_chunk_roles(options, state)), strength, self.family.frame_rate(diffusion_model))

        def enter(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            call.grid = self.family.grid(uncompiled(module), args[0], kwargs)
            call.frames = clip_frames(self.family, call.grid, kwargs["transformer_options"])

        # python values that these read must not be baked into a compiled graph
        layers = [torch.compiler.disable(partial(self._delta, index, model, state, call)) for index in used]
        handle = model.diffusion_model.register_forward_pre_hook(torch.compiler.disable(enter), with_kwargs=True)
        try:
            with added_layers([by_name[self.sites[index]] for index in used], layers):
                yield
        finally:
            handle.remove()

    def _delta(self, index: int, model: Any, state: RunState, call: CallState, hidden: Tensor) -> Tensor | None:
        """What the layer at site `index` adds to a block's hidden state, in the host's layout."""
        frames = self.family.to_frames(hidden, call.grid)
        layer = None if frames is None else self._layers(model, state, call, frames)[index]
        if layer is None:
            return None
        delta = layer(frames)
        if call.strength != 1.0:
            delta = delta * call.strength
        if self.control.mask is not None:
            delta = delta * self._mask(state, call, frames)
        return self.family.from_frames(delta, hidden, call.grid)

    def _mask(self, state: RunState, call: CallState, frames: Tensor) -> Tensor:
        made_for = (call.frames, frames.shape[2], frames.device, frames.dtype)
        if made_for not in state.masks:
            state.masks[made_for] = self.control.mask_for(call.frames, call.grid, frames)
        return state.masks[made_for]

    def _layers(self, model: Any, state: RunState, call: CallState, frames: Tensor) -> list[FramesLayer | None]:
        """The layers with the action folded in, None where they add nothing; made at their first use in a run.

        Only those for the current window are kept: there are many windows, and folding again is cheap beside one pass.
        """
        called_as = (call.roles, frames.shape[0], frames.device, frames.dtype)
        made_for, layers = state.layers.get(called_as, (None, None))
        if made_for != call.frames:
            layers = self._fold(model, call, frames)
            state.layers[called_as] = call.frames, layers
        return layers

    def _fold(self, model: Any, call: CallState, frames: Tensor) -> list[FramesLayer | None]:
        attentions: Sequence[ActionAttention] = self._attentions_on_this_device(model)
        context = self._context(call, frames.shape[0])
        mix_weights = torch.ones(1, len(context.groups)) if context.mix_weights is None else context.mix_weights
        factors = self.control.block_factors or (1.0,) * len(attentions)
        layers: list[FramesLayer | None] = []
        for attention, factor in zip(attentions, factors, strict=True):
            factor = factor * self.strength
            if not factor or not mix_weights.any():  # a window may lie outside the action's span
                layers.append(None)
                continue
            own = context if factor == 1.0 else replace(context, mix_weights=mix_weights * factor)
            layers.append(
                attention.fold(own, frames.dtype, frames.device)
                if attention.worth_folding(own.tokens.shape[1])
                else partial(attention, context=own.to(frames.device))
            )
        return layers

    def _context(self, call: CallState, rows: int) -> ActionContext:
        """What all rows of the batch attend to, each to the half of the action that its conditioning's role takes."""
        timing = self.control.timing(self.family, call.model_fps, call.grid, call.frames.total)
        clips = rows // len(call.roles)
        contexts = {role: self.action.context(role, call.frames.total, call.frames.at, timing) for role in call.roles}
        batch = contexts[call.roles[0]].tokens.shape[0]
        if batch not in (1, clips):
            raise EchoReelError(
                f"The action was encoded with {counted(batch, 'prompt')}, but the latents hold "
                f"{counted(clips, 'clip')}: use one prompt, or one for each clip."
            )
        if len(contexts) == 1 and batch == 1:
            return contexts[call.roles[0]]  # one for all rows
        tokens = torch.cat([contexts[role].tokens.expand(clips, -1, -1) for role in call.roles])
        return replace(contexts[call.roles[0]], tokens=tokens)

    def _attentions_on_this_device(self, model: Any) -> torch.nn.ModuleList:
        """The added layers for this copy of the model: every GPU has its own."""
        patcher = model.current_patcher
        beside = patcher.get_additional_models_with_key(self.key) if patcher is not None else []
        return (beside[0] if beside else self.attentions).model


def uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    """The module that torch.compile wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


def _progress(sigmas: tuple[float, ...], sigma: float) -> float:
    """How far a run with these falling sigmas is at a sigma: 0 at its first step, 1 at its last.

    The last sigma is where the run ends, so the last step begins one before it.
    """
    steps = sigmas[:-1]
    if len(steps) < 2:
        return 0.0
    after = min(max(bisect_left(steps, -sigma, key=lambda s: -s), 1), len(steps) - 1)
    above, below = steps[after - 1], steps[after]
    share = (above - sigma) / (above - below) if above > below else 0.0
    return (after - 1 + min(max(share, 0.0), 1.0)) / (len(steps) - 1)


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


def check_fit(family: ModelFamily, diffusion_model: torch.nn.Module, wanted: dict[str, int]) -> list[AnySite]:
    """The model's sites that an adapter has layers for.

    Args:
        wanted: width of the hidden state by block name, as the adapter was trained.

    Raises: EchoReelError naming both numbers where a block is missing or of another width.
    """
    sites = {site.name: site for site in family.sites(diffusion_model)}
    missing = [name for name in wanted if name not in sites]
    if missing:
        raise EchoReelError(
            f"The EchoReel adapter was trained for another size of {family.title}: it has layers for "
            f"{counted(len(wanted), 'block')}, but this model has {len(sites)} (there is no {missing[0]}). Use the "
            "adapter made for it."
        )
    for name, dim in wanted.items():
        if sites[name].dim != dim:
            raise EchoReelError(
                f"The EchoReel adapter was trained for a {family.title} model that is {dim} wide at {name}, but this "
                f"one is {sites[name].dim} wide there: use the adapter made for it."
            )
    return [sites[name] for name in wanted]
