"""The host's patches reach the released model as they reach the host's own UNet, with an action and without."""

from __future__ import annotations

import comfy.ops
import pytest
import torch
from comfy.context_windows import (
    ContextFuseMethods,
    ContextSchedules,
    IndexListContextHandler,
    get_matching_context_schedule,
    get_matching_fuse_method,
)
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_extras import (
    nodes_easycache,
    nodes_freelunch,
    nodes_hypertile,
    nodes_model_downscale,
    nodes_nag,
    nodes_pag,
    nodes_sag,
    nodes_tomesd,
)
from conditioning import hooks_in, noise, prompt, sample
from cutting import cut, one_by_one, tiles_apart, tiles_at_once
from tiny_models import randomise

FRAMES, WIDTH = 4, 48
LATENTS = torch.zeros(FRAMES, 4, 8, 8)
BLOCKS = [("input", 1), ("input", 3), ("middle", 0), ("output", 0), ("output", 1), ("output", 2), ("output", 3)]
"""With a transformer, in the embedded model."""

ATTENTION_PATCHES = ["attn1_patch", "attn2_patch", "attn1_output_patch", "attn2_output_patch", "middle_patch"]
BLOCK_PATCHES = ["input_block_patch", "input_block_patch_after_skip", "output_block_patch"]


@pytest.fixture(scope="module")
def loaded(pack):
    from echoreel_pack.nodes import load_echoreel as loaders

    model, _, _, echoreel = loaders.LoadCheckpoint.execute(loaders.EMBEDDED).result
    return model, echoreel


@pytest.fixture(scope="module", params=["alone", "with an action"])
def model(request, loaded):
    """The embedded model, on its own and with Apply EchoReel."""
    import adapters
    from echoreel_pack.nodes.apply_echoreel import apply_action

    base, echoreel = loaded
    if request.param == "alone":
        return base
    return apply_action(base, echoreel, adapters.random_action(echoreel, FRAMES), 1.0)


def run(model, seed: int = 1, **options):
    return sample(model, LATENTS, prompt(WIDTH, seed=seed), prompt(WIDTH, seed=9), **options)


@pytest.fixture(scope="module")
def plain(model):
    return run(model)


def unchanged(*given):
    """A patch that hands back what it gets, less the options behind it."""
    return given[:-1] if len(given) > 2 else given[0]


def replaced(model, name, patch, blocks=BLOCKS):
    model = model.clone()
    for block in blocks:
        model.set_model_patch_replace(patch, name, *block)
    return model


def overridden(model, override):
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


@pytest.mark.parametrize("name", ATTENTION_PATCHES + BLOCK_PATCHES)
def test_a_patch_that_changes_nothing_is_bit_identical(model, plain, name):
    calls = []
    patched = model.clone()
    patched.set_model_patch(lambda *given: calls.append(given) or unchanged(*given), name)
    assert torch.equal(run(patched), plain)
    assert calls


@pytest.mark.parametrize("name", ["attn1", "attn2"])
def test_a_replacement_by_the_hosts_attention_is_bit_identical(model, plain, name):
    calls = []

    def same(q, k, v, extra_options, mask=None):
        calls.append(extra_options["block"])
        return optimized_attention(q, k, v, extra_options["n_heads"])

    assert torch.equal(run(replaced(model, name, same)), plain)
    assert calls == BLOCKS * 2


@pytest.mark.parametrize("number", [(), (0,)], ids=["by block", "by block and transformer"])
def test_without_attention_to_the_text_the_prompt_says_nothing(model, number):
    """Every attention to the text is replaced, by either kind of key: those without are of no effect."""
    deaf = replaced(model, "attn2", lambda q, k, v, extra: torch.zeros_like(q), [(*block, *number) for block in BLOCKS])
    assert not torch.equal(run(model, seed=1, cfg=1.0), run(model, seed=2, cfg=1.0))
    assert torch.equal(run(deaf, seed=1, cfg=1.0), run(deaf, seed=2, cfg=1.0))
    one_left = replaced(model, "attn2", lambda q, k, v, extra: torch.zeros_like(q), BLOCKS[1:])
    assert not torch.equal(run(one_left, seed=1, cfg=1.0), run(one_left, seed=2, cfg=1.0))


