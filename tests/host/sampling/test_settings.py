"""Apply EchoReel in every setting in which a host may call its model."""

import comfy.context_windows
import comfy.lora
import comfy.sample
import comfy.samplers
import pytest
import torch
from calling import call
from conditioning import hooks_in, noise, prompt, sample, untouched
from tiny_families import Tiny, build
from tiny_families.wan import wan

FRAMES = 7
LATENTS = torch.zeros(1, 16, FRAMES, 8, 6)


@pytest.fixture(scope="module")
def patched(model, echoreel, action):
    return apply_action(model, echoreel, action, 1.0)


def apply_action(*args, **options):
    from echoreel_pack.nodes.apply_echoreel import apply_action

    return apply_action(*args, **options)


def run(model, **options):
    options = {"steps": 1, **options}
    return sample(model, LATENTS, prompt(4096), prompt(4096, seed=2), **options)


def guided(model, guider_class, conds, *, steps=1, **cfg):
    """A sampling run with one of the host's other guiders."""
    guider = guider_class(model)
    guider.set_conds(*conds)
    guider.set_cfg(**cfg)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise(*LATENTS.shape), LATENTS, sampler, sigmas, disable_pbar=True)


@pytest.fixture
def seen(monkeypatch):
    """(roles, frames, layer's index) of every call of an added layer."""
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    calls = []
    delta = ActionPatch._delta

    def spy(self, index, model, state, call, hidden):
        calls.append((call.roles, call.frames[0], index))
        return delta(self, index, model, state, call, hidden)

    monkeypatch.setattr(ActionPatch, "_delta", spy)
    return calls


class TestRoles:
    """Each conditioning takes the half of the action that its role says, wherever it stands in the batch."""

    def test_guidance(self, patched, seen):
        run(patched)
        assert {roles for roles, _, _ in seen} == {("negative", "positive")}

    def test_without_guidance(self, patched, seen):
        run(patched, cfg=1.0)
        assert {roles for roles, _, _ in seen} == {("positive",)}

    def test_dual_guidance(self, patched, seen):
        from comfy_extras.nodes_custom_sampler import Guider_DualCFG

        conds = prompt(4096), prompt(4096, seed=3), prompt(4096, seed=2)
        guided(patched, Guider_DualCFG, conds, cfg1=3.0, cfg2=2.0)
        assert {roles for roles, _, _ in seen} == {("positive", "positive", "negative")}

    def test_perpendicular_negative(self, patched, seen):
        from comfy_extras.nodes_perpneg import Guider_PerpNeg

        conds = prompt(4096), prompt(4096, seed=2), prompt(4096, seed=3)
        guided(patched, Guider_PerpNeg, conds, cfg=3.0, neg_scale=1.0)
        # the host batches them from the last to the first: empty, negative, positive
        assert {roles for roles, _, _ in seen} == {("negative", "negative", "positive")}

    def test_several_positive_prompts(self, patched, seen):
        positive = prompt(4096) + prompt(4096, seed=3)
        sample(patched, LATENTS, positive, prompt(4096, seed=2), steps=1)
        assert {roles for roles, _, _ in seen} == {("negative", "positive", "positive")}

    def test_the_same_prompt_for_both(self, patched, seen):
        both = prompt(4096)
        sample(patched, LATENTS, both, both, steps=1)
        assert {roles for roles, _, _ in seen} == {("negative", "positive")}

    def test_outside_a_sampling_run(self, echoreel, action, seen):
        tiny = wan()
        call(tiny, apply_action(tiny.model, echoreel, action, 1.0))
        assert {roles for roles, _, _ in seen} == {("negative", "positive")}


