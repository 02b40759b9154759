"""Random graphs of patches around Apply EchoReel, each with the plain reference that it must agree with."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.context_windows
import comfy.sample
import torch
from by_hand import Applied, ByHand
from conditioning import noise, prompt
from cutting import cut, one_by_one, reordered, shortened, tiles_apart, tiles_at_once

BLOCKS = {
    "all": (1.0,),
    "early": (1.0, 1.0, 0.0, 0.0),
    "late": (0.0, 0.0, 1.0, 1.0),
    "1, 0.5": (1.0, 0.5),
    "0, 1": (0.0, 1.0),
    "-0.5, 0.3, 1.2": (-0.5, 0.3, 1.2),
}
STEPS = {
    "constant": (1.0,),
    "fading out": (1.0, 0.0),
    "strong start": (1.5, 1.0, 1.0, 1.0),
    "0.2, 1.3, 0.4": (0.2, 1.3, 0.4),
}
SAMPLERS = ("euler", "heun", "dpmpp_2m", "lcm")


@dataclass(frozen=True)
class Base:
    """A model with its adapters and how it is run.

    Attributes:
        weight: one that a LoRA changes.
        sizes: (frames, height, width) of latents to choose from.
    """

    name: str
    model: Any
    adapters: list[Any]
    channels: int
    text_width: int
    weight: str
    sizes: list[tuple[int, int, int]]
    fps: float
    frames_per_latent: int
    forward: Callable
    frames_axis: int
    blocks: list[str]

    def latents(self, frames: int, height: int, width: int, batch: int) -> torch.Tensor:
        if self.frames_axis == 0:
            return torch.zeros(frames, self.channels, height, width)
        return torch.zeros(batch, self.channels, frames, height, width)


@dataclass
class Graph:
    """One draw.

    Attributes:
        nodes: (name, patch of the model under test, patch of the reference or None), in the order of the graph.
        run: how both are sampled.
        inference: whether it all runs in inference mode, as a server runs its graphs.
        compiled: whether a node compiles the model.
    """

    base: Base
    nodes: list[tuple[str, Callable, Callable | None]] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    patches: dict[str, float] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    tiles: int = 1
    inference: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        applies = iter(self.applied)
        lines = [self.base.name + (", in inference mode" if self.inference else "")]
        for name, _, _ in self.nodes:
            lines.append(f"  {name} {_short(next(applies).inputs) if name == 'apply' else ''}")
        return "\n".join([*lines, f"  sampled: {_short(self.run)}"])

    def results(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(what comes out, what it is by hand)."""
        ours = plain = self.base.model
        for _, patch, reference in self.nodes:
            ours = patch(ours)
            plain = plain if reference is None else reference(plain)
        frames, axis = self.run["latents"].shape[self.base.frames_axis], self.base.frames_axis
        by_hand = ByHand(self.base.forward, self.applied, frames, axis, self.patches, self.tiles)
        with torch.inference_mode(self.inference), torch.no_grad():
            return tuple(_sample(model, **self.run) for model in (ours, by_hand.patch(plain)))


def _short(value: Any) -> Any:
    """The value with shapes in place of tensors."""
    if torch.is_tensor(value):
        return list(value.shape)
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list) else value


def _sample(model: Any, latents: torch.Tensor, positive: list, negative: list, seed: int, **run: Any) -> torch.Tensor:
    start = comfy.sample.prepare_noise(latents, seed)
    options = {"disable_pbar": True, "seed": seed, "denoise": run["denoise"]}
    order = (run["steps"], run["cfg"], run["sampler"], run["scheduler"], positive, negative, latents)
    return comfy.sample.sample(model, start, *order, **options)