def test_an_attention_override_is_called_for_space_and_text(model, plain):
    calls = []

    def counted(function, q, k, v, heads, *args, **kwargs):
        calls.append(kwargs["transformer_options"]["block"])
        return function(q, k, v, heads, *args, **kwargs)

    assert torch.equal(run(overridden(model, counted), steps=2), plain)
    assert calls == [block for block in BLOCKS for _ in range(2)] * 2
    assert not torch.equal(run(overridden(model, lambda function, q, k, v, heads, **kwargs: q)), plain)


def seen_by(patch_model) -> list[tuple]:
    """What patches and replacements are told, call by call."""
    told = []

    def note(name):
        def patch(*given):
            *tensors, options = given
            told.append(
                (
                    name,
                    [tuple(tensor.shape) for tensor in tensors],
                    {
                        key: options.get(key)
                        for key in (
                            "block",
                            "block_index",
                            "transformer_index",
                            "n_heads",
                            "dim_head",
                            "attn_precision",
                            "original_shape",
                            "activations_shape",
                            "cond_or_uncond",
                        )
                    },
                    {"patches", "patches_replace"} & options.keys(),
                )
            )
            return unchanged(*given)

        return patch

    options = {"patches": {name: [note(name)] for name in ATTENTION_PATCHES + BLOCK_PATCHES}}
    options["patches_replace"] = {
        "attn1": {("middle", 0): lambda q, k, v, extra: note("attn1 in the middle")(q, k, v, extra)[0]},
        "attn2": {("output", 1, 0): lambda q, k, v, extra: note("attn2 in an output block")(q, k, v, extra)[0]},
    }
    patch_model(options)
    return told


def test_patches_are_told_what_the_hosts_unet_tells_them(loaded):
    base, _ = loaded
    rows = 2 * FRAMES
    x, text = noise(rows, 4, 8, 8), noise(rows, 5, WIDTH)
    timesteps = torch.full((rows,), 500)
    hosts = randomise(
        UNetModel(
            image_size=8,
            in_channels=4,
            model_channels=64,
            out_channels=4,
            num_res_blocks=[1, 1],
            channel_mult=(1, 2),
            num_heads=4,
            use_spatial_transformer=True,
            transformer_depth=[1, 1],
            transformer_depth_output=[1, 1, 1, 1],
            transformer_depth_middle=1,
            context_dim=WIDTH,
            dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
        )
    )

    def call(unet):
        return lambda options: unet(
            x, timesteps, context=text, transformer_options={**options, "cond_or_uncond": [1, 0]}
        )

    with torch.inference_mode():
        ours, theirs = seen_by(call(base.model.diffusion_model)), seen_by(call(hosts))
    assert {name for name, *_ in ours} == {
        *ATTENTION_PATCHES, *BLOCK_PATCHES, "attn1 in the middle", "attn2 in an output block"
    }  # fmt: skip
    assert ours == theirs


def execute(node, model, **inputs):
    made = node.execute(model, **inputs)
    return made[0] if isinstance(made, tuple) else made.result[0]


