"""Apply EchoReel on a host model that is nothing like the released one."""

from dataclasses import replace

import comfy.model_management
import pytest
import tiny_models
import torch
from conditioning import hooks_in, noise, prompt, sample, untouched

LATENTS = torch.zeros(1, 16, 3, 8, 6)


@pytest.fixture(scope="module")
def adapters(pack):
    import adapters

    return adapters


@pytest.fixture(scope="module")
def apply_action(pack):
    from echoreel_pack.nodes.apply_echoreel import apply_action

    return apply_action


def run(model, **options):
    return sample(model, LATENTS, prompt(4096), prompt(4096, seed=2), **options)


@pytest.fixture(scope="module")
def plain(model):
    return run(model)


def test_changes_the_output_and_leaves_the_model_as_it_was(model, echoreel, action, apply_action, plain):
    with untouched(model):
        patched = apply_action(model, echoreel, action, 1.0)
        result = run(patched)
    assert not torch.equal(result, plain)
    assert torch.isfinite(result).all()
    assert torch.equal(run(model), plain)


def test_a_pass_of_the_model_calls_each_layer_once(model, echoreel, action, apply_action, monkeypatch):
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    calls = []
    delta = ActionPatch._delta
    monkeypatch.setattr(
        ActionPatch, "_delta", lambda self, index, *args: calls.append(index) or delta(self, index, *args)
    )
    run(apply_action(model, echoreel, action, 1.0), steps=3, cfg=1.0)
    assert calls == [0, 1] * 3


def test_strength_zero_is_bit_identical(model, echoreel, action, apply_action, plain):
    assert torch.equal(run(apply_action(model, echoreel, action, 0.0)), plain)


def test_a_fresh_adapter_is_bit_identical(model, adapters, apply_action, plain, tmp_path):
    fresh = adapters.wan_adapter(tmp_path / "fresh.safetensors", fresh=True)
    assert torch.equal(run(apply_action(model, fresh, adapters.random_action(fresh), 1.0)), plain)


def test_outside_its_range_the_model_runs_untouched(model, echoreel, action, apply_action, plain):
    assert torch.equal(run(apply_action(model, echoreel, action, 1.0, 0.99999, 1.0)), plain)
    early = run(apply_action(model, echoreel, action, 1.0, 0.0, 0.4))
    late = run(apply_action(model, echoreel, action, 1.0, 0.4, 1.0))
    always = run(apply_action(model, echoreel, action, 1.0))
    assert not torch.equal(early, plain) and not torch.equal(late, plain)
    assert not torch.equal(early, always) and not torch.equal(late, always)


def test_applying_again_to_the_same_model_does_not_pile_up(model, echoreel, action, apply_action):
    first = run(apply_action(model, echoreel, action, 1.0))
    second = run(apply_action(model, echoreel, action, 1.0))
    assert torch.equal(first, second)


def test_two_in_a_row_add_up(model, echoreel, action, adapters, apply_action):
    once = apply_action(model, echoreel, action, 1.0)
    other = adapters.random_action(echoreel, seed=20)
    with untouched(once):
        twice = apply_action(once, echoreel, other, 1.0)
        result = run(twice)
    assert not torch.equal(result, run(once))
    assert not torch.equal(result, run(apply_action(model, echoreel, other, 1.0)))
    # both at half strength of the same action are one at full strength, but for what the first changes for the second
    halves = apply_action(apply_action(model, echoreel, action, 1e-3), echoreel, action, 1e-3)
    whole = apply_action(model, echoreel, action, 2e-3)
    base, halves, whole = run(model), run(halves), run(whole)
    assert (halves - whole).norm() < 0.01 * (whole - base).norm()


