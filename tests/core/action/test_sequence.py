"""Actions one after another."""

import json

import pytest
import torch
from safetensors import safe_open

from echoreel_core.action.action import Action, Reference, Timing
from echoreel_core.action.attention import ActionAttention
from echoreel_core.action.combine import combine
from echoreel_core.action.file import load_action, save_action

FRAMES, KEYS, WIDTH = 24, 6, 12


def make_action(seed: int = 0, keys: int = KEYS) -> Action:
    generator = torch.Generator().manual_seed(seed)
    tokens = [torch.randn(1, keys, WIDTH, generator=generator) for _ in range(2)]
    return Action.of(Reference(*tokens), "adapter", "host")


FIRST, SECOND, THIRD = (make_action(seed) for seed in range(3))


def sequence(*actions: Action, weights=None, crossfade: float = 0.0) -> Action:
    return combine(actions, "one after another", weights or [1.0] * len(actions), crossfade)


def shares(action: Action, frames: int = FRAMES, **options) -> torch.Tensor:
    """[T, groups], also where all groups but one are left out."""
    return action._mix_weights("positive", frames, torch.tensor(options.pop("at", range(frames))), Timing(**options))


@pytest.fixture(params=["relative_vectors", "relative_bias"])
def layer(request):
    torch.manual_seed(0)
    layer = ActionAttention(16, WIDTH, heads=2, head_dim=24, max_distance=4, position=request.param)
    torch.nn.init.normal_(layer.to_out.weight)
    torch.nn.init.normal_(layer.to_out.bias)
    if request.param == "relative_bias":
        torch.nn.init.normal_(layer.position_bias)
    return layer.double().requires_grad_(False)


