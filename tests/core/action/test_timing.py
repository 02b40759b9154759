"""When in the clip an action happens."""

import pytest
import torch

from echoreel_core.action.action import Action, Reference, Timing
from echoreel_core.action.attention import ActionAttention
from echoreel_core.action.combine import combine

FRAMES, KEYS, WIDTH = 9, 5, 12


def make_action(seed: int = 0, keys: int = KEYS) -> Action:
    generator = torch.Generator().manual_seed(seed)
    tokens = [torch.randn(1, keys, WIDTH, generator=generator) for _ in range(2)]
    return Action.of(Reference(*tokens), "adapter", "host")


def make_layer(position: str) -> ActionAttention:
    torch.manual_seed(0)
    layer = ActionAttention(16, WIDTH, heads=2, head_dim=8, max_distance=4, position=position)
    torch.nn.init.normal_(layer.to_out.weight)
    torch.nn.init.normal_(layer.to_out.bias)
    if position == "relative_bias":
        torch.nn.init.normal_(layer.position_bias)
    return layer


def test_a_window_is_the_whole_clips_frames():
    whole = make_action().context("positive", FRAMES)
    window = make_action().context("positive", FRAMES, at=(3.0, 4.0, 5.0))
    assert torch.equal(window.distance, whole.distance[3:6])


def test_stretched_over_a_span():
    context = make_action().context("positive", FRAMES, timing=Timing(span=(2.0, 7.0)))
    # the reference's first frame lies on the span's first, its last on the last
    assert context.distance[:, 0].tolist() == [0, 0, 0, -1, -2, -3, -4, -4, -4]
    assert context.mix_weights[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]


def test_a_span_that_begins_within_a_frame_has_its_part_of_it():
    context = make_action().context("positive", FRAMES, timing=Timing(span=(1.25, 3.5)))
    assert context.mix_weights[:, 0].tolist() == [0, 0.75, 1, 0.5, 0, 0, 0, 0, 0]


def test_at_its_own_pace_it_ends_with_the_reference():
    context = make_action().context("positive", FRAMES, timing=Timing(pace=1.0))
    assert context.distance[:, 0].tolist() == [0, -1, -2, -3, -4, -4, -4, -4, -4]
    assert context.mix_weights[:, 0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    twice = make_action().context("positive", FRAMES, timing=Timing(span=(3.0, 9.0), pace=2.0))
    assert twice.distance[3:6, 0].tolist() == [0, -2, -4]
    assert twice.mix_weights[:, 0].tolist() == [0, 0, 0, 1, 1, 0.5, 0, 0, 0]


def test_a_blend_at_its_own_pace_ends_reference_by_reference():
    blend = combine([make_action(0, keys=3), make_action(1, keys=5)], "blend", [1.0, 1.0])
    context = blend.context("positive", FRAMES, timing=Timing(pace=1.0))
    assert context.mix_weights.tolist() == [[0.5, 0.5]] * 3 + [[0.0, 0.5]] * 2 + [[0.0, 0.0]] * 4


@pytest.mark.parametrize("position", ["relative_bias", "relative_vectors"])
@pytest.mark.parametrize("how", ["one", "blend"])
def test_the_folded_layer_gives_the_same_numbers(position, how):
    action = make_action() if how == "one" else combine([make_action(0), make_action(1)], "blend", [1.0, 3.0])
    layer, x = make_layer(position), torch.randn(2, FRAMES, 3, 16)
    context = action.context("negative", FRAMES, timing=Timing(span=(1.25, 6.5)))
    plain, folded = layer(x, context), layer.fold(context, x.dtype, x.device)(x)
    assert torch.allclose(folded, plain, atol=1e-5)
    assert not plain[:, 0].any() and not folded[:, 0].any()
    assert not plain[:, 7:].any() and not folded[:, 7:].any()


@pytest.mark.parametrize("position", ["relative_bias", "relative_vectors"])
def test_a_span_costs_no_matrices_per_frame(position):
    layer = make_layer(position)
    whole, span = (
        layer.fold(make_action().context("positive", FRAMES, timing=timing), torch.float32, "cpu")
        for timing in (None, Timing(span=(1.0, 5.0)))
    )
    assert whole.values_out.shape == span.values_out.shape
    assert span.mix_weights.shape == (FRAMES, 2 * KEYS)