def test_the_place_is_the_hosts_own(model, echoreel, action, apply_action):
    """The same numbers as the host's native hook, which sits after the text attention, before the feed-forward."""
    from echoreel_pack.nodes.families.base import TokenGrid, sequence_to_frames

    grid = TokenGrid(3, (4, 3))
    native = model.clone()
    roles = {1: "negative", 0: "positive"}

    def patch(args):
        x, options = args["x"], args["transformer_options"]
        attention = echoreel.attentions.model[options["block_index"]]
        deltas = [
            attention(chunk, action.context(roles[index], 3))
            for chunk, index in zip(
                sequence_to_frames(x, grid).chunk(len(options["cond_or_uncond"])),
                options["cond_or_uncond"],
                strict=True,
            )
        ]
        return x + torch.cat(deltas).flatten(1, 2)

    native.set_model_patch(patch, "attn2_patch")
    ours, theirs, base = run(apply_action(model, echoreel, action, 1.0)), run(native), run(model)
    assert (ours - theirs).norm() < 1e-4 * (theirs - base).norm()


def test_negative_prompt_takes_its_own_action(model, echoreel, action, adapters, apply_action):
    """Roles follow the conditioning, not its place in the batch: the two halves of an action are not exchangeable."""
    reference = action.references[0]
    swapped = replace(action, groups=((replace(reference, positive=reference.negative, negative=reference.positive),),))
    positive_only = replace(action, groups=((replace(reference, negative=reference.positive),),))
    results = [run(apply_action(model, echoreel, a, 1.0)) for a in (action, swapped, positive_only)]
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    # without guidance only the positive half is used
    alone = [run(apply_action(model, echoreel, a, 1.0), cfg=1.0) for a in (action, positive_only)]
    assert torch.equal(*alone)


def test_prompts_of_different_lengths_give_the_same_as_one_batch(model, echoreel, action, apply_action):
    """The host runs unlike prompts in separate calls; each still gets its own action."""
    patched = apply_action(model, echoreel, action, 1.0)
    positive, negative = prompt(4096), prompt(4096, seed=2)
    longer = [[torch.cat((negative[0][0], negative[0][0]), dim=1), {}]]  # the same text twice attends to the same
    batched = sample(patched, LATENTS, positive, negative)
    apart = sample(patched, LATENTS, positive, longer)
    assert torch.allclose(batched, apart, atol=1e-4)


def test_a_batch_of_latents_is_each_alone(model, echoreel, action, apply_action):
    patched = apply_action(model, echoreel, action, 1.0)
    latents = noise(2, 16, 3, 8, 6)
    options = {"positive": prompt(4096), "negative": prompt(4096, seed=2)}
    sigma = torch.tensor([0.7])

    def predict(x):
        from comfy.samplers import CFGGuider

        guider = CFGGuider(patched)
        guider.set_conds(**options)
        guider.set_cfg(3.0)
        import comfy.samplers

        return guider.sample(
            torch.zeros_like(x),
            x,
            comfy.samplers.sampler_object("euler"),
            torch.cat((sigma, sigma * 0)),
            disable_pbar=True,
        )

    with torch.backends.mkldnn.flags(enabled=False):  # on some processors it adds up otherwise for another batch
        together = predict(latents)
        for i in range(2):
            assert torch.allclose(together[i : i + 1], predict(latents[i : i + 1]), atol=1e-5)


