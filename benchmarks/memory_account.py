"""What a training step takes in memory, by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter
from echoreel_core.training.cost import MOMENT_BYTES
from echoreel_core.training.default_sizes import REFERENCE_PIXELS, AdapterInputs, general_form
from echoreel_core.training.optimizer import OptimizerName

KEPT_IN_A_BLOCK = 12
"""For the backward pass, of a frozen block, in sizes of its hidden state (2 bytes), beside what the feed-forward keeps
before its nonlinearity: the input of three norms, of three norms of queries and keys, queries, keys, values and result
of the first attention, queries and result of the second."""

KEPT_IN_A_LAYER = 3
"""Likewise, of an added layer: its norm's input in float32 and that norm's result, beside its narrow inner part."""

PASSING_IN_A_BLOCK = 4
"""Likewise, gradients on their way, beside the feed-forward's."""

KEPT_AS_COPIES = 7
"""Likewise, more of a block that writes into its own states: what gradients need twice is copied twice. Measured on
LTX-Video's block; HunyuanVideo's keeps no more than others."""

BESIDE_COPIES = 12
"""Likewise, once, where such a block runs again: what is copied, as long as the run lasts, and a copy of its inputs."""

KEPT_IN_THE_PRISM = 50
"""Of one of the prism's layers, in sizes of its hidden state in float32: four times two norms, an attention, and a
feed-forward of twice 4 before its gate and 4 after it, some in two bytes and some in four. Measured, not counted."""

RESERVED = 1.2e9
"""Taken by CUDA itself, by its libraries' workspaces, and by what torch's allocator cannot use."""


@dataclass(frozen=True)
class Model:
    """A model's sizes.

    Attributes:
        family: as in the table of families. sites: (number of blocks, width), ….
        parameters: of the frozen model. channels, factor: of the VAE's latents. text: width of the text's tokens.
        frames: of the latents. tokens: per frame, at the width they have most of.
        feed_forward: its width, in widths of the block.
        changes_in_place: whether blocks write into their own states, and so keep copies.
    """

    family: str
    sites: tuple[tuple[int, int], ...]
    parameters: float
    channels: int
    factor: int
    text: int
    frames: int
    tokens: int
    feed_forward: float = 4.0
    changes_in_place: bool = False


UNET_SITES = ((5, 320), (5, 640), (6, 1280))
MODELS = {
    "SVD": Model("svd", UNET_SITES, 1.52e9, 4, 8, 1024, 16, 4096),
    "AnimateDiff (SD 1.5)": Model("animatediff", UNET_SITES, 1.28e9, 4, 8, 768, 16, 4096),
    "Wan 2.1 1.3B": Model("wan", ((30, 1536),), 1.42e9, 16, 8, 4096, 21, 1560, 8960 / 1536),
    "Wan 2.2 5B": Model("wan", ((30, 3072),), 5.0e9, 48, 16, 4096, 21, 390, 14336 / 3072),
    "Wan 2.1 / 2.2 14B": Model("wan", ((40, 5120),), 14.3e9, 16, 8, 4096, 21, 1560, 13824 / 5120),
    "LTX-Video 2B": Model("ltxv", ((28, 2048),), 1.92e9, 128, 32, 4096, 11, 390, changes_in_place=True),
    "LTX-Video 13B": Model("ltxv", ((48, 4096),), 13.0e9, 128, 32, 4096, 11, 390, changes_in_place=True),
    "LTX-2 19B": Model("ltxav", ((48, 4096),), 19.0e9, 128, 32, 3840, 11, 390, changes_in_place=True),
    "HunyuanVideo": Model("hunyuan_video", ((60, 3072),), 12.8e9, 16, 8, 4096, 21, 1560, changes_in_place=True),
    "HunyuanVideo 1.5": Model("hunyuan_video", ((54, 2048),), 8.3e9, 32, 16, 3584, 21, 1560, changes_in_place=True),
    "Mochi": Model("mochi", ((48, 3072),), 10.0e9, 12, 8, 4096, 14, 1560),
    "Cosmos 1 7B": Model("cosmos", ((28, 4096),), 7.0e9, 16, 8, 1024, 11, 1560),
    "Cosmos Predict 2 2B": Model("cosmos_predict2", ((28, 2048),), 2.0e9, 16, 8, 1024, 21, 1560),
    "CogVideoX 5B": Model("cogvideox", ((42, 3072),), 5.6e9, 16, 8, 4096, 21, 1560),
    "MiniMax H3": Model("minimax_h3", ((50, 5376),), 25.0e9, 24, 16, 5376, 24, 390, changes_in_place=True),
    "Kandinsky 5 lite": Model("kandinsky5", ((32, 1792),), 2.0e9, 16, 8, 3584, 21, 1560),
}


