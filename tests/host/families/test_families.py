"""Apply EchoReel on every host family that this version of the host has."""

import comfy.utils
import pytest
import torch
from calling import call
from conditioning import untouched
from tiny_families import CASES, build

from benchmarks.live_bytes import LiveBytes


class Applied:
    """A tiny host with an adapter of random layers for it."""

    def __init__(self, tiny, folder):
        import adapters
        from echoreel_pack.nodes.families import find_family

        self.tiny, self.folder = tiny, folder
        self.host = find_family(tiny.model.model.diffusion_model)
        self.sites = self.host.sites(tiny.model.model.diffusion_model)
        self.echoreel = adapters.adapter_for(folder / "random.safetensors", tiny, self.sites)
        self.action = adapters.random_action(self.echoreel)
        self.plain = call(tiny)

    def apply(self, echoreel=None, action=None, strength=1.0, **more):
        from echoreel_pack.nodes.apply_echoreel import apply_action

        return apply_action(
            self.tiny.model, echoreel or self.echoreel, action or self.action, strength=strength, **more
        )

    def video(self, latents):
        """The video [B, C, T, H, W] in what the sampler holds."""
        shapes = self.tiny.conds.get("latent_shapes")
        return latents if shapes is None else comfy.utils.unpack_latents(latents, shapes)[0]