class Draw:
    """Draws a graph with a seed: the same seed, the same graph."""

    def __init__(self, base: Base, seed: int, compiled: str | None = None) -> None:
        self.random, self.base, self.seed, self.compiled = random.Random(seed), base, seed, compiled
        self.frames, self.height, self.width = self.random.choice(base.sizes)
        self.windowed = self.frames > 4 and self.random.random() < 0.5
        single = self.windowed or base.frames_axis == 0 or self.random.random() < 0.7  # the host windows no batches
        self.batch = 1 if single else 2
        self.way = self.random.choice(["wrapper", "blocks", "object"])
        self.counter = itertools.count(100 * seed)

    def graph(self) -> Graph:
        graph = Graph(self.base, inference=self.random.random() < 0.5, compiled=self.compiled is not None)
        kinds = [self._apply] * (2 if graph.compiled else self.random.choice([1, 2]))
        kinds += [kind for kind in (self._lora, self._cut, self._own_patch) if self.random.random() < 0.35]
        if graph.compiled and self.way == "object" and self._lora in kinds:
            kinds.remove(self._lora)  # the host itself loses a LoRA on modules that are compiled so
        kinds += [self._windows] * self.windowed + [self._compile] * graph.compiled
        self.random.shuffle(kinds)
        for kind in kinds:
            kind(graph)
        graph.run = {
            "latents": self.base.latents(self.frames, self.height, self.width, self.batch),
            "positive": self._prompts(self.random.choice([1, 1, 2])),
            "negative": self._prompts(self.random.choice([1, 1, 1, 2])),
            "cfg": self.random.choice([1.0, 2.5]),
            "steps": self.random.choice([2, 2, 3]),
            "sampler": self.random.choice(SAMPLERS),
            "scheduler": self.random.choice(["simple", "karras", "beta"]),
            "denoise": self.random.choice([1.0, 1.0, 0.6]),
            "seed": self.seed,
        }
        return graph

    def _fresh(self) -> int:
        return next(self.counter)

    def _prompts(self, count: int) -> list:
        found = []
        for index in range(count):
            options: dict[str, Any] = {}
            if self.random.random() < 0.35:
                options = {"area": self._area(), "strength": self.random.choice([1.0, 0.7])}
                options["set_area_to_bounds"] = False
            elif index and self.random.random() < 0.3:
                options = {"start_percent": self.random.choice([0.0, 0.4]), "end_percent": 0.8}
            found += prompt(self.base.text_width, self.random.choice([4, 4, 6]), seed=self._fresh(), **options)
        return found

    def _area(self) -> list[int]:
        """Halves of the picture, of the time, or all of it; with windows, whose frames the host counts, of theirs."""
        height, width = (self.random.choice([full, full // 2]) for full in (self.height, self.width))
        top, left = (self.random.choice([0, f - n]) for f, n in ((self.height, height), (self.width, width)))
        if self.base.frames_axis == 0 or self.random.random() < 0.4:
            return [height, width, top, left]
        if self.windowed:
            return [2, height, width, self.random.choice([0, 1]), top, left]
        frames = self.random.choice([self.frames, self.frames - 1, 2])
        return [frames, height, width, self.random.randint(0, self.frames - frames), top, left]

    # nodes

    def _apply(self, graph: Graph) -> None:
        from echoreel_pack.nodes.apply_echoreel import ApplyEchoReel

        echoreel = self.random.choice(self.base.adapters)
        action, parts = self._action(echoreel)
        blocks, steps = self.random.choice(list(BLOCKS)), self.random.choice(["constant", *STEPS])
        inputs = {
            "strength": self.random.choice([1.0, 1.0, 1.0, 0.5, 0.5, 1.7, 1.7, -0.6, -0.6, 0.0]),
            "start_percent": self.random.choice([0.0, 0.0, 0.3]),
            "end_percent": self.random.choice([1.0, 1.0, 0.7]),
            **_choice("blocks", blocks, BLOCKS),
            **_choice("steps", steps, STEPS),
            **self._timing(len(parts) > 1),
        }
        if self.random.random() < 0.4:
            scale = self.random.choice([1, 4])
            count = self.random.choice([1, 2, self.frames])
            inputs["mask"] = noise(count, self.height * scale, self.width * scale, seed=self._fresh()).sigmoid()
        patch = self._node(ApplyEchoReel, echoreel, action, inputs)
        graph.nodes.append(("apply", patch, None))
        facts = BLOCKS[blocks], STEPS[steps], self.base.fps, self.base.frames_per_latent
        graph.applied.append(Applied(echoreel, parts, inputs, *facts))

    @staticmethod
    def _node(node: Any, echoreel: Any, action: Any, inputs: dict[str, Any]) -> Callable:
        return lambda model: node.execute(model, echoreel, action, **inputs).result[0]

    def _timing(self, several: bool) -> dict[str, Any]:
        """Spans and paces in seconds of a clip; of several actions in a row only a long span, which each plays in."""
        rate, inputs = self.base.fps / self.base.frames_per_latent, {}
        if self.random.random() < 0.3:
            inputs |= {"clip_start_second": 3 / rate, "clip_seconds": self.random.choice([8, 12.5]) / rate}
        if several:
            return inputs
        if self.random.random() < 0.3:
            inputs |= {"start_second": self.random.choice([0.0, 0.4, 1.3]) / rate}
            inputs |= {"end_second": self.random.choice([0.0, 3.2, 5.0]) / rate}
        if self.random.random() < 0.3:
            inputs |= {
                "timing": "at its own pace",
                "reference_fps": self.random.choice([0.0, rate, 2.5 * self.base.fps]),
            }
        if self.random.random() < 0.2:
            inputs["fps"] = self.base.fps * 1.5
        return inputs

    def _action(self, echoreel: Any) -> tuple[Any, list]:
        """An action of one reference or several, and its groups for the reference."""
        from adapters import random_action
        from echoreel_pack.echoreel_core.action.combine import combine

        batch = self.random.choice([1, self.batch])
        how = self.random.choice(["", "", "attend to all", "blend", "one after another"])
        count = 2 if how else 1
        keys = [self.random.choice([2, 4, 5, 40]) for _ in range(count)]
        weights = [1.0, self.random.choice([1.0, 0.5])][:count]
        actions = [random_action(echoreel, size, self._fresh() * 10, batch) for size in keys]
        if not how:
            return actions[0], [(_tokens(actions), [(keys[0], 1.0)], 1.0, (0.0, 1.0))]
        made = combine(actions, how, weights)
        if how == "attend to all":
            return made, [(_tokens(actions), list(zip(keys, weights, strict=True)), 1.0, (0.0, 1.0))]
        shares = [weight / sum(weights) for weight in weights]
        places = [(0.0, 1.0)] * 2 if how == "blend" else [(0.0, shares[0]), (shares[0], 1.0)]
        sizes = shares if how == "blend" else [1.0, 1.0]
        each = zip(actions, keys, sizes, places, strict=True)
        return made, [(_tokens([action]), [(size, 1.0)], share, place) for action, size, share, place in each]

    def _lora(self, graph: Graph) -> None:
        shape = self.base.model.model.state_dict()[self.base.weight].shape
        seed = self._fresh()
        change = noise(shape[0], 4, seed=seed) @ noise(4, shape[1], seed=seed + 1) * 0.05

        def patch(model: Any) -> Any:
            model = model.clone()
            assert model.add_patches({self.base.weight: ("diff", (change,))}, 0.8)
            return model

        graph.nodes.append(("lora", patch, patch))

    def _windows(self, graph: Graph) -> None:
        from comfy_extras.nodes_context_windows import ContextWindowsManualNode as Node

        anchor, length = self.random.random() < 0.5, self.random.choice([3, 4])
        schedule = self.random.choice(
            [
                comfy.context_windows.ContextSchedules.STATIC_STANDARD,
                comfy.context_windows.ContextSchedules.UNIFORM_LOOPED,
            ]
        )
        fuse = self.random.choice([comfy.context_windows.ContextFuseMethods.PYRAMID, "flat"])
        loop = schedule == comfy.context_windows.ContextSchedules.UNIFORM_LOOPED
        order = (length, 1, schedule, 1, loop, fuse, self.base.frames_axis, False)

        def patch(model: Any) -> Any:
            return Node.execute(model, *order, causal_window_fix=anchor).result[0]

        graph.nodes.append((f"windows of {length}, {schedule}, {fuse}, anchor {anchor}", patch, patch))

    def _cut(self, graph: Graph) -> None:
        """Another pack that hands on the batch in parts of its own."""
        way = self.random.choice([shortened, reordered, one_by_one] + [tiles_apart, tiles_at_once] * (self.width == 8))
        if way in (tiles_apart, tiles_at_once):
            graph.tiles = 2
        graph.nodes.append((way.__name__, lambda model: cut(model, way), None))

    def _own_patch(self, graph: Graph) -> None:
        """A node that changes the schedule, a hidden state inside a block, or a whole block."""
        if self.base.frames_axis == 0:
            return
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        kind = self.random.choice(["shift", "after text", "first block"])
        if kind == "shift":
            graph.nodes.append((kind, *[lambda model: ModelSamplingSD3().patch(model, 3.0)[0]] * 2))
            return
        graph.patches[kind] = 1.1

        def patch(model: Any) -> Any:
            model = model.clone()
            if kind == "after text":
                model.set_model_attn2_patch(lambda args: args["x"] * 1.1)
            else:
                replace = lambda args, extra: {"img": extra["original_block"](args)["img"] * 1.1}  # noqa: E731
                model.set_model_patch_replace(replace, "dit", "double_block", 0)
            return model

        graph.nodes.append((kind, patch, None))

    def _compile(self, graph: Graph) -> None:
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        way, backend = self.way, self.compiled

        def patch(model: Any) -> Any:
            model = model.clone()
            if way == "wrapper":
                set_torch_compile_wrapper(model, backend)
            elif way == "blocks":
                set_torch_compile_wrapper(model, backend, keys=self.base.blocks)
            else:
                for name in self.base.blocks:
                    model.add_object_patch(name, torch.compile(model.get_model_object(name), backend=backend))
            return model

        graph.nodes.append((f"compile, {way}, {backend}", patch, None))


def _choice(name: str, chosen: str, curves: dict[str, tuple[float, ...]]) -> dict[str, str]:
    """The node's inputs for a curve: a preset's name, or "custom" and numbers."""
    singular = {"blocks": "block_strengths", "steps": "step_strengths"}[name]
    return {name: "custom", singular: chosen} if "," in chosen else {name: chosen}


def _tokens(actions: list) -> dict[str, torch.Tensor]:
    references = [action.references[0] for action in actions]
    return {role: torch.cat([getattr(r, role) for r in references], 1) for role in ("positive", "negative")}
