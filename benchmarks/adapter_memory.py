"""What training an adapter of the default size takes in memory: an account by arithmetic, and what fits which card.

python benchmarks/adapter_memory.py              the account, and what fits 8, 12, 16 and 24 GB
python benchmarks/adapter_memory.py --measure    the account against live bytes of two blocks of true size, on the CPU
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from blocks import WAN_1_3B, PlainWan, WanSizes, with_random_weights
from gpu_checks.pairs import NoisePairs
from gpu_checks.wan_step import TEXT_TOKENS, PlainWanTrainable
from live_bytes import LiveBytes
from memory_account import MODELS, RESERVED, Model, Way, account, adapter_config

from echoreel_core.action.adapter import EchoReelAdapter
from echoreel_core.training.config import TrainingSettings
from echoreel_core.training.default_sizes import parameter_count
from echoreel_core.training.trainer import Trainer

GB = 1e9
CARDS = (8, 12, 16, 24)
SHOWN = ("Wan 2.1 1.3B", "Wan 2.2 5B", "Wan 2.1 / 2.2 14B", "LTX-Video 2B", "LTX-2 19B", "HunyuanVideo")
CLIPS = (("832 x 480", 1.0), ("640 x 352", 0.564), ("512 x 288", 0.369), ("384 x 224", 0.215))
"""Sizes in pixels, and their share of the tokens."""
LENGTHS = (81, 49, 33, 17)
MARGIN = 1.1
"""On an H200, the step that was measured took 9 % more than the account says."""
THRIFT = (
    Way(checkpointing=False),
    Way(),
    Way(offload_activations=True),
    Way(offload_activations=True, optimizer="adamw8bit"),
    Way(weight=1, offload_activations=True, optimizer="adamw8bit"),
    Way(weight=1, offload_activations=True, optimizer="adamw8bit", average=False),
)
"""From the quickest to the most sparing."""


def framed(model: Model, frames: int, share: float) -> Model:
    """The model with clips of so many frames, and so many of the tokens per frame."""
    return replace(model, frames=1 + round((model.frames - 1) * (frames - 1) / 80), tokens=round(model.tokens * share))


def fitting(model: Model, card: int) -> tuple[str, Way] | None:
    """The largest clip, and the quickest way to train on it, that fits a card; first whole models, then offloaded."""
    room = card * GB / MARGIN - RESERVED
    for pixels, share in CLIPS:
        for frames in LENGTHS:
            clip = framed(model, frames, share)
            for way in THRIFT:
                if sum(account(clip, way).values()) <= room:
                    return f"{frames} x {pixels}", way
            way = replace(THRIFT[-1], offloaded=1.0)
            rest = sum(account(clip, way).values())
            if rest <= room:
                return f"{frames} x {pixels}", replace(way, offloaded=1 - (room - rest) / model.parameters)
    return None


def in_words(model: Model, way: Way) -> Iterator[str]:
    """The settings of a way."""
    if way.checkpointing:
        yield "checkpointing"
    if way.offload_activations:
        yield "activations offloaded"
    if way.optimizer == "adamw8bit":
        yield "8-bit AdamW"
    if way.weight == 1:
        yield "fp8"
    if not way.average:
        yield "no average"
    if way.offloaded * model.parameters > 0.05 * GB:
        yield f"{way.offloaded * model.parameters / GB:.1f} GB of weights offloaded"


def print_account() -> None:
    """One line per model, then the table of cards."""
    parts = list(account(MODELS["Wan 2.1 1.3B"], Way()))
    print("81 frames of 832 x 480 (UNets: 16 of 512 x 512), one pair a step, gradient checkpointing; in GB\n")
    print(f"{'':>22}{'parameters':>12}" + "".join(f"{part:>15}" for part in parts) + f"{'in all':>8}")
    for name, model in MODELS.items():
        sizes = account(model, Way())
        row = "".join(f"{size / GB:>15.2f}" for size in sizes.values())
        parameters = parameter_count(adapter_config(model)) / 1e6
        print(f"{name:>22}{parameters:>10.0f} M{row}{(sum(sizes.values()) + RESERVED) / GB:>8.1f}")
    print("\n| model |" + "".join(f" {card} GB |" for card in CARDS) + "\n| --- |" + " --- |" * len(CARDS))
    for name in SHOWN:
        cells = []
        for card in CARDS:
            found = fitting(MODELS[name], card)
            cells.append("nothing" if found is None else "; ".join([found[0], *in_words(MODELS[name], found[1])]))
        print(f"| {name} |" + "".join(f" {cell} |" for cell in cells))


def measured(
    sizes: WanSizes, frames: int, size: tuple[int, int], way: Way, **prism: int
) -> Iterator[tuple[str, float, float]]:
    """What prism and blocks take at the peak of a forward and backward pass, beside their gradients, in bytes: by
    arithmetic, and live."""
    torch.manual_seed(0)
    tokens = size[0] * size[1] // 4
    widths = sizes.channels, 8, sizes.text_width
    model = Model("wan", ((sizes.depth, sizes.dim),), 0, *widths, frames, tokens, sizes.feed_forward / sizes.dim)
    config = adapter_config(model, **prism)
    trainable = PlainWanTrainable(with_random_weights(lambda: PlainWan(sizes), torch.device("cpu")))
    adapter = EchoReelAdapter(config)
    for attention in adapter.attentions:  # at zero, the gradient of all before it would be zero too
        torch.nn.init.normal_(attention.to_out.weight, std=0.02)
    side = config.prism.latent_size[0]
    shapes = (sizes.channels, frames, *size), (sizes.channels, frames, side, side), (TEXT_TOKENS, sizes.text_width)
    settings = TrainingSettings(mixed_precision="bf16", gradient_checkpointing=way.checkpointing, average=0.0)
    trainer = Trainer(trainable, adapter, NoisePairs(*shapes, 1), settings)
    (batch,) = trainer._micro_batches(range(1))
    objective, parts = trainer.objective, account(model, way, config)
    for parameter in adapter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with LiveBytes() as live, objective.checkpointed():
        action = objective.action(batch)
        action.backward(torch.ones_like(action))
    yield "prism", parts["prism"], live.peak
    action = action.detach().requires_grad_()
    with LiveBytes() as live, objective.checkpointed(), objective.attached(action, frames):
        objective.errors(batch, action, batch.draws.u).mean().backward()
    yield "blocks", parts["kept inputs"] + parts["blocks"], live.peak


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--frames", type=int, default=2, help="latent frames of the measured clip")
    parser.add_argument("--depth", type=int, default=2, help="blocks of the measured model")
    options = parser.parse_args()
    if not options.measure:
        return print_account()
    for checkpointing in (True, False):
        sizes, way = replace(WAN_1_3B, depth=options.depth), Way(checkpointing=checkpointing)
        for name, told, found in measured(sizes, options.frames, (60, 104), way):
            how = "with" if checkpointing else "without"
            print(
                f"{name}, {how} gradient checkpointing: {told / GB:.2f} GB told, {found / GB:.2f} GB live", flush=True
            )


if __name__ == "__main__":
    main()
