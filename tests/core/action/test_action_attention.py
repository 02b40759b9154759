"""The added attention layer: its formula, its folded form, and what it attends to."""

import copy
import math

import pytest
import torch
from released_model import relative_error

from echoreel_core.action.attention import ActionAttention, ActionContext
from echoreel_core.modules.attention import at_distance

POSITIONS = ["relative_vectors", "relative_bias"]
DIM, ACTION_DIM, HEADS, HEAD_DIM, MAX_DISTANCE = 24, 20, 3, 10, 4


def make_layer(position: str, seed: int = 0) -> ActionAttention:
    """A layer with every parameter drawn, the zero-initialised ones included."""
    torch.manual_seed(seed)
    layer = ActionAttention(
        DIM, ACTION_DIM, heads=HEADS, head_dim=HEAD_DIM, max_distance=MAX_DISTANCE, position=position
    )
    for name, parameter in layer.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name == "norm.weight"), std=0.3)
    return layer.requires_grad_(False)


def make_context(groups: tuple[int, ...], frames: int, *, batch: int = 2, weighted: bool, stretched: bool):
    """Keys in groups, each group with its own positions 0 … n-1 (stretched by a fraction, or frame by frame)."""
    pace = 0.73 if stretched else 1.0
    distance = torch.cat([torch.arange(n)[None] - torch.arange(frames)[:, None] * pace for n in groups], dim=1)
    return ActionContext(
        tokens=torch.randn(batch, sum(groups), ACTION_DIM),
        distance=distance,
        score_bias=torch.randn(frames, sum(groups)) if weighted else None,
        groups=groups,
        mix_weights=torch.rand(frames, len(groups)) if len(groups) > 1 else None,
    )