class TestWindows:
    """In a window of a long clip the action is at the window's frames."""

    @staticmethod
    def windowed(model, length=4, anchor=True, **options):
        from comfy_extras.nodes_context_windows import ContextWindowsManualNode as Node

        schedule, fuse = comfy.context_windows.ContextSchedules, comfy.context_windows.ContextFuseMethods
        return Node.execute(
            model,
            length,
            2,
            schedule.STATIC_STANDARD,
            1,
            False,
            fuse.PYRAMID,
            2,
            False,
            causal_window_fix=anchor,
            **options,
        ).result[0]

    @pytest.mark.parametrize("anchor", [True, False])
    @pytest.mark.parametrize("order", ["before", "after"])
    def test_frames(self, model, echoreel, action, seen, anchor, order):
        if order == "before":
            windowed = self.windowed(apply_action(model, echoreel, action, 1.0), anchor=anchor)
        else:
            windowed = apply_action(self.windowed(model, anchor=anchor), echoreel, action, 1.0)
        run(windowed)
        expected = [(0.0, 1.0, 2.0, 3.0), (1.0, 2.0, 3.0, 4.0, 5.0), (2.0, 3.0, 4.0, 5.0, 6.0)]
        if not anchor:
            expected = [window[-4:] for window in expected]
        assert [frames.at for _, frames, index in seen if index == 0] == expected
        assert {frames.total for _, frames, _ in seen} == {FRAMES}

    @pytest.mark.parametrize("anchor", [True, False])
    def test_a_sequence_goes_through_all_windows(self, model, echoreel, action, monkeypatch, anchor):
        """Each window has the shares of its own frames, and nothing of an action that does not play in it."""
        import adapters
        from echoreel_pack.echoreel_core.action.combine import combine
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        contexts = []
        make = ActionPatch._context

        def spy(self, call, rows):
            contexts.append((call.frames[0].at, make(self, call, rows)))
            return contexts[-1][1]

        monkeypatch.setattr(ActionPatch, "_context", spy)
        other = adapters.random_action(echoreel, seed=30, frames=5)
        both = combine([action, other], "one after another", [5, 2])  # the border lies at frame 5 of 7
        run(self.windowed(apply_action(model, echoreel, both, 1.0), anchor=anchor))
        plays = {False: [1.0, 0.0], True: [0.0, 1.0]}
        for at, context in contexts:
            if max(at) < 5:
                assert context.groups == (4,) and context.mix_weights is None
            else:
                assert context.groups == (4, 5)
                assert context.mix_weights.tolist() == [plays[frame >= 5] for frame in at]
        assert {max(at) < 5 for at, _ in contexts} == {True, False}

    def test_a_window_of_the_whole_clip_is_no_window(self, model, echoreel, action, seen):
        run(self.windowed(apply_action(model, echoreel, action, 1.0), length=FRAMES))
        assert {frames.at for _, frames, _ in seen} == {tuple(map(float, range(FRAMES)))}

    def test_only_the_layers_of_one_window_are_kept(self, model, echoreel, action, monkeypatch):
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        kept = []
        layers = ActionPatch._layers

        def spy(self, model, state, call, frames):
            result = layers(self, model, state, call, frames)
            kept.append(len(state.layers))
            return result

        monkeypatch.setattr(ActionPatch, "_layers", spy)
        run(self.windowed(apply_action(model, echoreel, action, 1.0), length=3))
        assert set(kept) == {1}

    def test_chunks_of_a_causal_model(self, pack):
        from echoreel_pack.nodes.families.base import TokenGrid
        from echoreel_pack.nodes.families.wan import WAN
        from echoreel_pack.nodes.sampling.windows import ClipFrames, clip_frames

        state = {"start_frame": 3, "kv_caches": [{"k": torch.zeros(1, 9 * 12, 1, 1)}]}
        assert clip_frames(WAN, TokenGrid(3, (4, 3)), {"ar_state": state}) == ClipFrames((3.0, 4.0, 5.0), 9)

    def test_a_reference_frame_before_the_clip_does_not_count(self, pack):
        from echoreel_pack.nodes.families.base import TokenGrid
        from echoreel_pack.nodes.families.wan import WAN
        from echoreel_pack.nodes.sampling.windows import ClipFrames, clip_frames

        grid = TokenGrid(4, (4, 3), first=12, leading=1)
        assert clip_frames(WAN, grid, {}) == ClipFrames((0.0, 1.0, 2.0), 3)
        window = comfy.context_windows.IndexListContextWindow([4, 5, 6], dim=2, total_frames=9)
        window.causal_anchor_index = 3
        assert clip_frames(WAN, grid, {"context_window": window}) == ClipFrames((3.0, 4.0, 5.0), 8)

    def test_patches_over_time_lie_between_latent_frames(self, pack):
        from echoreel_pack.nodes.families.base import TokenGrid
        from echoreel_pack.nodes.families.wan import WAN
        from echoreel_pack.nodes.sampling.windows import ClipFrames, clip_frames

        grid = TokenGrid(4, (4, 3), patch_frames=2)
        assert clip_frames(WAN, grid, {}) == ClipFrames((0.0, 1.0), 2)
        window = comfy.context_windows.IndexListContextWindow([3, 4, 5, 6], dim=2, total_frames=9)
        assert clip_frames(WAN, grid, {"context_window": window}) == ClipFrames((1.5, 2.5), 5)


