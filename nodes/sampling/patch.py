"""How an action gets into a model while it samples: three wrappers around the host's own calls.

`ActionPatch.sampling` runs once per sampling run and sets up the run's state. `ActionPatch.batch` runs for every batch
of conditionings and notes them. `ActionPatch.model_call` runs for every call of the model and hooks the added layers in
for its duration. A patch never changes after it is made: the state of a run lives in the run, that of a call in the
call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import comfy.model_patcher
import torch
from comfy.patcher_extension import WrapperExecutor
from server import PromptServer
from torch import Tensor

from ...echoreel_core.action.action import Action, Role
from ...echoreel_core.action.attention import ActionAttention, ActionContext
from ...echoreel_core.action.compiled import uncompiled
from ...echoreel_core.action.injection import AnySite, added_layers
from ...echoreel_core.errors import EchoReelError, counted
from ..families.base import ModelFamily, TokenGrid
from .control import Control, value_at
from .rows import Chunk, Conditionings, note_lists
from .windows import ClipFrames, clip_frames

FramesLayer = Callable[[Tensor], Tensor]
"""[B, T, P, dim] → what to add to it."""


@dataclass
class RunState:
    """What one sampling run keeps from step to step.

    Attributes:
        conditionings: those of the batch that is being computed.
        layers: the layers made ready for this run's action, the last ones for each way the model is called.
        masks: the mask at the tokens, by all that it depends on.
        range: the sigmas between which the action applies.
        schedule: the model's sigmas, spread evenly over its noise schedule, where the strength changes over it.
    """

    conditionings: Conditionings = field(default_factory=Conditionings)
    layers: dict[tuple, tuple[ClipFrames, list[FramesLayer | None]]] = field(default_factory=dict)
    masks: dict[tuple, Tensor] = field(default_factory=dict)
    range: tuple[float, float] | None = None
    schedule: tuple[float, ...] = ()

    def __deepcopy__(self, _memo: dict) -> RunState:
        """Itself: it stays the run's own where another pack copies transformer_options."""
        return self


@dataclass
class CallState:
    """What one call of the model knows once its diffusion model is entered.

    Attributes:
        model_fps: frames per second that the model was made for.
    """

    strength: float
    chunks: tuple[Chunk, ...] = (Chunk(),)
    model_fps: float = 0.0
    grid: TokenGrid | None = None
    frames: tuple[ClipFrames, ...] = ()

    @property
    def roles(self) -> tuple[Role, ...]:
        """Of the chunks."""
        return tuple(chunk.role for chunk in self.chunks)


