"""The added layers sit exactly between the last attention and the feed-forward, and leave no trace."""

import weakref

import pytest
import torch
from torch import nn

from echoreel_core.action.injection import Site, added_layers
from echoreel_core.lvdm.patches import TransformerPatches
from echoreel_core.training.gradient_checkpointing import gradient_checkpointed


class Block(nn.Module):
    """A block as the hosts' are: residual attention (here linear), then a pre-norm feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm, self.feed_forward = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x, delta=0.0):
        x = x + self.attention(x)
        x = x + delta
        return x + self.feed_forward(self.norm(x)).tanh()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block()).double()


def sites(model) -> list[Site]:
    return [Site(str(i), block, block.norm) for i, block in enumerate(model)]


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def layer(x):
    return x.sin() * 3


def by_hand(model, x, *layers):
    """Every block with what `layers` add, one after the other, computed inside it."""
    for block in model:
        hidden = x + block.attention(x)
        total = 0.0
        for add in layers:
            total = total + add(hidden + total)
        x = block(x, total)
    return x


def test_added_before_the_feed_forward(model):
    x = torch.randn(4, 6, dtype=torch.float64)
    with added_layers(sites(model), [layer, layer]):
        out = model(x)
    torch.testing.assert_close(out, by_hand(model, x, layer), rtol=1e-12, atol=1e-12)
    assert (out - model(x)).abs().max() > 0.1


def test_the_same_layer_in_the_unet_as_by_hand(small):
    """In the LVDM block x + d reaches norm3: the hook form equals the block computed step by step."""
    block = small.unet.sites()[0].block
    x = torch.randn(1, 8, 64, 32)
    context = small.recorded["context"]

    with torch.no_grad():
        with added_layers(small.unet.sites()[:1], [layer]):
            out = block(x, context, TransformerPatches())
        hidden = x + block.attn1(block.norm1(x).flatten(0, 1)).view_as(x)
        hidden = hidden + block.attn1_tmp(block.norm4(hidden))
        hidden = hidden + block.attn2(block.norm2(hidden).flatten(1, 2), context).view_as(x)
        hidden = hidden + block.attn2_tmp(block.norm5(hidden))
        hidden = hidden + layer(hidden)
        expected = hidden + block.ff(block.norm3(hidden))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_nested_layers_add_up(model):
    def other(x):
        return x.cos()

    x = torch.randn(4, 6, dtype=torch.float64)
    with added_layers(sites(model), [layer, layer]), added_layers(sites(model), [other, other]):
        out = model(x)
    torch.testing.assert_close(out, by_hand(model, x, layer, other), rtol=1e-12, atol=1e-12)
    with added_layers(sites(model), [layer, layer]):
        with added_layers(sites(model), [other, other]):
            pass
        once = model(x)
    torch.testing.assert_close(once, by_hand(model, x, layer), rtol=1e-12, atol=1e-12)


def test_nothing_is_left_after_the_end(model):
    x = torch.randn(4, 6, dtype=torch.float64)
    before = model(x)
    with added_layers(sites(model), [layer, layer]):
        assert hooks(model) == 6
        model(x)
        model(x)  # a second pass inside works like the first
    assert hooks(model) == 0
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_nothing_is_left_after_an_error(model, error):
    x = torch.randn(4, 6, dtype=torch.float64)
    before = model(x)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def fail(_x):
        raise error

    with pytest.raises(error), added_layers(sites(model), [layer, fail]):
        model(x)
    assert hooks(model) == 0
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert torch.equal(model(x), before)


def test_a_pass_works_after_one_that_failed_inside(model):
    """What the failed pass left on its way must not be added in the next one."""
    x = torch.randn(4, 6, dtype=torch.float64)
    failing = [True]

    def break_first_feed_forward(_module, _args):
        if failing.pop() if failing else False:
            raise RuntimeError("out of memory")

    handle = model[0].feed_forward.register_forward_pre_hook(break_first_feed_forward)
    with added_layers(sites(model), [layer, layer]):
        with pytest.raises(RuntimeError):
            model(x * 2)
        out = model(x)
    handle.remove()
    torch.testing.assert_close(out, by_hand(model, x, layer), rtol=1e-12, atol=1e-12)


def test_a_layer_in_another_dtype_keeps_the_models(model):
    model = model.to(torch.bfloat16)
    with added_layers(sites(model), [lambda x: layer(x.float())] * 2):
        assert model(torch.randn(4, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_zero_is_bit_identical(model):
    x = torch.randn(4, 6, dtype=torch.float64)
    with added_layers(sites(model), [torch.zeros_like, torch.zeros_like]):
        out = model(x)
    assert torch.equal(out, model(x))


def test_one_layer_per_site(model):
    with pytest.raises(ValueError), added_layers(sites(model), [layer]):
        pass
    assert hooks(model) == 0


def test_gradient_checkpointing_keeps_one_block_at_a_time():
    """What a block computes again for its gradients is free again when they are made, and they are the same."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(12)))
    attention = nn.Linear(6, 6)
    x = torch.randn(64, 6)

    def gradient(checkpointed, alive):
        attention.zero_grad()

        def layer(hidden):
            delta = attention(hidden).tanh()
            alive.append(weakref.ref(delta))
            return delta

        with gradient_checkpointed(checkpointed), added_layers(sites(model), [layer] * 12):
            loss = model(x).square().mean()
            loss.backward()
            held = sum(reference() is not None for reference in alive)
        return attention.weight.grad.clone(), held

    kept, _ = gradient([], [])
    again, held = gradient(list(model), deltas := [])
    assert len(deltas) == 24, "every layer runs again in the backward pass"
    assert held <= 1
    torch.testing.assert_close(again, kept, rtol=1e-6, atol=1e-9)