class TestTogether:
    """Before or after what else is done to a model, the result is the same."""

    def lora(self, model):
        keys = comfy.lora.model_lora_keys_unet(model.model, {})
        up, down = noise(128, 4, seed=5) * 0.1, noise(4, 128, seed=6) * 0.1
        weights = {
            "diffusion_model.blocks.0.self_attn.q.lora_up.weight": up,
            "diffusion_model.blocks.0.self_attn.q.lora_down.weight": down,
        }
        model = model.clone()
        assert model.add_patches(comfy.lora.load_lora(weights, keys), 1.0)
        return model

    def shift(self, model):
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        return ModelSamplingSD3().patch(model, 3.0)[0]

    def replacing(self, model):
        """Another pack, in the slot that takes a whole block."""
        model = model.clone()
        model.set_model_patch_replace(
            lambda args, extra: {"img": extra["original_block"](args)["img"] * 1.1}, "dit", "double_block", 0
        )
        return model

    @pytest.mark.parametrize("what", ["lora", "shift", "replacing"])
    def test_either_order(self, model, echoreel, action, what):
        other = getattr(self, what)
        plain, patched, before, after, again = (
            run(each, steps=2)
            for each in (
                other(model),
                apply_action(model, echoreel, action, 1.0),
                other(apply_action(model, echoreel, action, 1.0)),
                apply_action(other(model), echoreel, action, 1.0),
                other(model),
            )
        )
        assert torch.equal(before, after)
        assert not torch.equal(before, plain) and not torch.equal(before, patched)
        assert torch.equal(again, plain)

    def test_float8_weights(self, model, echoreel, action):
        """The layers compute in the activations' dtype, whatever the base's weights are stored in."""
        import comfy.sd

        weights = dict(model.model.diffusion_model.state_dict())
        options = {"dtype": torch.float8_e4m3fn}
        base = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options)
        stored = {p.dtype for p in base.model.diffusion_model.blocks.parameters()}
        assert stored == {torch.float8_e4m3fn}
        result, plain = run(apply_action(base, echoreel, action, 1.0)), run(base)
        assert torch.isfinite(result).all() and not torch.equal(result, plain)
        # what the rounding of the base changes is far less than what the action changes
        change = run(apply_action(model, echoreel, action, 1.0)) - run(model)
        assert ((result - plain) - change).norm() < 0.5 * change.norm()


def test_a_long_reference_is_attended_to_as_in_training(model, echoreel, action, monkeypatch):
    """Where folding would cost more than it saves, the layer runs as it was trained; the numbers are the same."""
    import adapters
    from echoreel_pack.echoreel_core.action.attention import ActionAttention

    patched = apply_action(model, echoreel, adapters.random_action(echoreel, frames=64), 0.5)
    plain = run(patched)
    folds = []
    fold = ActionAttention.fold
    monkeypatch.setattr(ActionAttention, "fold", lambda self, *args: folds.append(1) or fold(self, *args))
    assert torch.equal(run(patched), plain) and not folds
    monkeypatch.setattr(ActionAttention, "worth_folding", lambda self, keys: True)
    assert (run(patched) - plain).norm() < 1e-5 * plain.norm() and len(folds) == 2


