"""The added layers hold in compiled models, whatever ran before, for every kind of site."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoreel_core.action.injection import BranchSite, OutputSite, Site, added_layers

BLOCKS = 3


class Block(nn.Module):
    """A residual attention (here linear), then a pre-norm feed-forward; returns its text as well."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm, self.feed_forward = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x, text):
        x = x + self.attention(x)
        return x + self.feed_forward(self.norm(x)).tanh(), text


class Model(nn.Module):
    """A few blocks and an end."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.out = nn.Linear(6, 6)

    def forward(self, x):
        text = x.mean()
        for block in self.blocks:
            x, text = block(x, text)
        return self.out(x)


SITES = {
    "before the norm": lambda block: Site("", block, block.norm, item=0),
    "behind the branch": lambda block: BranchSite("", block, 6, block.attention, block.attention),
    "behind the block": lambda block: OutputSite("", block, 6, block, item=0),
}


class Backend:
    """Counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, _inputs):
        self.graphs += 1
        return graph


def whole(model, **options):
    return torch.compile(model, **options)


def blocks(model, **options):
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, **options)
    return model


def in_place(model, **options):
    for block in model.blocks:
        block.compile(**options)
    return model


def whole_and_blocks(model, **options):
    return torch.compile(blocks(model, **options), **options)


def forwards(model, **options):
    for block in model.blocks:
        block.forward = torch.compile(block.forward, **options)
    return model


LAYERS = [lambda x: x.sin(), lambda x: 0.5 * x.cos(), lambda x: None]


@pytest.mark.parametrize("order", [(None, 0, None, 1, 2, 0), (1, None, 0, 2, (0, 1), None)])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("way", [whole, blocks, in_place, whole_and_blocks, forwards])
@torch.inference_mode()
def test_every_order(way, site, order):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x, backend = Model(), torch.randn(4, 6), Backend()
    weights = model.state_dict()
    # an uncompiled copy is what it must agree with
    reference = Model()
    reference.load_state_dict(weights)
    compiled = way(model, backend=backend, fullgraph=True)

    def run(runs, original, which):
        if which is None:
            return runs(x)
        if isinstance(which, tuple):
            first, second = which
            with added_layers(sites_of(original), [LAYERS[first]] * BLOCKS):
                return run(runs, original, second)
        with added_layers(sites_of(original), [LAYERS[which]] * BLOCKS):
            return runs(x)

    def sites_of(original):
        return [SITES[site](block) for block in original.blocks]

    for which in order:
        torch.testing.assert_close(run(compiled, model, which), run(reference, reference, which), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()
    # with and without, and by the block once more for the first, whose input was made outside
    assert backend.graphs <= (2 if way is whole else 8)
