"""Gradient checkpointing, with blocks that write into their own hidden states and with blocks that do not."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from echoreel_core.action.injection import BranchSite, OutputSite, Site, added_layers
from echoreel_core.errors import EchoReelError
from echoreel_core.training.gradient_checkpointing import gradient_checkpointed, kept_copies

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from live_bytes import LiveBytes  # noqa: E402

DIM = 16


class Pure(nn.Module):
    """A block of two residual streams that leaves its inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.norm_2 = nn.LayerNorm(DIM), nn.Linear(DIM, DIM), nn.LayerNorm(DIM)
        self.feed_forward = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def forward(self, x: Tensor, *, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.attention(self.norm(x) * scale).tanh() * text.mean(1, keepdim=True)
        x = x + self.feed_forward(self.norm_2(x)) * scale
        return x, text + x.mean(1, keepdim=True)


class InPlace(Pure):
    """The same, as ComfyUI's LTX-Video and HunyuanVideo write it."""

    def forward(self, x: Tensor, *, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        x += self.attention(self.norm(x).mul_(scale)).tanh() * text.mean(1, keepdim=True)
        x.addcmul_(self.feed_forward(self.norm_2(x)), scale)
        text[:, :] += x.mean(1, keepdim=True)
        return x, text


class Model(nn.Module):
    def __init__(self, kind: type[nn.Module], depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(kind() for _ in range(depth))
        self.requires_grad_(False).double()

    def forward(self, x: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        for block in self.blocks:
            x, text = block(x, text=text, scale=scale)
        return x


SITES = {
    "before the norm": lambda i, block: Site(f"{i}", block, block.norm_2, item=0),
    "after the attention": lambda i, block: BranchSite(f"{i}", block, DIM, block.attention, block.attention),
    "after the block": lambda i, block: OutputSite(f"{i}", block, DIM, module=block, item=0),
}


def measured(kind, site, checkpointed=True, offload=False, depth=3) -> tuple[Tensor, int, int, int]:
    """(gradient of the layers' shared weight, bytes between the passes, at the peak after that, and left behind)"""
    torch.manual_seed(0)
    model, layer = Model(kind, depth), nn.Linear(DIM, DIM).double()
    x, text, scale = (torch.randn(2, n, DIM, dtype=torch.float64) for n in (20, 3, 1))
    sites = [SITES[site](i, block) for i, block in enumerate(model.blocks)]
    layers = [lambda hidden: layer(hidden).tanh()] * depth
    modules = model.blocks if checkpointed else []
    with (
        LiveBytes() as live,
        kept_copies() if kind is InPlace else nullcontext(),
        gradient_checkpointed(modules, offload, kind is InPlace),
        added_layers(sites, layers),
    ):
        loss = model(x.clone(), text.clone(), scale).square().mean()
        between, live.peak = live.now, live.now
        loss.backward()
        left = live.now - loss.nbytes - sum(parameter.grad.nbytes for parameter in layer.parameters())
    return layer.weight.grad, between, live.peak, left


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", [Pure, InPlace])
def test_gradients_are_those_without_it(kind, site):
    by_the_book, *_ = measured(Pure, site, checkpointed=False)
    for offload in (False, True):
        gradient, *_ = measured(kind, site, offload=offload)
        torch.testing.assert_close(gradient, by_the_book, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", [Pure, InPlace])
def test_a_block_more_is_its_inputs_more(kind, site):
    """Nothing of what one block's gradients need is there when the next one's are made, or at the end."""
    (_, few, few_peak, few_left), (_, many, peak, left) = (measured(kind, site, depth=depth) for depth in (3, 12))
    inputs = (20 + 3) * 2 * DIM * 8
    assert many - few <= 9 * inputs and peak - few_peak <= 9 * inputs
    assert left == few_left == 0
    _, kept, *_ = measured(kind, site, checkpointed=False, depth=12)
    assert many < 0.25 * kept


def test_what_is_written_into_an_input_later_is_told():
    torch.manual_seed(0)
    block, weight = InPlace().requires_grad_(False), torch.ones(DIM, requires_grad=True)
    x, text, scale = torch.randn(1, 4, DIM) * weight, torch.zeros(1, 2, DIM), torch.ones(1, 1, DIM)
    with gradient_checkpointed([block], changes_in_place=True):
        out, _ = block(x, text=text, scale=scale)
        x += 1
        with pytest.raises(EchoReelError, match="switch gradient_checkpointing off"):
            out.sum().backward()