def test_every_gpu_has_its_own_layers(echoreel, action, monkeypatch):
    """The host's deep clone for another GPU, made on the CPU: it takes the layers from a factory of ours."""
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    tiny = wan()
    tiny.model.cached_patcher_init = (lambda: wan().model, ())
    patched = apply_action(tiny.model, echoreel, action, 1.0)
    expected = call(tiny, patched)
    clone = patched.deepclone_multigpu()
    (key,) = (key for key in clone.additional_models if key.startswith("echoreel"))
    (ours,), (theirs,) = (p.get_additional_models_with_key(key) for p in (patched, clone))
    assert ours.model is not theirs.model
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True))

    used = []
    beside = ActionPatch._attentions_on_this_device

    def spy(self, model):
        used.append(beside(self, model))
        return used[-1]

    monkeypatch.setattr(ActionPatch, "_attentions_on_this_device", spy)
    result = call(Tiny("wan", clone, tiny.x, tiny.conds), clone)
    assert torch.equal(result, expected)
    assert used and all(layers is theirs.model for layers in used)
    assert hooks_in(clone) == hooks_in(patched) == 0


class TestTiming:
    """When in the clip the action happens."""

    def seconds(self, *span, **more):
        from echoreel_pack.nodes.sampling.control import Control

        return Control(span=span, **more)

    def timing(self, control, family="wan", total=21, **grid):
        from echoreel_pack.nodes.families import family_named
        from echoreel_pack.nodes.families.base import TokenGrid

        family = family_named(family)
        return control.timing(family, family.fps, TokenGrid(total, (4, 3), **grid), total)

    def test_seconds_become_latent_frames(self, pack):
        # 81 frames at 16 per second in 21 latent frames: the first holds one frame, each other four
        assert self.timing(self.seconds(0.0, 0.0)).span is None
        assert self.timing(self.seconds(1 / 16, 0.0)).span == (1.0, 21.0)
        assert self.timing(self.seconds(0.0, 2.0)).span == (0.0, 1 + 31 / 4)
        assert self.timing(self.seconds(0.0, 2.0, fps=8)).span == (0.0, 1 + 15 / 4)
        assert self.timing(self.seconds(2.0, 100.0)).span == (1 + 31 / 4, 21)
        assert self.timing(self.seconds(1.0, 2.0), family="animatediff").span == (8.0, 16.0)

    def test_own_pace(self, pack):
        assert self.timing(self.seconds(0.0, 0.0)).pace is None
        assert self.timing(self.seconds(0.0, 0.0, own_pace=True)).pace == 1.0
        assert self.timing(self.seconds(0.0, 0.0, own_pace=True, reference_fps=32)).pace == 2.0

    def test_before_and_after_its_span_the_action_adds_nothing(self, echoreel, action, monkeypatch):
        from echoreel_pack.nodes.families.wan import WAN
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        tiny = wan()
        tiny.x = noise(2, 16, FRAMES, 8, 6)
        deltas = []
        delta = ActionPatch._delta

        def spy(self, index, model, state, call, hidden):
            result = delta(self, index, model, state, call, hidden)
            deltas.append(WAN.to_frames(result, call.grid))
            return result

        monkeypatch.setattr(ActionPatch, "_delta", spy)
        control = self.seconds(5 / 16, 17 / 16)  # latent frames 2 to 5
        call(tiny, apply_action(tiny.model, echoreel, action, 1.0, control=control))
        for added in deltas:
            assert (added.abs().amax(dim=(0, 2, 3)) > 0).tolist() == [False, False, True, True, True, False, False]

    @pytest.mark.parametrize(("case", "fps"), [("wan t2v", 16), ("wan 5b", 24)])
    def test_seconds_are_of_the_rate_that_the_variant_was_made_for(self, case, fps, tmp_path, monkeypatch):
        import adapters
        from echoreel_pack.nodes.families.wan import WAN
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        tiny = build(case)
        tiny.x = noise(2, tiny.channels, FRAMES, 8, 6)
        sites, deltas = WAN.sites(tiny.model.model.diffusion_model), []
        found = adapters.adapter_for(tmp_path / "random.safetensors", tiny, sites)
        delta = ActionPatch._delta

        def spy(self, index, model, state, call, hidden):
            deltas.append(WAN.to_frames(delta(self, index, model, state, call, hidden), call.grid))
            return None

        monkeypatch.setattr(ActionPatch, "_delta", spy)
        control = self.seconds(5 / fps, 17 / fps)  # latent frames 2 to 5
        call(tiny, apply_action(tiny.model, found, adapters.random_action(found), 1.0, control=control))
        for added in deltas:
            assert (added.abs().amax(dim=(0, 2, 3)) > 0).tolist() == [False, False, True, True, True, False, False]

    def test_one_after_the_other(self, model, echoreel, action):
        """Two spans side by side are each action at its own frames."""
        import adapters

        other = adapters.random_action(echoreel, seed=30)
        first = apply_action(model, echoreel, action, 1e-3, control=self.seconds(0.0, 9 / 16))
        both = apply_action(first, echoreel, other, 1e-3, control=self.seconds(9 / 16, 0.0))
        second = apply_action(model, echoreel, other, 1e-3, control=self.seconds(9 / 16, 0.0))
        plain = run(model)
        changes = [run(m) - plain for m in (first, second, both)]
        assert (changes[2] - changes[0] - changes[1]).norm() < 0.05 * changes[2].norm()

    def test_a_window_outside_the_span_costs_nothing(self, model, echoreel, action, monkeypatch):
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        folded = []
        fold = ActionPatch._fold

        def spy(self, model, call, frames):
            folded.append((call.frames[0].at, fold(self, model, call, frames)))
            return folded[-1][1]

        monkeypatch.setattr(ActionPatch, "_fold", spy)
        patched = apply_action(model, echoreel, action, 1.0, control=self.seconds(0.0, 1 / 16))
        run(TestWindows.windowed(patched, anchor=False))
        assert [all(layer is None for layer in layers) for _, layers in folded] == [False, True, True]


