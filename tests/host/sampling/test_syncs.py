"""What the patch reads back from the device while it samples: nothing but what a range or a curve needs."""

from __future__ import annotations

import sys

import comfy.ldm.wan.model
import pytest
import tiny_models
import torch
from comfy.ldm.modules.attention import attention_pytorch
from conditioning import prompt, sample

LATENTS = torch.zeros(1, 16, 3, 8, 6)
READS = ["item", "tolist", "cpu", "nonzero", "__float__", "__bool__", "__int__"]


@pytest.fixture(scope="module")
def patched(pack, tmp_path_factory):
    import adapters
    from echoreel_pack.nodes.apply_echoreel import apply_action

    model = tiny_models.wan()
    echoreel = adapters.wan_adapter(tmp_path_factory.mktemp("adapter") / "wan.safetensors")
    action = adapters.random_action(echoreel)
    return lambda *percents, **options: apply_action(model, echoreel, action, 1.0, *percents, **options)


def reads(monkeypatch, model, steps: int) -> list[str]:
    """Where the pack's own code reads a tensor's values back in a run of so many steps."""
    found = []

    def spying(name):
        read = getattr(torch.Tensor, name)

        def spy(self, *args, **kwargs):
            caller = sys._getframe(1)
            if caller.f_globals.get("__name__", "").startswith("echoreel_pack"):
                found.append(f"{name} in {caller.f_code.co_name}")
            return read(self, *args, **kwargs)

        return spy

    with monkeypatch.context() as patch:
        for name in READS:
            patch.setattr(torch.Tensor, name, spying(name))
        sample(model, LATENTS, prompt(4096), prompt(4096, seed=2), steps=steps)
    return found


def test_none_where_the_action_is_the_same_at_every_step(patched, monkeypatch):
    model = patched()
    once = reads(monkeypatch, model, 2)
    assert len(reads(monkeypatch, model, 6)) == len(once), "steps read nothing; what is made ready once may"


@pytest.mark.parametrize("what", ["range", "curve"])
def test_one_for_each_call_where_it_changes(patched, monkeypatch, what):
    from echoreel_pack.nodes.sampling.control import Control

    model = patched(0.0, 0.999) if what == "range" else patched(control=Control(step_factors=(1.0, 0.5)))
    few, many = (len(reads(monkeypatch, model, steps)) for steps in (2, 6))
    assert many - few == 4


def test_none_in_a_compiled_model_but_of_the_key_which_is_on_the_cpu(patched, monkeypatch):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = patched()
    blocks = [f"diffusion_model.blocks.{i}" for i in range(2)]
    set_torch_compile_wrapper(model, "eager", keys=blocks)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)  # which compiles
    reads(monkeypatch, model, 2)
    once = reads(monkeypatch, model, 2)
    more = reads(monkeypatch, model, 6)
    assert [read for read in more if read not in once] == []
    in_calls = {read for read in more if more.count(read) > once.count(read)}
    assert in_calls == {"__int__ in _run"} and more.count("__int__ in _run") == 3 * once.count("__int__ in _run")
    torch._dynamo.reset()
