"""Whatever else is wired in, in whatever order: random graphs against the added layers written out by hand.

ORDER_DRAWS says how many graphs are drawn, ORDER_FIRST with which seed they begin.
"""

from __future__ import annotations

import os

import comfy.ldm.wan.model
import pytest
import torch
from by_hand import lvdm_forward, wan_forward
from comfy.ldm.modules.attention import attention_pytorch
from conditioning import hooks_in
from random_graphs import Base, Draw
from tiny_families import build

FIRST, DRAWS = int(os.environ.get("ORDER_FIRST", 0)), int(os.environ.get("ORDER_DRAWS", 220))
COMPILED = 30
"""Every so many graphs one has a node that compiles the model."""


@pytest.fixture(scope="module")
def wan(pack, tmp_path_factory):
    import adapters
    from echoreel_pack.nodes.families.wan import WAN

    tiny, folder = build("wan t2v"), tmp_path_factory.mktemp("adapters")
    sites = WAN.sites(tiny.model.model.diffusion_model)
    both = [
        adapters.adapter_for(folder / f"{position}.safetensors", tiny, sites, position=position)
        for position in ("relative_bias", "relative_vectors")
    ]
    return Base(
        "Wan",
        tiny.model,
        both,
        channels=16,
        text_width=4096,
        weight="diffusion_model.blocks.0.self_attn.q.weight",
        sizes=[(3, 8, 8), (4, 8, 4), (6, 4, 8)],
        fps=16,
        frames_per_latent=4,
        forward=wan_forward,
        frames_axis=2,
        blocks=["diffusion_model.blocks.0", "diffusion_model.blocks.1"],
    )


@pytest.fixture(scope="module")
def embedded(pack, folders):
    from echoreel_pack.nodes import load_echoreel

    model, _, _, echoreel = load_echoreel.LoadCheckpoint.execute(load_echoreel.EMBEDDED).result
    unet = model.model.diffusion_model
    return Base(
        "the embedded model",
        model,
        [echoreel],
        channels=4,
        text_width=48,
        weight="diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight",
        sizes=[(4, 8, 8), (6, 8, 4)],
        fps=8,
        frames_per_latent=1,
        forward=lvdm_forward,
        frames_axis=0,
        blocks=[f"diffusion_model.{site.name}" for site in unet.sites()[:2]],
    )


@pytest.fixture(autouse=True)
def one_attention(monkeypatch):
    """The host's attention for CPUs breaks compiled graphs: here it is the one that GPUs have."""
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + DRAWS))
def test_a_random_graph_is_as_by_hand(wan, embedded, seed):
    base = embedded if seed % 6 == 4 else wan
    graph = Draw(base, seed, compiled="eager" if seed % COMPILED == COMPILED - 1 else None).graph()
    result, expected = graph.results()
    assert hooks_in(base.model) == 0
    error, size = (result - expected).norm(), expected.norm()
    print(f"{graph}\n  error {error / size:.2e}")
    assert error < 2e-5 * size, str(graph)