class TestStrengths:
    """How strong the action is at which step and in which block."""

    def control(self, **options):
        from echoreel_pack.nodes.sampling.control import Control

        return Control(**options)

    def test_blocks_without_it_are_not_called(self, model, echoreel, action, seen):
        run(apply_action(model, echoreel, action, 1.0, control=self.control(block_factors=(0.0, 1.0))))
        assert {index for _, _, index in seen} == {1}

    def test_factors_of_blocks_are_those_of_the_strength(self, model, echoreel, action):
        half = run(apply_action(model, echoreel, action, 1.0, control=self.control(block_factors=(0.5, 0.5))))
        assert torch.allclose(half, run(apply_action(model, echoreel, action, 0.5)), atol=1e-5)

    @pytest.mark.parametrize("sampler", ["euler", "heun"])
    def test_steps(self, model, echoreel, action, monkeypatch, sampler):
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        strengths = []
        delta = ActionPatch._delta

        def spy(self, index, model, state, call, hidden):
            strengths.append(call.strength)
            return delta(self, index, model, state, call, hidden)

        monkeypatch.setattr(ActionPatch, "_delta", spy)
        patched = apply_action(model, echoreel, action, 1.0, control=self.control(step_factors=(1.0, 0.0)))
        run(patched, steps=5, sampler=sampler, cfg=1.0)
        by_step = sorted(set(strengths), reverse=True)
        assert by_step == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2], abs=2e-3)

    def test_two_samplers_share_one_curve(self, model, echoreel, action, monkeypatch):
        """A run that is split, or that begins late, goes on where it is on the model's own schedule."""
        import comfy.sample
        from echoreel_pack.nodes.sampling.patch import ActionPatch

        strengths = []
        delta = ActionPatch._delta

        def spy(self, index, model, state, call, hidden):
            strengths.append(call.strength)
            return delta(self, index, model, state, call, hidden)

        monkeypatch.setattr(ActionPatch, "_delta", spy)
        patched = apply_action(model, echoreel, action, 1.0, control=self.control(step_factors=(1.0, 0.0)))

        def strengths_of(**part):
            strengths.clear()
            conds = prompt(4096), prompt(4096, seed=2)
            sampling = (noise(*LATENTS.shape), 4, 1.0, "euler", "simple", *conds, LATENTS)
            comfy.sample.sample(patched, *sampling, disable_pbar=True, seed=0, **part)
            return list(strengths)

        whole = strengths_of()
        first = strengths_of(last_step=2)
        assert first + strengths_of(start_step=2) == whole
        assert whole[0] == 1.0 and whole[0] > whole[-1] > 0

    @pytest.mark.parametrize(("steps", "told"), [(2, True), (20, False)])
    def test_a_range_without_a_step_is_told_once(self, model, echoreel, action, caplog, monkeypatch, steps, told):
        from types import SimpleNamespace

        from server import PromptServer

        texts = []
        server = SimpleNamespace(send_progress_text=lambda text, node_id: texts.append((node_id, text)))
        monkeypatch.setattr(PromptServer, "instance", server, raising=False)
        patched = apply_action(model, echoreel, action, 1.0, 0.1, 0.4, node_id="7")
        run(patched, steps=steps, cfg=1.0)
        lines = [record.getMessage() for record in caplog.records if "No step of this sampler" in record.getMessage()]
        assert len(lines) == len(texts) == told
        assert all(node == "7" and "between 0.1 and 0.4" in text for node, text in texts)

    def test_a_constant_schedule_is_none(self, model, echoreel, action):
        control = self.control(step_factors=(1.0, 1.0))
        assert not control.changes_over_steps
        assert torch.equal(
            run(apply_action(model, echoreel, action, 1.0, control=control)),
            run(apply_action(model, echoreel, action, 1.0)),
        )

    def test_spreading(self, pack):
        from echoreel_pack.nodes.sampling.control import spread

        assert spread((1.0,), 3) == (1.0, 1.0, 1.0)
        assert spread((1.0, 0.0), 5) == (1.0, 0.75, 0.5, 0.25, 0.0)
        assert spread((1.0, 0.2, 0.6), 3) == (1.0, 0.2, 0.6)
        assert spread((1.0, 0.0), 1) == (1.0,)