@pytest.mark.parametrize("error", [RuntimeError("broken"), comfy.model_management.InterruptProcessingException()])
def test_nothing_is_left_after_an_error_or_an_interrupt(model, echoreel, action, apply_action, plain, error):
    patched = apply_action(model, echoreel, action, 1.0)
    calls = []

    def breaks(module, args):
        calls.append(1)
        if len(calls) == 2:
            raise error

    with untouched(model):
        handle = model.model.diffusion_model.blocks[1].ffn.register_forward_pre_hook(breaks)
        try:
            with pytest.raises(type(error)):
                run(patched)
        finally:
            handle.remove()
    assert hooks_in(model) == 0
    assert torch.equal(run(model), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_action_fits_its_adapter_however_that_was_saved(
    model, adapters, echoreel, action, apply_action, tmp_path, dtype
):
    from echoreel_pack.echoreel_core.action.adapter import EchoReelAdapter
    from echoreel_pack.nodes.models.adapter import adapter_weights, load_adapter

    adapter = EchoReelAdapter(echoreel.config)
    adapter.load_state_dict(adapter_weights(echoreel))
    adapter.to(dtype).save(tmp_path / "saved.safetensors")
    saved = load_adapter(str(tmp_path / "saved.safetensors"))
    assert saved.id == echoreel.id
    assert not torch.equal(run(apply_action(model, saved, action, 1.0)), run(model))


def test_an_action_that_was_saved_before_still_fits(model, echoreel, action, apply_action):
    """It holds the adapter's former name."""
    before = replace(action, adapter_id=echoreel.former_id)
    assert torch.equal(run(apply_action(model, echoreel, before, 1.0)), run(apply_action(model, echoreel, action, 1.0)))


def test_image_to_video(adapters, apply_action, tmp_path):
    model = tiny_models.wan("i2v", in_channels=36)
    echoreel = adapters.wan_adapter(tmp_path / "wan.safetensors")
    action = adapters.random_action(echoreel)
    image = {"concat_latent_image": noise(1, 16, 3, 8, 6), "concat_mask": torch.ones(1, 1, 3, 8, 6)}

    def run(model):
        return sample(model, LATENTS, prompt(4096, **image), prompt(4096, seed=2, **image))

    plain = run(model)
    with untouched(model):
        assert not torch.equal(run(apply_action(model, echoreel, action, 1.0)), plain)
    assert torch.equal(run(model), plain)


def test_half_precision_model(adapters, echoreel, action, apply_action):
    """Compute dtype comes from the activation."""
    import comfy.sd

    weights = {k: v.to(torch.bfloat16) for k, v in tiny_models.wan().model.diffusion_model.state_dict().items()}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.bfloat16})
    result = run(apply_action(model, echoreel, action, 1.0))
    assert torch.isfinite(result).all() and not torch.equal(result, run(model))


class TestRefusals:
    """Apply says in one sentence what does not belong together, with both numbers."""

    def test_another_width(self, model, adapters, apply_action, tmp_path):
        echoreel = adapters.wan_adapter(tmp_path / "wide.safetensors", dim=256)
        with pytest.raises(ValueError, match="256 wide at blocks.0, but this one is 128"):
            apply_action(model, echoreel, adapters.random_action(echoreel), 1.0)

    def test_more_blocks(self, model, adapters, apply_action, tmp_path):
        echoreel = adapters.wan_adapter(tmp_path / "deep.safetensors", sites=5)
        with pytest.raises(ValueError, match="5 blocks, but this model has 2"):
            apply_action(model, echoreel, adapters.random_action(echoreel), 1.0)

    def test_another_host(self, model, adapters, apply_action, tmp_path):
        echoreel = adapters.wan_adapter(tmp_path / "lvdm.safetensors", host="lvdm")
        with pytest.raises(ValueError, match="trained for 'lvdm' models.*'wan'"):
            apply_action(model, echoreel, adapters.random_action(echoreel), 1.0)

    def test_another_adapters_action(self, model, adapters, echoreel, apply_action, tmp_path):
        other = adapters.wan_adapter(tmp_path / "other.safetensors", head_dim=16)
        with pytest.raises(ValueError, match=f"{other.id}.*{echoreel.id}"):
            apply_action(model, echoreel, adapters.random_action(other), 1.0)

    def test_an_unknown_model(self, echoreel, action, apply_action):
        import comfy.model_patcher

        class Unheard(torch.nn.Module):
            latent_format = None

            def __init__(self):
                super().__init__()
                self.diffusion_model = torch.nn.Linear(1, 1)

        cpu = torch.device("cpu")
        with pytest.raises(ValueError, match="does not know the model Linear.*LVDM.*Wan"):
            apply_action(comfy.model_patcher.ModelPatcher(Unheard(), cpu, cpu), echoreel, action, 1.0)
