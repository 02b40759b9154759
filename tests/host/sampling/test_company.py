"""Apply EchoReel among other nodes of a graph, one situation each; random graphs are in test_order.py."""

from __future__ import annotations

import copy

import comfy.hooks
import comfy.samplers
import pytest
import torch
from conditioning import noise, prompt, sample

FRAMES, HEIGHT, WIDTH = 3, 8, 6
LATENTS = torch.zeros(1, 16, FRAMES, HEIGHT, WIDTH)
QUERY = "diffusion_model.blocks.0.self_attn.q.weight"


@pytest.fixture(scope="module")
def apply(pack, echoreel, action):
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.sampling.control import Control

    def apply(model, **control):
        return apply_action(model, echoreel, action, 1.0, control=Control(**control))

    return apply


def run(model, positive=None, negative=None, latents=LATENTS, **options):
    prompts = positive or prompt(4096), negative or prompt(4096, seed=2)
    return sample(model, latents, *prompts, **{"steps": 1, **options})


def close(result, expected):
    assert (result - expected).norm() < 1e-5 * expected.norm()


def with_lora(model, strength=1.0):
    model = model.clone()
    model.add_patches({QUERY: ("diff", (noise(128, 128) * 0.05,))}, strength)
    return model


def test_models_are_merged_before_or_after(model, apply):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    other = with_lora(model, 3.0)
    merge = lambda model: ModelMergeSimple().merge(model, other, 0.4)[0]  # noqa: E731
    after = run(merge(apply(model)))
    assert torch.equal(after, run(apply(merge(model))))
    assert not torch.equal(after, run(apply(model))) and not torch.equal(after, run(merge(model)))


def test_a_lora_on_one_prompt_only(model, apply):
    """The host runs prompts with hooks of their own apart, with other weights each."""
    group = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook(strength_model=1.0)
    hook.weights = {QUERY: ("diff", (noise(128, 128) * 0.05,))}
    hook.need_weight_init = False
    group.add(hook)
    patched = apply(model)
    patched.register_all_hook_patches(group, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model))
    together = run(patched, prompt(4096, hooks=group), cfg=2.0)
    positive, negative = run(apply(with_lora(model)), cfg=1.0), run(apply(model), cfg=0.0)
    close(together, negative + 2.0 * (positive - negative))


def test_a_pack_that_copies_all_options_at_every_step(model, apply, monkeypatch):
    from echoreel_pack.echoreel_core.action.attention import ActionAttention

    def deeply(args):
        options = copy.deepcopy(args["model_options"])
        return comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], options)

    folds, fold = [], ActionAttention.fold
    monkeypatch.setattr(ActionAttention, "fold", lambda self, *args: folds.append(1) or fold(self, *args))
    patched = apply(model, mask=noise(2, HEIGHT, WIDTH).sigmoid(), step_factors=(1.0, 0.5))
    expected, once = run(patched, steps=2), folds.copy()
    folds.clear()
    patched.model_options["sampler_calc_cond_batch_function"] = deeply
    assert torch.equal(run(patched, steps=2), expected)
    assert folds == once, "made ready once in a run"


def test_the_last_part_of_a_split_schedule(model, apply, monkeypatch):
    """However small it is, and with the little noise of image to image."""
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    strengths, delta = [], ActionPatch._delta

    def spy(self, index, model, state, call, hidden):
        strengths.append(call.strength)
        return delta(self, index, model, state, call, hidden)

    monkeypatch.setattr(ActionPatch, "_delta", spy)
    patched = apply(model, step_factors=(1.0, 0.0))
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(prompt(4096), prompt(4096, seed=2))
    guider.set_cfg(1.0)
    for sigmas in ([1.0, 0.9], [0.3, 0.1, 0.0], [0.01, 0.0]):
        sampler = comfy.samplers.sampler_object("euler")
        guider.sample(noise(*LATENTS.shape), LATENTS, sampler, torch.tensor(sigmas), disable_pbar=True)
    by_step = strengths[::2]
    assert len(by_step) == 4 and by_step[0] == 1.0
    assert by_step == sorted(by_step, reverse=True) and 0 < by_step[-1] < 0.02


def test_three_clips_are_each_alone(model, apply):
    patched, start = apply(model, mask=noise(2, HEIGHT, WIDTH).sigmoid()), noise(3, *LATENTS.shape[1:])

    def denoised(start):
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(prompt(4096), prompt(4096, seed=2))
        guider.set_cfg(3.0)
        sigmas = torch.tensor([0.9, 0.0])
        return guider.sample(start, start * 0, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True)

    close(denoised(start), torch.cat([denoised(clip) for clip in start.split(1)]))


def test_guidance_of_attention_with_areas(pack, folders):
    import adapters
    from comfy_extras.nodes_nag import NAGuidance
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.load_echoreel import EMBEDDED, LoadCheckpoint

    model, _, _, echoreel = LoadCheckpoint.execute(EMBEDDED).result
    action = adapters.random_action(echoreel)
    area = prompt(48, area=(8, 8, 0, 0), strength=1.0)
    patched = apply_action(NAGuidance.execute(model, 5.0, 0.5, 1.5).result[0], echoreel, action, 1.0)
    results = [
        sample(patched, torch.zeros(4, 4, 8, 8), positive, prompt(48, seed=2), cfg=1.0, steps=1)
        for positive in (prompt(48), area)
    ]
    close(results[1], results[0])


def test_a_model_that_is_saved(model, apply, tmp_path):
    """The file holds the model alone."""
    import comfy.sd
    import comfy.utils

    for name, each in (("plain", model), ("patched", apply(model))):
        comfy.sd.save_checkpoint(str(tmp_path / f"{name}.safetensors"), each)
    plain, patched = (comfy.utils.load_torch_file(str(tmp_path / f"{n}.safetensors")) for n in ("plain", "patched"))
    assert plain.keys() == patched.keys() and all(torch.equal(plain[key], patched[key]) for key in plain)
