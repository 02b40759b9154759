"""Apply EchoReel on models that torch.compile compiles: right in every order, in a bounded number of graphs."""

from __future__ import annotations

from collections.abc import Callable

import comfy.ldm.wan.model
import pytest
import tiny_models
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from conditioning import prompt, sample

LATENTS = torch.zeros(1, 16, 3, 8, 6)
BLOCKS = 2


class CountingBackend:
    """A backend that hands every graph on to another one, and counts them."""

    def __init__(self, name: str) -> None:
        self.compile = torch._dynamo.lookup_backend(name)
        self.graphs = 0

    def __call__(self, graph, inputs, **_options):
        self.graphs += 1
        return self.compile(graph, inputs)


@pytest.fixture(scope="module")
def models(pack, tmp_path_factory):
    """(MODEL, adapter) by number of blocks: one is enough where the whole model is a graph, and quicker to compile."""
    import adapters

    folder = tmp_path_factory.mktemp("adapters")
    return {
        blocks: (tiny_models.wan(layers=blocks), adapters.wan_adapter(folder / f"{blocks}.safetensors", sites=blocks))
        for blocks in (1, BLOCKS)
    }


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    """The host's attention for CPUs breaks graphs: here it is the one that GPUs have."""
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def host_node(model, backend):
    """As the host's TorchCompileModel does it, guards on transformer_options left out."""
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    model = model.clone()
    set_torch_compile_wrapper(model, backend, options={"guard_filter_fn": skip_torch_compile_dict})
    return model


def host_blocks(model, backend):
    """As other packs do it by the host's function, block by block."""
    model = model.clone()
    set_torch_compile_wrapper(model, backend, keys=[f"diffusion_model.blocks.{i}" for i in range(BLOCKS)])
    return model


def patched_blocks(model, backend):
    """As other packs do it by object patches."""
    model = model.clone()
    for i in range(BLOCKS):
        name = f"diffusion_model.blocks.{i}"
        model.add_object_patch(name, torch.compile(model.get_model_object(name), backend=backend))
    return model


def patched_whole(model, backend):
    model = model.clone()
    model.add_object_patch("diffusion_model", torch.compile(model.get_model_object("diffusion_model"), backend=backend))
    return model


WAYS = [host_node, host_blocks, patched_blocks, patched_whole]
"""Ways in which a model is compiled."""


class Runs:
    """Runs of the compiled model, each held against the same run of the model that is not compiled."""

    def __init__(self, model, echoreel, compiled: Callable, backend: CountingBackend, compile_last: bool) -> None:
        import adapters

        self.model, self.echoreel, self.backend = model, echoreel, backend
        self.actions = [adapters.random_action(echoreel, seed=seed) for seed in (7, 30)]
        self.compile_last = compile_last
        if compile_last:
            self.compile = lambda model: compiled(model, backend)
        else:
            shared = compiled(model, backend)
            self.compile = lambda model: shared

    def plain(self, **options) -> None:
        self._compare(lambda model: model, **options)

    def acting(self, action=0, strength=1.0, start=0.0, end=1.0, control=None, **options) -> None:
        from echoreel_pack.nodes.apply_echoreel import apply_action

        self._compare(
            lambda model: apply_action(model, self.echoreel, self.actions[action], strength, start, end, control),
            **options,
        )

    def twice(self, **options) -> None:
        from echoreel_pack.nodes.apply_echoreel import apply_action

        def both(model):
            for action in self.actions:
                model = apply_action(model, self.echoreel, action, 0.7)
            return model

        self._compare(both, **options)

    def _compare(self, patch: Callable, latents=LATENTS, cfg=1.0, steps=2) -> None:
        options = {"cfg": cfg, "steps": steps}
        prompts = prompt(4096), prompt(4096, seed=2)
        expected = sample(patch(self.model), latents, *prompts, **options)
        compiled = self.compile(patch(self.model)) if self.compile_last else patch(self.compile(self.model))
        result = sample(compiled, latents, *prompts, **options)
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


def in_turn(runs: Runs, order: str) -> None:
    from echoreel_pack.nodes.sampling.control import Control

    steps = {
        "plain": runs.plain,
        "plain guided": lambda: runs.plain(cfg=3.0),
        "action": runs.acting,
        "another": lambda: runs.acting(action=1),
        "stronger": lambda: runs.acting(strength=1.7),
        "half": lambda: runs.acting(start=0.0, end=0.6, steps=3),
        "late": lambda: runs.acting(start=0.5, end=1.0, steps=3),
        "fading": lambda: runs.acting(control=Control(step_factors=(1.0, 0.0)), steps=3),
        "masked": lambda: runs.acting(control=Control(mask=torch.eye(8)[None])),
        "twice": runs.twice,
        "guided": lambda: runs.acting(cfg=3.0),
        "some blocks": lambda: runs.acting(control=Control(block_factors=(1.0, 0.0))),
    }
    for name in order.split(", "):
        steps[name]()


def blocks_for(way: Callable) -> int:
    return 1 if way in (host_node, patched_whole) else BLOCKS


@pytest.mark.heavy
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_one_more_set_of_graphs_whatever_the_action(models, way):
    backend = CountingBackend("eager")
    runs = Runs(*models[blocks_for(way)], way, backend, compile_last=False)
    in_turn(runs, "plain, plain guided")
    without = backend.graphs
    in_turn(runs, "action, guided")
    acting = backend.graphs - without
    in_turn(runs, "another, stronger, masked, plain, twice, guided, action, plain")
    assert backend.graphs == without + acting
    assert acting <= 2 * without


@pytest.mark.heavy
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_half_of_the_steps_first(models, way):
    runs = Runs(*models[BLOCKS], way, CountingBackend("eager"), compile_last=False)
    in_turn(runs, "half, plain, twice, some blocks, late, fading")


@pytest.mark.heavy
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_compiled_last(models, way):
    runs = Runs(*models[blocks_for(way)], way, CountingBackend("eager"), compile_last=True)
    in_turn(runs, "plain, action, half, twice, plain")


@pytest.mark.heavy
@pytest.mark.parametrize("way", [host_node, patched_blocks], ids=lambda way: way.__name__)
def test_inductor(models, way):
    runs = Runs(*models[blocks_for(way)], way, CountingBackend("inductor"), compile_last=False)
    in_turn(runs, "plain, action, half, another, plain")