class TestMask:
    """Where in the picture the action applies."""

    def test_levels_of_a_unet(self, pack):
        from echoreel_pack.nodes.sampling.control import level_size

        assert level_size((9, 16), 9 * 16) == (9, 16)
        assert level_size((9, 16), 5 * 8) == (5, 8)
        assert level_size((9, 16), 3 * 4) == (3, 4)
        with pytest.raises(ValueError, match="7 positions"):
            level_size((9, 16), 7)

    def test_one_for_all_frames_and_one_each(self, pack):
        from echoreel_pack.nodes.families.base import TokenGrid
        from echoreel_pack.nodes.sampling.control import Control
        from echoreel_pack.nodes.sampling.windows import ClipFrames

        grid = TokenGrid(3, (2, 2))
        hidden = torch.zeros(1, 3, 4, 8)
        still = torch.zeros(1, 16, 16)
        still[:, :8, :8] = 1.0
        mask = Control(mask=still).mask_for(ClipFrames((0.0, 1.0, 2.0), 3), grid, hidden)
        assert mask.shape == (3, 4, 1) and mask[:, :, 0].tolist() == [[1.0, 0.0, 0.0, 0.0]] * 3
        moving = torch.linspace(0, 1, 5)[:, None, None].expand(5, 16, 16)
        mask = Control(mask=moving).mask_for(ClipFrames((0.0, 1.0, 2.0), 3), grid, hidden)
        assert mask[:, 0, 0].tolist() == [0.0, 0.5, 1.0]
        window = Control(mask=moving).mask_for(ClipFrames((4.0, 5.0, 6.0), 7), grid, hidden)
        assert window[:, 0, 0].tolist() == pytest.approx([4 / 6, 5 / 6, 1.0])