NODES = {
    "SelfAttentionGuidance": (nodes_sag.SelfAttentionGuidance, {"scale": 0.5, "blur_sigma": 2.0}),
    "PerturbedAttentionGuidance": (nodes_pag.PerturbedAttentionGuidance, {"scale": 3.0}),
    "NAGuidance": (nodes_nag.NAGuidance, {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}),
    "FreeU": (nodes_freelunch.FreeU, {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}),
    "FreeU_V2": (nodes_freelunch.FreeU_V2, {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}),
    "HyperTile": (
        nodes_hypertile.HyperTile,
        {"tile_size": 32, "swap_size": 2, "max_depth": 1, "scale_depth": False},
    ),
    "TomePatchModel": (nodes_tomesd.TomePatchModel, {"ratio": 0.5}),
    "PatchModelAddDownscale": (
        nodes_model_downscale.PatchModelAddDownscale,
        {
            "block_number": 2,
            "downscale_factor": 2.0,
            "start_percent": 0.0,
            "end_percent": 1.0,
            "downscale_after_skip": True,
            "downscale_method": "bicubic",
            "upscale_method": "bicubic",
        },
    ),
    "EasyCache": (
        nodes_easycache.EasyCacheNode,
        {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False},
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_a_node_of_the_host_changes_the_result(model, name):
    node, inputs = NODES[name]
    steps = 8 if name == "EasyCache" else 2
    patched = run(execute(node, model, **inputs), steps=steps)
    assert torch.isfinite(patched).all()
    assert not torch.allclose(patched, run(model, steps=steps), atol=1e-3)
    assert hooks_in(model) == 0


@pytest.mark.parametrize("name", ["SelfAttentionGuidance", "PerturbedAttentionGuidance"])
def test_guidance_of_scale_0_changes_nothing(model, plain, name):
    """But for rounding: the first computes the attention in the middle in its own way."""
    node, inputs = NODES[name]
    unguided = run(execute(node, model, **{**inputs, "scale": 0.0}))
    torch.testing.assert_close(unguided, plain, rtol=0, atol=1e-4 * plain.abs().max().item())


@pytest.mark.parametrize("name", NODES)
def test_an_action_is_felt_beside_a_node_of_the_host(loaded, name):
    import adapters
    from echoreel_pack.nodes.apply_echoreel import apply_action

    base, echoreel = loaded
    action = adapters.random_action(echoreel, FRAMES)
    node, inputs = NODES[name]
    torch.manual_seed(0)  # some of them draw from the global generator
    first = run(apply_action(execute(node, base, **inputs), echoreel, action, 1.0))
    torch.manual_seed(0)
    last = run(execute(node, apply_action(base, echoreel, action, 1.0), **inputs))
    torch.manual_seed(0)
    without = run(execute(node, base, **inputs))
    assert torch.equal(first, last)
    assert not torch.allclose(first, without, atol=1e-3)


def test_halves_one_by_one_are_the_same(model, plain):
    torch.testing.assert_close(run(cut(model, one_by_one)), plain, rtol=1e-3, atol=1e-4)


def test_tiles_in_one_call_are_as_tiles_in_many(model, plain):
    together, apart = (run(cut(model, how)) for how in (tiles_at_once, tiles_apart))
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together, plain, atol=1e-3)


@pytest.mark.parametrize("anchored", [False, True])
def test_a_context_window_is_a_clip(loaded, anchored):
    base, _ = loaded
    frames = []
    model = base.clone()
    model.model_options["context_handler"] = IndexListContextHandler(
        context_schedule=get_matching_context_schedule(ContextSchedules.STATIC_STANDARD),
        fuse_method=get_matching_fuse_method(ContextFuseMethods.PYRAMID),
        context_length=2,
        context_overlap=1,
        dim=0,
        causal_window_fix=anchored,
    )
    first_block = base.model.diffusion_model.input_blocks[1][0]
    handle = first_block.register_forward_pre_hook(lambda _module, args: frames.append(args[2]))
    try:
        sample(model, torch.zeros(8, 4, 8, 8), prompt(WIDTH), prompt(WIDTH, seed=9), steps=1)
    finally:
        handle.remove()
    assert set(frames) == ({2, 3} if anchored else {2})


def test_a_part_of_a_clip_is_refused(loaded):
    base, _ = loaded

    def three_frames_less(apply_model, args):
        c = {key: value[3:] if torch.is_tensor(value) else value for key, value in args["c"].items()}
        return apply_model(args["input"][3:], args["timestep"][3:], **c)

    with pytest.raises(ValueError, match="on 5 frames at once.*all frames of a clip together"):
        run(cut(base, three_frames_less))