@dataclass(frozen=True)
class Way:
    """How a run saves memory.

    Attributes:
        weight: bytes of a weight of the frozen model.
        offloaded: of the frozen model's weights, the share that waits in the computer's memory.
    """

    weight: int = 2
    offloaded: float = 0.0
    checkpointing: bool = True
    offload_activations: bool = False
    optimizer: OptimizerName = "muon"
    average: bool = True


def account(model: Model, way: Way, config: AdapterConfig | None = None) -> dict[str, float]:
    """The parts of the memory a step of one pair takes, in bytes.

    The trained weights and what belongs to them are in float32, activations in bfloat16 (`mixed_precision`), VAE and
    text encoder are not loaded, as their results are cached.

    Args:
        config: of the adapter, if not the default.
    """
    config = config or adapter_config(model)
    with torch.device("meta"):
        adapter = EchoReelAdapter(config)
    of_prism = sum(p.numel() for p in adapter.prism.parameters())
    parameters = of_prism + sum(p.numel() for p in adapter.attentions.parameters())
    depth, tokens = sum(count for count, _ in model.sites), model.frames * model.tokens
    hidden = 2 * tokens * model.sites[0][1]
    # a UNet has fewer positions where it is wider, so its widest level has its tokens at the first width
    inner = 2 * tokens * (2 * 512 + 4 * 8 * model.frames)
    kept, beside = (KEPT_AS_COPIES, BESIDE_COPIES) if model.changes_in_place else (0, 0)
    block = hidden * (KEPT_IN_A_BLOCK + model.feed_forward + KEPT_IN_A_LAYER + kept) + inner
    passing = hidden * (PASSING_IN_A_BLOCK + 2 * model.feed_forward + (beside if way.checkpointing else 0))
    prism = config.prism
    thought = 4 * model.frames * prism.grid[0] * prism.grid[1] * prism.width
    thinking = thought * KEPT_IN_THE_PRISM
    frozen = model.parameters * way.weight * (1 - way.offloaded)
    one_block = model.parameters / depth * 2  # widened, or copied in, to be used; without running again all are kept
    widened = one_block * (1 if way.checkpointing else depth) if way.weight < 2 or way.offloaded else 0
    return {
        "frozen weights": frozen,
        "… in use": widened,
        "adapter": 4 * parameters,
        "gradients": 4 * parameters,
        "moments": MOMENT_BYTES[way.optimizer] * parameters,
        "average": 4 * parameters if way.average else 0,
        "kept inputs": hidden * depth if way.checkpointing and not way.offload_activations else 0,
        "blocks": block * (1 if way.checkpointing else depth) + passing,
        "prism": thought * prism.depth + max(2 * of_prism, thinking + 2 * of_prism / prism.depth)
        if way.checkpointing
        else thinking * prism.depth + 2 * parameters,  # weights are narrowed to be used
    }


def adapter_config(model: Model, **prism: int) -> AdapterConfig:
    """The default adapter, with a prism that differs in what is given."""
    side = REFERENCE_PIXELS // model.factor
    return general_form(
        AdapterInputs(
            host=model.family,
            sites=[(f"blocks.{i}", width) for count, width in model.sites for i in range(count)],
            latent_channels=model.channels,
            latent_size=(side, side),
            latent_frames=model.frames,
            text_width=model.text,
        ),
        **prism,
    )