class TestNode:
    """The inputs of Apply EchoReel."""

    def execute(self, model, echoreel, action, **options):
        from echoreel_pack.nodes.apply_echoreel import ApplyEchoReel

        percents = {"start_percent": 0.0, "end_percent": 1.0}
        return ApplyEchoReel.execute(model, echoreel, action, 1.0, **{**percents, **options}).result[0]

    def test_left_alone_they_change_nothing(self, model, echoreel, action, patched):
        with untouched(model):
            assert torch.equal(run(self.execute(model, echoreel, action)), run(patched))

    @pytest.mark.parametrize(
        "options",
        [
            {"timing": "at its own pace"},
            {"start_second": 0.5},
            {"end_second": 0.5},
            {"blocks": "early"},
            {"blocks": "custom", "block_strengths": "1, 0.5"},
            {"steps": "strong start"},
            {"steps": "custom", "step_strengths": "0.5"},
            {"mask": torch.ones(1, 64, 48) * 0.5},
        ],
    )
    def test_each_has_an_effect(self, model, echoreel, action, patched, options):
        result = run(self.execute(model, echoreel, action, **options), steps=2)
        assert torch.isfinite(result).all() and not torch.equal(result, run(patched, steps=2))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"start_second": 2.0, "end_second": 1.5}, "ends at 1.5 s but begins at 2 s"),
            ({"steps": "custom", "step_strengths": "1; 2"}, "step_strengths are '1; 2'"),
            ({"blocks": "custom", "block_strengths": ""}, "block_strengths are ''"),
            ({"blocks": "custom", "block_strengths": "1, nan"}, "block_strengths are '1, nan'"),
            ({"blocks": "all", "block_strengths": "nonsense"}, "block_strengths are 'nonsense'"),
            ({"steps": "constant", "step_strengths": "1;2"}, "step_strengths are '1;2'"),
            ({"start_percent": 0.6, "end_percent": 0.4}, "start_percent is 0.6 and end_percent 0.4"),
            ({"clip_start_second": 3.0}, "begins at 3 seconds of a clip of 0"),
            ({"clip_start_second": 3.0, "clip_seconds": 2.0}, "begins at 3 seconds of a clip of 2"),
        ],
    )
    def test_what_can_not_be_meant_is_refused(self, model, echoreel, action, options, message):
        with pytest.raises(ValueError, match=message):
            self.execute(model, echoreel, action, **options)

    def test_a_part_of_a_longer_clip_goes_on_with_the_action(self, model, echoreel, action, seen):
        """Seven latent frames are 25 video frames at 16 per second; the clip is twice as long and a bit."""
        run(self.execute(model, echoreel, action, clip_start_second=1.75, clip_seconds=53 / 16), cfg=1.0)
        assert {frames.at for _, frames, _ in seen} == {tuple(7.0 + i for i in range(FRAMES))}
        assert {frames.total for _, frames, _ in seen} == {14}

    def test_inputs_that_were_there_before_keep_their_order(self, pack):
        from echoreel_pack.nodes.apply_echoreel import ApplyEchoReel

        inputs = ApplyEchoReel.define_schema().inputs
        first = ["model", "echoreel", "action", "strength", "start_percent", "end_percent"]
        assert [each.id for each in inputs[:6]] == first
        assert all(each.optional for each in inputs[6:])