@pytest.fixture(scope="module", params=CASES)
def case(request, pack, tmp_path_factory):
    tiny = build(request.param)
    if tiny is None:
        pytest.skip(f"this ComfyUI has no {request.param}")
    return Applied(tiny, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def recorded(monkeypatch):
    """What the added layers of a call were given and what they gave back: (index, grid, hidden, delta)."""
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    calls = []
    delta = ActionPatch._delta

    def spy(self, index, model, state, call, hidden):
        result = delta(self, index, model, state, call, hidden)
        if result is not None:
            calls.append((index, call.grid, hidden, result))
        return result

    monkeypatch.setattr(ActionPatch, "_delta", spy)
    return calls


def test_changes_the_output_with_one_call_per_layer_and_leaves_the_model_as_it_was(case, recorded):
    assert case.host.name == case.tiny.family
    assert len({site.name for site in case.sites}) == len(case.sites) > 0
    with untouched(case.tiny.model):
        result = call(case.tiny, case.apply())
    assert [index for index, _, _, _ in recorded] == list(range(len(case.sites)))
    for _, grid, hidden, delta in recorded:
        assert delta.shape == hidden.shape
        frames = case.host.to_frames(hidden, grid)
        assert frames.shape[1] == grid.frames == case.tiny.frames
        assert torch.equal(case.host.to_frames(case.host.from_frames(frames, hidden, grid), grid), frames)
    assert torch.isfinite(result).all()
    assert (result - case.plain).norm() > 1e-4 * case.plain.norm()
    assert torch.equal(call(case.tiny), case.plain)


def test_a_mask_keeps_the_action_to_its_frame_and_place(case):
    """After the last block every token goes its own way, so the output changes where the mask is and nowhere else."""
    from echoreel_pack.nodes.sampling.control import Control

    if case.host.frames_in_batch:
        pytest.skip("a UNet ends in convolutions over space and time")
    video = case.video(case.tiny.x)
    leading, latents_per_frame = case.tiny.leading, -(-(video.shape[2] - case.tiny.trailing) // case.tiny.frames)
    height, width = video.shape[-2:]
    frame, columns = case.tiny.frames - 1, 2 if width > 3 else 1
    mask = torch.zeros(case.tiny.frames, height, width)
    mask[frame, :, :columns] = 1.0
    last = (0.0,) * (len(case.sites) - 1) + (1.0,)
    result = call(case.tiny, case.apply(control=Control(block_factors=last, mask=mask)))
    changed = (case.video(result) - case.video(case.plain)).abs().amax(dim=(0, 1)) > 0
    expected = torch.zeros_like(changed)
    start = leading + frame * (latents_per_frame if not leading else 1)
    expected[start : start + latents_per_frame, :, :columns] = True
    expected[video.shape[2] - case.tiny.trailing :] = False
    assert changed.any() and not (changed & ~expected).any()
    assert changed[expected].float().mean() > 0.9


def test_a_sequence_is_each_action_at_its_own_frames(case, monkeypatch):
    """Another action in the second place changes the frames of the second, and only those; and the other way round."""
    import adapters
    from echoreel_pack.echoreel_core.action.combine import combine
    from echoreel_pack.nodes.sampling.control import Control
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    deltas = []
    delta = ActionPatch._delta

    def spy(self, index, model, state, call, hidden):
        result = delta(self, index, model, state, call, hidden)
        if result is not None:
            deltas.append((case.host.to_frames(result, call.grid), call.frames[0]))
        return result

    monkeypatch.setattr(ActionPatch, "_delta", spy)
    last = (0.0,) * (len(case.sites) - 1) + (1.0,)  # the others would bring what is different into every frame
    first, second, other = (adapters.random_action(case.echoreel, seed=seed) for seed in (7, 20, 30))
    for pair in ((first, second), (first, other), (other, second)):
        action = combine(pair, "one after another", [1, 1])
        call(case.tiny, case.apply(action=action, control=Control(block_factors=last)))
    (both, frames), (other_second, _), (other_first, _) = deltas
    at, border = torch.tensor(frames.at), frames.total / 2
    in_first, in_second = at + 1 <= border, at >= border
    assert in_first.any() and (in_second.any() or "ar_state" in case.tiny.options)  # a chunk is the clip's beginning
    for changed, differs, is_the_same in ((other_second, in_second, in_first), (other_first, in_first, in_second)):
        assert torch.allclose(both[:, is_the_same], changed[:, is_the_same], rtol=1e-3, atol=1e-4)
        assert ((both - changed).abs().amax(dim=(0, 2, 3))[differs] > 0.01).all()


def test_a_fresh_adapter_is_bit_identical(case):
    import adapters

    fresh = adapters.adapter_for(case.folder / "fresh.safetensors", case.tiny, case.sites, fresh=True)
    assert torch.equal(call(case.tiny, case.apply(fresh, adapters.random_action(fresh))), case.plain)


def test_strength_zero_is_bit_identical(case):
    assert torch.equal(call(case.tiny, case.apply(strength=0.0)), case.plain)


def test_two_halves_of_the_strength_make_a_whole(case):
    from echoreel_pack.nodes.apply_echoreel import apply_action

    half = case.apply(strength=0.5e-3)
    halves = call(case.tiny, apply_action(half, case.echoreel, case.action, 0.5e-3)) - case.plain
    whole = call(case.tiny, case.apply(strength=1e-3)) - case.plain
    assert (halves - whole).norm() < 0.05 * whole.norm()


def test_nothing_is_left_after_an_error(case, monkeypatch):
    from echoreel_pack.nodes.sampling.patch import ActionPatch

    delta = ActionPatch._delta

    def breaks(self, index, *args):
        if index == len(case.sites) - 1:
            raise RuntimeError("broken")
        return delta(self, index, *args)

    patched = case.apply()
    monkeypatch.setattr(ActionPatch, "_delta", breaks)
    with untouched(case.tiny.model), pytest.raises(RuntimeError, match="broken"):
        call(case.tiny, patched)
    assert torch.equal(call(case.tiny), case.plain)


def test_a_few_steps_of_training_come_out_the_same_when_applied(case, tmp_path):
    """Gradients reach every layer through the host's own code, and the applied layer is the one that was trained."""
    import adapters
    from echoreel_pack.echoreel_core.action.action import Action, Reference
    from echoreel_pack.echoreel_core.action.injection import added_layers
    from echoreel_pack.echoreel_core.training.gradient_checkpointing import kept_copies
    from echoreel_pack.nodes.families.base import TokenGrid
    from echoreel_pack.nodes.models.adapter import load_adapter
    from echoreel_pack.nodes.training.kernels import kernels_with_gradients

    adapter = adapters.fresh_adapter(case.tiny, case.sites)
    tokens = adapters.noise(1, 4, adapter.config.prism.action_dim, seed=3)
    action = Action.of(Reference(tokens, tokens), "", case.tiny.family)
    target = case.plain + 0.1 * adapters.noise(*case.plain.shape, seed=4) * case.plain.std()
    grids: list[TokenGrid] = []

    def layer(attention):
        def added(hidden):
            frames = case.host.to_frames(hidden, grids[-1])
            if frames is None:
                return None
            return case.host.from_frames(
                attention(frames, action.context("positive", grids[-1].frames)), hidden, grids[-1]
            )

        return added

    def enter(module, args, kwargs):
        grids.append(case.host.grid(module, args[0], kwargs))

    diffusion_model = case.tiny.model.model.diffusion_model
    optimizer = torch.optim.Adam(adapter.attentions.parameters(), lr=1e-3)
    losses = []
    handle = diffusion_model.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        for _ in range(4):
            # hosts change hidden states in place that their gradients need
            with kept_copies(), kernels_with_gradients(case.host.kernels_without_gradient):
                with added_layers(case.sites, [layer(attention) for attention in adapter.attentions]):
                    loss = torch.nn.functional.mse_loss(call(case.tiny, gradients=True), target)
                losses.append(loss.item())
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
    finally:
        handle.remove()
    assert all(attention.to_out.weight.grad.abs().sum() > 0 for attention in adapter.attentions)
    assert losses[-1] < losses[0]

    adapter.save(tmp_path / "trained.safetensors")
    echoreel = load_adapter(str(tmp_path / "trained.safetensors"))
    applied = Action.of(action.references[0], echoreel.id, case.tiny.family)
    loss = torch.nn.functional.mse_loss(call(case.tiny, case.apply(echoreel, applied)), target).item()
    assert loss < losses[-1]  # one more step than the last one measured


def test_gradients_are_the_same_when_blocks_are_run_again_for_them(case, monkeypatch):
    """As with gradient checkpointing, which leaves nothing behind the backward pass but the gradients."""
    import comfy.model_management
    from echoreel_pack.echoreel_core.action.injection import added_layers
    from echoreel_pack.echoreel_core.training.gradient_checkpointing import gradient_checkpointed, kept_copies
    from echoreel_pack.nodes.training.kernels import kernels_with_gradients

    if "ar_state" in case.tiny.options:
        pytest.skip("made chunk by chunk, a clip is sampled and not trained on: every run fills the caches further")
    attentions, grids = case.echoreel.attentions.model, []
    case.tiny.model.model.requires_grad_(False)  # as the trainer does

    def layer(attention):
        def added(hidden):
            frames = case.host.to_frames(hidden, grids[-1])
            if frames is None:
                return None
            context = case.action.context("positive", grids[-1].frames)
            return case.host.from_frames(0.01 * attention(frames, context), hidden, grids[-1])

        return added

    def enter(module, args, kwargs):
        grids.append(case.host.grid(module, args[0], kwargs))

    def gradients(again):
        attentions.zero_grad()
        in_place = case.host.changes_in_place
        blocks = gradient_checkpointed([site.block for site in case.sites] if again else [], changes_in_place=in_place)
        with (
            LiveBytes() as live,
            kept_copies(),  # where a pose is given, Wan Animate 2 writes into what it needs between its blocks
            kernels_with_gradients(case.host.kernels_without_gradient),
            blocks,
            added_layers(case.sites, [layer(attention) for attention in attentions]),
        ):
            loss = call(case.tiny, gradients=True).square().mean()
            monkeypatch.setattr(comfy.model_management, "in_training", True)
            before = live.now
            loss.backward()
            left = live.now - loss.nbytes - sum(parameter.grad.nbytes for parameter in attentions.parameters())
        return torch.cat([parameter.grad.flatten() for parameter in attentions.parameters()]), before, left

    for parameter in attentions.parameters():
        parameter.requires_grad_(True)
    handle = case.tiny.model.model.diffusion_model.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        kept, activations, caches = gradients(False)
        again, inputs_alone, left = gradients(True)
    finally:
        handle.remove()
        for parameter in attentions.parameters():
            parameter.requires_grad_(False)
    assert (kept - again).norm() < 1e-5 * kept.norm()
    assert left == caches  # of the host, in one family
    if case.host.changes_in_place:
        assert inputs_alone < 0.3 * activations


def test_the_place_in_svd_is_the_hosts_own(pack, tmp_path):
    """The same numbers as the host's pair of hooks around the text attention, told from its temporal twins by shape."""
    tiny = build("svd")
    case = Applied(tiny, tmp_path)
    grid_frames, stream, calls = tiny.frames, [], []
    rows = tiny.x.shape[0]
    contexts = [case.action.context(role, grid_frames) for role in ("negative", "positive")]

    def is_spatial(hidden, options):
        return (
            hidden.shape[0] == rows
            and hidden.shape[1] == options["activations_shape"][2] * options["activations_shape"][3]
        )

    def middle(hidden, options):
        stream.append(hidden)
        return hidden

    def output(attended, options):
        before = stream.pop()
        if not is_spatial(attended, options):
            return attended
        attention = case.echoreel.attentions.model[len(calls)]
        calls.append(1)
        halves = (before + attended).unflatten(0, (2, 1, grid_frames))
        delta = torch.cat([attention(half, context) for half, context in zip(halves, contexts, strict=True)])
        return attended + delta.flatten(0, 1)

    native = tiny.model.clone()
    native.set_model_patch(middle, "middle_patch")
    native.set_model_patch(output, "attn2_output_patch")
    theirs = call(tiny, native)
    assert len(calls) == len(case.sites)
    assert (call(tiny, case.apply()) - theirs).norm() < 1e-4 * (theirs - case.plain).norm()