def by_the_formula(layer: ActionAttention, x: torch.Tensor, context: ActionContext) -> torch.Tensor:
    """The layer one sample, position, frame, head and group at a time, in float64: slow, and plain to see."""
    weights = {name: value.double() for name, value in layer.state_dict().items()}

    def entry(table: torch.Tensor, distance: float) -> torch.Tensor:
        distance = min(max(distance, -MAX_DISTANCE), MAX_DISTANCE) + MAX_DISTANCE
        low, high = math.floor(distance), math.ceil(distance)
        return table[low] if low == high else table[low] * (high - distance) + table[high] * (distance - low)

    out = torch.zeros_like(x, dtype=torch.float64)
    b, frames, positions, _ = x.shape
    for i in range(b):
        tokens = context.tokens[i].double()
        for p in range(positions):
            hidden = torch.nn.functional.layer_norm(
                x[i, :, p].double(), (DIM,), weights["norm.weight"], weights["norm.bias"]
            )
            for t in range(frames):
                first = 0
                for g, size in enumerate(context.groups):
                    heads = []
                    for h in range(HEADS):
                        rows = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
                        query = weights["to_q.weight"][rows] @ hidden[t]
                        scores, values = [], []
                        for s in range(first, first + size):
                            key, value = (
                                weights["to_k.weight"][rows] @ tokens[s],
                                weights["to_v.weight"][rows] @ tokens[s],
                            )
                            distance = context.distance[t, s].item()
                            if layer.position == "relative_vectors":
                                key = key + entry(weights["position_k"], distance)
                                value = value + entry(weights["position_v"], distance)
                            score = query @ key / math.sqrt(HEAD_DIM)
                            if layer.position == "relative_bias":
                                score = score + entry(weights["position_bias"], distance)[h]
                            if context.score_bias is not None:
                                score = score + context.score_bias[t, s]
                            scores.append(score)
                            values.append(value)
                        heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
                    share = 1.0 if context.mix_weights is None else context.mix_weights[t, g]
                    out[i, t, p] += share * (weights["to_out.weight"] @ torch.cat(heads) + weights["to_out.bias"])
                    first += size
    return out


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("groups", [(6,), (5, 3), (1, 4, 2)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stretched", [False, True])
def test_plain_and_folded_follow_the_formula(position, groups, weighted, stretched):
    layer = make_layer(position)
    context = make_context(groups, frames=7, weighted=weighted, stretched=stretched)  # distances beyond the maximum
    x = torch.randn(2, 7, 3, DIM)
    expected = by_the_formula(layer, x, context)
    assert relative_error(layer(x, context), expected) <= 2e-6
    assert relative_error(layer.fold(context, x.dtype, x.device)(x), expected) <= 2e-6


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("groups", [(6,), (5, 3)])
def test_one_action_serves_a_batch(position, groups):
    layer = make_layer(position)
    context = make_context(groups, frames=7, batch=1, weighted=False, stretched=False)
    x = torch.randn(3, 7, 4, DIM)
    expected = torch.cat([by_the_formula(layer, row[None], context) for row in x])
    assert relative_error(layer(x, context), expected) <= 2e-6
    assert relative_error(layer.fold(context, x.dtype, x.device)(x), expected) <= 2e-6


@pytest.mark.parametrize("position", POSITIONS)
def test_a_fresh_layer_changes_nothing(position):
    torch.manual_seed(0)
    layer = ActionAttention(
        DIM, ACTION_DIM, heads=HEADS, head_dim=HEAD_DIM, max_distance=MAX_DISTANCE, position=position
    )
    context = make_context((5, 3), frames=7, weighted=True, stretched=True)
    x = torch.randn(2, 7, 3, DIM)
    for delta in (layer(x, context), layer.fold(context, x.dtype, x.device)(x)):
        assert torch.equal(x + delta, x)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_folded_in_half_precision(position, dtype, bound):
    """Folded in float32 and rounded once: a few roundings (each half of `bound` / 2) in a row, not a sum in half."""
    layer = make_layer(position)
    context = make_context((6,), frames=7, weighted=False, stretched=True)
    x = torch.randn(2, 7, 50, DIM).to(dtype)
    out = layer.fold(context, dtype, x.device)(x)
    assert out.dtype == dtype
    assert relative_error(out, layer(x.float(), context)) <= 2 * bound
    assert relative_error(copy.deepcopy(layer).to(dtype)(x, context), layer(x.float(), context)) <= 4 * bound


def test_the_folded_layer_stands_alone():
    layer = make_layer("relative_vectors")
    context = make_context((6,), frames=7, weighted=False, stretched=False)
    folded = layer.fold(context, torch.float32, "cpu")
    x = torch.randn(2, 7, 3, DIM)
    before = folded(x)
    for parameter in layer.parameters():
        parameter.zero_()
    context.tokens.zero_()
    assert torch.equal(folded(x), before)
    assert folded.nbytes == 4 * (2 * 2 * 7 * DIM * HEADS * 6 + 2 * 7 * HEADS * 6)


def test_a_relative_bias_folds_to_one_matrix_for_all_frames():
    context = make_context((6,), frames=7, weighted=False, stretched=False)
    assert make_layer("relative_bias").fold(context, torch.float32, "cpu").scores_in.shape == (2, 1, DIM, HEADS * 6)
    assert make_layer("relative_vectors").fold(context, torch.float32, "cpu").scores_in.shape[1] == 7


def test_folding_is_worth_it_until_the_keys_outgrow_the_head():
    layer = ActionAttention(320, 64, heads=8, head_dim=40, max_distance=16)
    assert layer.worth_folding(16) and layer.worth_folding(40)
    assert not layer.worth_folding(200)


def test_distances_between_frames_are_interpolated():
    table = torch.tensor([[0.0], [10.0], [30.0], [40.0], [100.0]])  # distances -2 … 2
    distance = torch.tensor([[-9.0, -2.0, -1.5, 0.0, 0.25, 1.5, 2.0, 7.0]])
    expected = torch.tensor([[0.0, 0.0, 5.0, 30.0, 32.5, 70.0, 100.0, 100.0]])
    assert torch.equal(at_distance(table, distance)[..., 0], expected)


def test_an_unknown_position_is_refused():
    with pytest.raises(ValueError, match="absolute"):
        make_layer("absolute")


def test_training_reaches_every_parameter():
    """The plain form is what is trained: gradients arrive everywhere once the output projection is not zero."""
    for position in POSITIONS:
        layer = make_layer(position).requires_grad_(True)
        context = make_context((5, 3), frames=7, weighted=True, stretched=True)
        layer(torch.randn(2, 7, 3, DIM), context).square().mean().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