HIDDEN = torch.randn(2, FRAMES, 3, 16, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_each_plays_in_its_turn_and_as_long_as_its_weight_says():
    turns = shares(sequence(FIRST, SECOND, THIRD, weights=[1, 2, 1]), 8)
    assert turns.tolist() == [[1, 0, 0]] * 2 + [[0, 1, 0]] * 4 + [[0, 0, 1]] * 2


def test_a_cross_fade_is_a_straight_line_across_the_border():
    turns = shares(sequence(FIRST, SECOND, crossfade=0.5), 8)  # from frame 2 to frame 6, the border at 4
    assert turns[:, 1].tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    assert turns[:, 0].tolist() == turns[:, 1].flip(0).tolist()


def test_a_border_within_a_frame_divides_it():
    assert shares(sequence(FIRST, SECOND), 5).tolist() == [[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]]


def test_a_cross_fade_is_no_longer_than_what_it_fades():
    turns = shares(sequence(FIRST, SECOND, THIRD, weights=[2, 2, 4], crossfade=1.0), 8)
    # the borders are at 2 and 4, both fades two frames long
    assert (
        turns.tolist()
        == [[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25], [0, 0.25, 0.75]] + [[0, 0, 1]] * 3
    )


NESTED = {
    "two": sequence(FIRST, SECOND, crossfade=0.2),
    "five": sequence(FIRST, SECOND, THIRD, FIRST, SECOND, weights=[1, 0.3, 2, 5, 0.7], crossfade=0.13),
    "more than there are frames": sequence(*[FIRST, SECOND] * 8, crossfade=0.03),
    "a blend in it": sequence(combine([FIRST, SECOND], "blend", [1, 3]), THIRD, crossfade=0.3),
    "in a blend": combine([sequence(FIRST, SECOND, crossfade=0.1), THIRD], "blend", [3, 1]),
    "in a sequence": sequence(
        THIRD,
        sequence(FIRST, SECOND, weights=[1, 2], crossfade=0.4),
        sequence(SECOND, sequence(THIRD, FIRST), crossfade=0.25),
        weights=[2, 3, 2],
        crossfade=0.17,
    ),
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("frames", [1, 2, 7, 24, 81])
def test_the_shares_add_up_to_1_at_every_frame(name, frames):
    turns = shares(NESTED[name], frames)
    assert torch.allclose(turns.sum(1), torch.ones(len(turns)), atol=1e-6)
    assert turns.min() >= 0
    within = shares(NESTED[name], frames, at=[3.5, 4.5], span=(2.0, 20.0))
    assert torch.allclose(within.sum(1), torch.ones(2), atol=1e-6)


def test_a_sequence_within_a_sequence_takes_its_place():
    inner = sequence(FIRST, SECOND)
    assert torch.equal(
        shares(sequence(THIRD, inner, weights=[2, 2]), 8)[:, 1:],
        shares(sequence(THIRD, FIRST, SECOND, weights=[4, 2, 2]), 8)[:, 1:],
    )


@pytest.mark.parametrize("role", ["positive", "negative"])
@pytest.mark.parametrize("crossfade", [0.0, 0.25])
def test_far_from_a_border_it_is_the_single_action(layer, role, crossfade):
    """The cross-fade goes from frame 9 to frame 15: before it the first action alone plays, behind it the second."""
    both = layer(HIDDEN, sequence(FIRST, SECOND, crossfade=crossfade).context(role, FRAMES))
    half = FRAMES * crossfade / 2
    for action, span, frames in (
        (FIRST, (0.0, 12 + half), slice(0, 9)),
        (SECOND, (12 - half, 24.0), slice(15, 24)),
    ):
        alone = layer(HIDDEN, action.context(role, FRAMES, timing=Timing(span=span)))
        assert torch.allclose(both[:, frames], alone[:, frames], atol=1e-12, rtol=0)
        assert not torch.allclose(both, alone, atol=0.1)


@pytest.mark.parametrize("name", NESTED)
def test_the_folded_layer_gives_the_same_numbers(layer, name):
    layer = layer.float()
    for timing in (None, Timing(span=(3.25, 20.0)), Timing(pace=1.5)):
        context = NESTED[name].context("positive", FRAMES, timing=timing)
        plain, folded = layer(HIDDEN.float(), context), layer.fold(context, torch.float32, "cpu")(HIDDEN.float())
        assert (plain - folded).norm() <= 5e-6 * plain.norm()


def test_folded_it_costs_what_a_blend_costs(layer):
    one, other = (
        layer.fold(combine([FIRST, SECOND], how, [1, 1], 0.2).context("positive", FRAMES), torch.float32, "cpu")
        for how in ("blend", "one after another")
    )
    assert one.scores_in.shape == other.scores_in.shape
    assert one.values_out.shape == other.values_out.shape


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("at", [range(0, 8), range(6, 18), [0, *range(20, 24)], [9.5, 10.5, 11.5]])
def test_a_window_is_the_whole_clips_frames(layer, name, at):
    at = [float(frame) for frame in at]
    whole = layer(HIDDEN, NESTED[name].context("positive", FRAMES))
    window = NESTED[name].context("positive", FRAMES, at=at)
    assert len(window.distance) == len(at)
    if all(map(float.is_integer, at)):
        index = [int(frame) for frame in at]
        assert torch.allclose(layer(HIDDEN[:, index], window), whole[:, index], atol=1e-12, rtol=0)


def test_in_a_window_only_those_that_play_are_attended_to():
    action = sequence(FIRST, SECOND, THIRD, crossfade=0.1)
    window = action.context("positive", FRAMES, at=(10.0, 11.0, 12.0))
    assert torch.equal(window.tokens, SECOND.references[0].positive) and window.mix_weights is None
    assert action.context("positive", FRAMES, at=(6.0, 7.0)).groups == (KEYS, KEYS)


def test_in_a_window_far_from_a_border_it_is_exactly_the_single_action(layer):
    at = [float(frame) for frame in range(8)]
    action = sequence(FIRST, SECOND, crossfade=0.25)
    contexts = (
        action.context("positive", FRAMES, at=at),
        FIRST.context("positive", FRAMES, at=at, timing=Timing(span=(0.0, 15.0))),
    )
    assert torch.equal(*(layer(HIDDEN[:, :8], context) for context in contexts))
    assert torch.equal(*(layer.fold(context, torch.float32, "cpu")(HIDDEN[:, :8].float()) for context in contexts))


def test_within_a_span_of_the_clip():
    action = sequence(FIRST, SECOND)
    assert shares(action, 8, span=(2.0, 6.0)).tolist() == [[0, 0]] * 2 + [[1, 0]] * 2 + [[0, 1]] * 2 + [[0, 0]] * 2
    distance = action.context("positive", 14, timing=Timing(span=(1.0, 13.0))).distance
    # each reference's first frame lies on the first of its part, its last on the last
    assert distance[1, 0] == 0 and distance[6, KEYS - 1] == 0
    assert distance[7, KEYS] == 0 and distance[12, -1] == 0


def test_at_its_own_pace_each_begins_with_its_part_and_ends_with_its_reference():
    action = sequence(make_action(0, keys=3), make_action(1, keys=9))
    assert shares(action, 12, pace=1.0).tolist() == [[1, 0]] * 3 + [[0, 0]] * 3 + [[0, 1]] * 6
    distance = action.context("positive", 12, timing=Timing(pace=1.0)).distance
    assert distance[2, 2] == 0 and distance[6, 3] == 0 and distance[11, 8] == 0


def test_one_that_is_left_alone_is_that_action():
    assert sequence(FIRST, SECOND, weights=[1, 0], crossfade=0.5) == FIRST


def test_what_can_not_be_put_in_sequence():
    for crossfade in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            sequence(FIRST, SECOND, crossfade=crossfade)
    with pytest.raises(ValueError, match="A blend or a sequence cannot be attended to"):
        combine([sequence(FIRST, SECOND), THIRD], "attend to all", [1, 1])


@pytest.mark.parametrize("name", NESTED)
def test_a_file_keeps_it(tmp_path, name):
    save_action(NESTED[name], tmp_path / "a.safetensors")
    loaded = load_action(tmp_path / "a.safetensors")
    assert (loaded.segments, loaded.mix_weights) == (NESTED[name].segments, NESTED[name].mix_weights)
    assert torch.equal(shares(loaded), shares(NESTED[name]))


@pytest.mark.parametrize("how", ["blend", "one after another"])
def test_only_a_sequence_needs_the_newer_format(tmp_path, how):
    """An EchoReel that knows no sequences refuses one, instead of playing everything at once."""
    save_action(combine([FIRST, SECOND], how, [1, 1]), tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["echoreel"])["version"] == (2 if how == "one after another" else 1)
