"""Several GPUs, partly loaded models, other attention functions, and Cancel, as far as a CPU can show them."""

from __future__ import annotations

import comfy.ldm.wan.model
import comfy.model_management
import comfy.model_patcher
import comfy.multigpu
import pytest
import tiny_models
import torch
from calling import call
from conditioning import hooks_in, noise, prompt, sample, untouched
from tiny_families import build

LATENTS = torch.zeros(1, 16, 3, 8, 6)


@pytest.fixture(scope="module")
def model(pack):
    model = tiny_models.wan()
    model.cached_patcher_init = (tiny_models.wan, ())
    return model


@pytest.fixture(scope="module")
def apply(pack, echoreel):
    import adapters
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.sampling.control import Control

    action, control = adapters.random_action(echoreel), Control(mask=noise(2, 8, 6).sigmoid(), step_factors=(1.0, 0.5))
    return lambda model: apply_action(model, echoreel, action, 1.0, 0.0, 0.9, control)


def run(model, **options):
    area = prompt(4096, area=(8, 4, 0, 2), strength=1.0, set_area_to_bounds=False)
    return sample(model, LATENTS, area + prompt(4096, seed=3), prompt(4096, seed=2), **options)


class TestSeveralGPUs:
    """The host gives every device a part of the conditionings, in a thread each."""

    @pytest.fixture(autouse=True)
    def two_devices(self, monkeypatch):
        devices = [torch.device("cpu"), torch.device("cpu:0")]
        monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda **_options: devices)

    @pytest.mark.parametrize("order", ["before", "after"])
    @pytest.mark.parametrize("inference", [False, True])
    def test_as_on_one(self, model, apply, order, inference, monkeypatch):
        threads, clones = set(), comfy.multigpu.create_multigpu_deepclones
        submit = comfy.multigpu.MultiGPUThreadPool.submit
        monkeypatch.setattr(
            comfy.multigpu.MultiGPUThreadPool,
            "submit",
            lambda self, device, *rest: threads.add(device) or submit(self, device, *rest),
        )
        with torch.inference_mode(inference):
            expected = run(apply(model))
            split = clones(apply(model), 2) if order == "before" else apply(clones(model, 2))
            result = run(split)
        assert len(threads) == 2
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)
        everywhere = [model, *split.get_additional_models_with_key("multigpu")]
        assert [hooks_in(each) for each in everywhere] == [0, 0]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_model_that_is_loaded_in_part(model, apply, monkeypatch, share):
    """Weights of model and layers that stay where they are and are patched on their way, as with little memory."""
    weight = "diffusion_model.blocks.0.self_attn.q.weight"
    with_lora = model.clone()
    with_lora.add_patches({weight: ("diff", (noise(128, 128) * 0.05,))}, 0.8)
    expected = run(apply(with_lora))
    load, loaded = comfy.model_patcher.ModelPatcher.load, []

    def load_less(self, *args, lowvram_model_memory=0, full_load=False, **options):
        load(self, *args, lowvram_model_memory=int(share * self.model_size()) + 1, full_load=False, **options)
        loaded.append(self.model)

    comfy.model_management.unload_all_models()
    with monkeypatch.context() as patch:
        patch.setattr(comfy.model_patcher.ModelPatcher, "load", load_less)
        result = run(apply(with_lora))
    assert len(loaded) == 2 and all(each.model_lowvram for each in loaded)
    comfy.model_management.unload_all_models()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["override", "replacement"])
def test_another_attention_function_is_the_models_and_leaves_the_layers_alone(model, apply, monkeypatch, way):
    """As packs for sage or flash attention put it in, for a model or for all."""
    original = comfy.ldm.wan.model.optimized_attention
    asked, factor = [], 1.0

    def attention(*args, **kwargs):
        asked.append(1)
        return original(*args, **kwargs) * factor

    def outcome(model):
        asked.clear()
        if way == "replacement":
            monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention)
        else:
            model = model.clone()
            options = model.model_options["transformer_options"]
            options["optimized_attention_override"] = lambda _function, *args, **kwargs: attention(*args, **kwargs)
        return run(model, steps=1), len(asked)

    plain, expected = run(model, steps=1), run(apply(model), steps=1)
    (_, without), (result, calls) = outcome(model), outcome(apply(model))
    assert calls == without > 0
    assert torch.equal(result, expected)
    factor = 0.5
    change = outcome(apply(model))[0] - outcome(model)[0]
    assert change.norm() > 0.5 * (expected - plain).norm()


class TestCancel:
    """The host looks for it between the steps, and many packs inside of them."""

    @pytest.mark.parametrize("case", ["wan t2v", "wan camera", "ltxv", "mochi"])
    def test_in_the_middle_of_a_block(self, pack, case, tmp_path):
        import adapters
        from echoreel_pack.echoreel_core.action import compiled
        from echoreel_pack.nodes.apply_echoreel import apply_action
        from echoreel_pack.nodes.families import find_family

        tiny = build(case)
        if tiny is None:
            pytest.skip("not in this ComfyUI")
        unet = tiny.model.model.diffusion_model
        sites = find_family(unet).sites(unet)
        echoreel = adapters.adapter_for(tmp_path / "adapter.safetensors", tiny, sites)
        model = tiny.model
        for seed in (7, 30):
            model = apply_action(model, echoreel, adapters.random_action(echoreel, seed=seed), 1.0)
        plain, expected = call(tiny), call(tiny, model)
        last = sites[-1].block
        inside = [module for module in last.modules() if module is not last and not list(module.children())][-1]

        def cancelled(*_args):
            comfy.model_management.interrupt_current_processing(True)
            comfy.model_management.throw_exception_if_processing_interrupted()

        kinds = [type(module) for module in unet.modules()]
        with untouched(tiny.model):
            handle = inside.register_forward_hook(cancelled)
            try:
                with pytest.raises(comfy.model_management.InterruptProcessingException):
                    call(tiny, model)
            finally:
                handle.remove()
        assert hooks_in(tiny.model) == 0 and not compiled._running
        assert [type(module) for module in unet.modules()] == kinds
        assert not [name for module in unet.modules() for name in module.__dict__ if "echoreel" in name]
        assert torch.equal(call(tiny), plain) and torch.equal(call(tiny, model), expected)
