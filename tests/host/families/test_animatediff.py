"""AnimateDiff, by the pack AnimateDiff-Evolved, in its own sampling and its own context windows.

The pack is looked for in the host's custom_nodes, or where ANIMATEDIFF_EVOLVED points.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from conditioning import hooks_in, prompt, sample, untouched
from tiny_families import Tiny, from_config
from tiny_models import randomise

NAME = "animatediff_evolved"


def find_pack() -> Path | None:
    import folder_paths

    named = os.environ.get("ANIMATEDIFF_EVOLVED")
    candidates = [Path(named)] if named else []
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        candidates += [path for path in Path(folder).glob("*") if "animatediff-evolved" in path.name.lower()]
    return next((path for path in candidates if (path / "__init__.py").exists()), None)


PACK = find_pack()
if PACK is None:
    pytest.skip(
        "ANIMATEDIFF IS NOT TESTED: AnimateDiff-Evolved is not in custom_nodes; set ANIMATEDIFF_EVOLVED to its folder",
        allow_module_level=True,
    )

CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "context_dim": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
FRAMES = 6


@pytest.fixture(scope="module")
def evolved(pack):
    """AnimateDiff-Evolved, imported the way the host imports packs."""
    spec = importlib.util.spec_from_file_location(NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base():
    return from_config("SD15", CONFIG)


@pytest.fixture(scope="module")
def animate(evolved):
    """Makes a MODEL of the base one with motion modules in it."""
    motion = importlib.import_module(f"{NAME}.animatediff.motion_module_ad")
    injection = importlib.import_module(f"{NAME}.animatediff.model_injection")
    gen2 = importlib.import_module(f"{NAME}.animatediff.nodes_gen2")
    contexts = importlib.import_module(f"{NAME}.animatediff.nodes_context")
    utils = importlib.import_module(f"{NAME}.animatediff.utils_model")
    info = motion.AnimateDiffInfo(
        utils.ModelTypeSD.SD1_5, motion.AnimateDiffFormat.ANIMATEDIFF, motion.AnimateDiffVersion.V3, "tiny"
    )
    sizes = {
        "down.attention_blocks.1.": torch.zeros(1),
        "down.attention_blocks.0.pos_encoder.pe": torch.zeros(1, 16, 32),
    }
    model = motion.AnimateDiffModel(sizes, info)

    def blocks(kind):
        return torch.nn.ModuleList(
            motion.MotionModule(32, temporal_pe_max_len=16, block_type=kind, block_idx=i, ops=model.ops)
            for i in range(4)
        )

    model.down_blocks, model.up_blocks = blocks(motion.BlockType.DOWN), blocks(motion.BlockType.UP)
    randomise(model)
    cpu = torch.device("cpu")
    patcher = injection.create_MotionModelPatcher(model, cpu, cpu)
    (motion_models,) = gen2.ApplyAnimateDiffModelNode().apply_motion_model(patcher)

    def apply(base, window=None):
        options = None
        if window:
            (options,) = contexts.StandardUniformContextOptionsNode().create_options(window, 1, 2)
        (animated,) = gen2.UseEvolvedSamplingNode().use_evolved_sampling(
            base, "autoselect", motion_models, context_options=options
        )
        return animated

    return apply


@pytest.fixture(scope="module")
def echoreel(pack, base, tmp_path_factory):
    import adapters
    from echoreel_pack.nodes.families import find_family

    host = find_family(base.model.diffusion_model)
    assert host.name == "animatediff"
    sites = host.sites(base.model.diffusion_model)
    assert len(sites) == 16
    tiny = Tiny("animatediff", base, torch.zeros(1), {}, channels=4)
    return adapters.adapter_for(tmp_path_factory.mktemp("adapter") / "animatediff.safetensors", tiny, sites)


@pytest.fixture(scope="module")
def action(echoreel):
    import adapters

    return adapters.random_action(echoreel, frames=FRAMES)


def run(model, **options):
    return sample(model, torch.zeros(FRAMES, 4, 8, 8), prompt(64), prompt(64, seed=2), **options)


def apply_action(*args, **options):
    from echoreel_pack.nodes.apply_echoreel import apply_action

    return apply_action(*args, **options)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("order", ["before", "after"])
def test_before_or_after_the_motion_modules(base, animate, echoreel, action, window, order):
    plain = run(animate(base, window))
    if order == "before":
        model = animate(apply_action(base, echoreel, action, 1.0), window)
    else:
        model = apply_action(animate(base, window), echoreel, action, 1.0)
    result = run(model)
    assert torch.isfinite(result).all()
    assert (result - plain).norm() > 1e-3 * plain.norm()
    assert torch.equal(run(animate(base, window)), plain)
    assert hooks_in(base) == 0


def test_both_orders_agree(base, animate, echoreel, action):
    before = run(animate(apply_action(base, echoreel, action, 1.0)))
    after = run(apply_action(animate(base), echoreel, action, 1.0))
    assert torch.allclose(before, after, atol=1e-5)


def test_a_window_takes_its_own_frames_of_the_action(base, animate, echoreel, action, monkeypatch):
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    seen = []
    delta = ActionPatch._delta

    def spy(self, index, model, state, call, hidden):
        seen.append(call.frames[0])
        return delta(self, index, model, state, call, hidden)

    monkeypatch.setattr(ActionPatch, "_delta", spy)
    run(apply_action(animate(base, window=4), echoreel, action, 1.0), steps=1)
    assert {frames.total for frames in seen} == {FRAMES}
    windows = {frames.at for frames in seen}
    assert len(windows) > 1
    assert {frame for window in windows for frame in window} == set(range(FRAMES))


def test_the_place_is_the_hosts_own(base, animate, echoreel, action):
    """The same numbers as the host's pair of hooks around the text attention, through a whole sampling run."""
    stream, calls = [], []
    roles = {1: "negative", 0: "positive"}

    def middle(hidden, options):
        stream.append(hidden)
        return hidden

    def output(attended, options):
        before = stream.pop()
        attention = echoreel.attentions.model[len(calls) % 16]
        calls.append(1)
        order = options["cond_or_uncond"]
        halves = (before + attended).unflatten(0, (len(order), 1, FRAMES))
        deltas = [
            attention(half, action.context(roles[index], FRAMES)) for half, index in zip(halves, order, strict=True)
        ]
        return attended + torch.cat(deltas).flatten(0, 1)

    native = animate(base)
    native.set_model_patch(middle, "middle_patch")
    native.set_model_patch(output, "attn2_output_patch")
    theirs, ours, plain = (run(m) for m in (native, apply_action(animate(base), echoreel, action, 1.0), animate(base)))
    assert len(calls) == 16 * 2
    assert (ours - theirs).norm() < 1e-3 * (theirs - plain).norm()