@dataclass(frozen=True, eq=False)
class ActionPatch:
    """One Apply EchoReel.

    Attributes:
        key: unique per Apply, so that several add up.
        sites: names of the blocks the adapter has layers for, in order.
        attentions: the adapter's added layers as the host manages them.
        start_percent, end_percent: of the model's noise schedule.
        node_id: the node that messages go to.
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
    node_id: str | None = None

    def __deepcopy__(self, _memo: dict) -> ActionPatch:
        """Itself: it never changes."""
        return self

    def sampling(self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, *args: Any, **kwargs: Any) -> Any:
        """SAMPLER_SAMPLE wrapper: opens the run's state and notes of which list every conditioning is."""
        state = RunState()
        note_lists(guider.conds)
        self._tell_of_an_empty_range(guider.inner_model.model_sampling, sigmas)
        options = extra_args["model_options"].setdefault("transformer_options", {})  # a copy made for this run
        options[self.key] = state
        try:
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        finally:
            options.pop(self.key, None)
            state.layers.clear()
            state.masks.clear()

    def batch(self, executor: Any, model: Any, conds: list, x: Tensor, timestep: Any, model_options: dict) -> Any:
        """CALC_COND_BATCH wrapper: notes which conditionings the calls in it are about, and which areas they have."""
        state = model_options.get("transformer_options", {}).get(self.key)
        if state is None:
            return executor(model, conds, x, timestep, model_options)
        before = state.conditionings
        state.conditionings = Conditionings.of(conds, x)
        try:
            return executor(model, conds, x, timestep, model_options)
        finally:
            state.conditionings = before

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
        inner = executor.wrappers[executor.idx + 1 :]
        others = [wrapper for wrapper in inner if getattr(wrapper, "__func__", None) is not ActionPatch.model_call]
        if others:
            # others may still put modules of theirs in the model's place, as the host's compiling does; actions stay in
            # their order, as the second one sees what the first one added
            later = [wrapper for wrapper in inner if wrapper not in others]
            ours_last = [*others, self.model_call, *later]
            executor = WrapperExecutor.new_class_executor(executor.original, model, ours_last)
            return executor.execute(x, t, c_concat, c_crossattn, control, options, **kwargs)
        state = options.get(self.key) or RunState()
        strength = self._strength(model, options, state)
        call = CallState(strength, state.conditionings.chunks(options, x, c_crossattn))
        with self._hooked(model, state, call) if strength else nullcontext():
            return executor(x, t, c_concat, c_crossattn, control, self._without_our_own(options), **kwargs)

    def _without_our_own(self, options: dict) -> dict:
        """transformer_options without what is there for this patch: compiled graphs are guarded on their keys."""
        wrappers = {
            kind: {key: found for key, found in by_key.items() if key != self.key}
            for kind, by_key in options.get("wrappers", {}).items()
        }
        rest = {key: value for key, value in options.items() if key != self.key}
        return {**rest, "wrappers": {kind: by_key for kind, by_key in wrappers.items() if by_key}}

    def _strength(self, model: Any, options: dict, state: RunState) -> float:
        """The factor at this step, 0 where the action does not apply; looks at the device only where it may change."""
        always = self.start_percent <= 0.0 and self.end_percent >= 1.0
        curved = self.control.changes_over_steps
        if always and not curved:
            return 1.0
        sigma = float(options["sigmas"].max())
        if not always:
            if state.range is None:
                state.range = self._range(model.model_sampling)
            first, last = state.range
            if not last <= sigma <= first:
                return 0.0
        if not curved:
            return 1.0
        if not state.schedule:
            state.schedule = _schedule(model.model_sampling)
        return value_at(self.control.step_factors, _percent(state.schedule, sigma))

    def _range(self, sampling: Any) -> tuple[float, float]:
        return tuple(float(sampling.percent_to_sigma(p)) for p in (self.start_percent, self.end_percent))

    def _tell_of_an_empty_range(self, sampling: Any, sigmas: Tensor) -> None:
        """Says so where no step of a run begins between the percents, in the log and on the node."""
        if self.start_percent <= 0.0 and self.end_percent >= 1.0:
            return
        first, last = self._range(sampling)
        if any(last <= sigma <= first for sigma in sigmas[:-1].tolist()):
            return
        message = (
            f"No step of this sampler lies between {self.start_percent:g} and {self.end_percent:g} of the model's "
            "noise schedule, so the action has no effect in it: widen start_percent and end_percent, or use more steps."
        )
        logging.warning("EchoReel: %s", message)
        server = getattr(PromptServer, "instance", None)
        if self.node_id is not None and server is not None:
            server.send_progress_text(message, self.node_id)

    @contextmanager
    def _hooked(self, model: Any, state: RunState, call: CallState) -> Iterator[None]:
        """Hooks the added layers into the live model, for the `with` only."""
        factors = self.control.block_factors or (1.0,) * len(self.sites)
        used = [index for index, factor in enumerate(factors) if factor]
        diffusion_model = uncompiled(model.diffusion_model)
        by_name = {site.name: site for site in self.family.sites(diffusion_model)}
        call.model_fps = self.family.frame_rate(diffusion_model)
        missing = [name for name in self.sites if name not in by_name]
        if missing:
            raise EchoReelError(
                f"The action was applied to another model than the one that runs here, which has no {missing[0]}: "
                "where a guider takes two models, give both the action by an Apply EchoReel each, or use equal models."
            )

        def enter(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            options = kwargs["transformer_options"]
            as_it_is = {**options, "cond_or_uncond": [0] * len(call.chunks)}
            call.grid = self.family.grid(uncompiled(module), args[0], {**kwargs, "transformer_options": as_it_is})
            frames = [clip_frames(self.family, call.grid, options, chunk.place) for chunk in call.chunks]
            call.frames = tuple(self.control.in_clip(each, self.family, call.model_fps, call.grid) for each in frames)

        entered = model.diffusion_model
        if entered._compiled_call_impl is not None:  # by Module.compile(), which has its hooks in the graph
            enter = torch.compiler.disable(enter)
        layers = [partial(self._delta, index, model, state, call) for index in used]
        handle = entered.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            with added_layers([by_name[self.sites[index]] for index in used], layers):
                yield
        finally:
            handle.remove()

    def _delta(self, index: int, model: Any, state: RunState, call: CallState, hidden: Tensor) -> Tensor | None:
        """What the layer at site `index` adds to a block's hidden state, in the host's layout."""
        frames = self.family.to_frames(hidden, call.grid)
        if frames is None:
            return None
        if len(set(call.frames)) == 1:
            delta = self._layer_delta(index, model, state, call, frames)
        else:  # areas that lie at different times of the clip
            each = [replace(call, chunks=(c,), frames=(f,)) for c, f in zip(call.chunks, call.frames, strict=True)]
            parts = zip(each, frames.chunk(len(each)), strict=True)
            deltas = [(self._layer_delta(index, model, state, one, part), part) for one, part in parts]
            if all(found is None for found, _ in deltas):
                return None
            delta = torch.cat([torch.zeros_like(part) if found is None else found for found, part in deltas])
        return None if delta is None else self.family.from_frames(delta, hidden, call.grid)

    def _layer_delta(self, index: int, model: Any, state: RunState, call: CallState, frames: Tensor) -> Tensor | None:
        """[B, T, P, dim], for rows that are all of the same frames of the clip."""
        layer = self._layers(model, state, call, frames)[index]
        if layer is None:
            return None
        delta = layer(frames)
        if call.strength != 1.0:
            delta = delta * call.strength
        if self.control.mask is not None:
            delta = delta * self._mask(state, call, frames)
        return delta

    def _mask(self, state: RunState, call: CallState, frames: Tensor) -> Tensor:
        """[T, P, 1], or [B, T, P, 1] where the rows do not all see the same part of the picture."""
        places = [chunk.place for chunk in call.chunks]
        made_for = (tuple(places), call.frames, call.grid, frames.shape, frames.device, frames.dtype)
        if made_for not in state.masks:
            made = {place: self.control.mask_for(call.frames[0], call.grid, frames, place) for place in set(places)}
            mask = made[places[0]]
            if len(made) > 1:
                rows = frames.shape[0] // len(places)
                mask = torch.cat([made[place].expand(rows, -1, -1, -1) for place in places])
            state.masks[made_for] = mask
        return state.masks[made_for]

    def _layers(self, model: Any, state: RunState, call: CallState, frames: Tensor) -> list[FramesLayer | None]:
        """The layers with the action folded in, None where they add nothing; made at their first use in a run.

        Only those for the current window are kept: there are many windows, and folding again is cheap beside one pass.
        """
        begins = tuple(chunk.place.start[0] if chunk.place else 0 for chunk in call.chunks)
        called_as = (call.roles, begins, frames.shape[0], frames.device, frames.dtype)
        made_for, layers = state.layers.get(called_as, (None, None))
        if made_for != call.frames[0]:
            layers = self._fold(model, call, frames)
            state.layers[called_as] = call.frames[0], layers
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
        clip = call.frames[0]
        timing = self.control.timing(self.family, call.model_fps, call.grid, clip.total)
        contexts = {role: self.action.context(role, clip.total, clip.at, timing) for role in call.roles}
        batch = max(context.tokens.shape[0] for context in contexts.values())
        clips, rest = divmod(rows, len(call.roles))
        if rest:
            raise EchoReelError(
                f"Another node runs the model on {rows} samples at once and calls them {len(call.roles)} "
                "conditionings: EchoReel cannot tell which belong to which. Let that node run one sample at a time."
            )
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


SCHEDULE_POINTS = 64
"""So finely the model's noise schedule is read; between two points it is taken for a straight line."""


def _schedule(sampling: Any) -> tuple[float, ...]:
    """The sigmas at percents spread evenly from 0 to 1, falling."""
    inner = [float(sampling.percent_to_sigma(i / SCHEDULE_POINTS)) for i in range(1, SCHEDULE_POINTS)]
    return (float(sampling.sigma_max), *inner, 0.0)


def _percent(schedule: tuple[float, ...], sigma: float) -> float:
    """How far down the model's noise schedule a sigma is, from 0 to 1."""
    if sigma >= schedule[0]:
        return 0.0
    for index, (above, below) in enumerate(pairwise(schedule)):
        if sigma >= below:
            share = (above - sigma) / (above - below) if above > below else 0.0
            return (index + min(max(share, 0.0), 1.0)) / (len(schedule) - 1)
    return 1.0


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