def test_is_trained_with_its_motion_modules(base, animate, folders, tmp_path):
    import adapters
    from echoreel_pack.nodes.families import find_family
    from echoreel_pack.nodes.models.adapter import load_adapter
    from echoreel_pack.nodes.train_echoreel import TrainEchoReel
    from encoders import Pixels, Words
    from training_runs import assert_applied_as_trained, losses, predict, settings, write_actions

    write_actions(folders / "input" / "few moves")
    base.cached_patcher_init = (lambda disable_dynamic=False: from_config("SD15", CONFIG), ())
    animated = animate(base)
    (motion,) = animated.additional_models["ADE"]
    tiny = Tiny("animatediff", base, torch.zeros(1), {}, channels=4)
    sites = find_family(base.model.diffusion_model).sites(base.model.diffusion_model)
    adapters.fresh_adapter(tiny, sites, text_width=64).save(tmp_path / "start.safetensors")
    start = load_adapter(str(tmp_path / "start.safetensors"))

    def train(name, **changes):
        inputs = settings(data="few moves", name=name, frame_count=FRAMES, every_nth=2)
        inputs |= {"learning_rate": 1e-2, "gradient_checkpointing": False, **changes}
        with torch.inference_mode(), untouched(animated), untouched(motion):
            encoders = Pixels(4, images=True), Words(64)
            return TrainEchoReel.execute(animated, *encoders, **inputs, echoreel=start).result[0]

    trained, _ = train("animated"), train("animated, idle", learning_rate=1e-8)
    learned, idle = losses(folders, "animated"), losses(folders, "animated, idle")
    assert learned[0] == idle[0] and sum(learned[-4:]) < 0.9 * sum(idle[-4:])

    latents, told = adapters.noise(1, 4, FRAMES, 8, 8), {"cross_attn": adapters.noise(5, 64, seed=1)}
    plain, _ = assert_applied_as_trained(animated, trained, latents, told)
    assert (plain - predict(base, latents, told)).norm() > 1e-3 * plain.norm()  # the motion modules were there
