"""What the added layer, with an action folded in, costs a block of a video model, as it is and compiled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import host_blocks
import timing
import torch
from blocks import WanBlock, WanSizes, folded_layer, rotation_of, with_random_weights
from torch import Tensor, nn

from echoreel_core.action.attention import ActionAttention, ActionContext
from echoreel_core.action.injection import AddedLayer, AnySite, Site, added_layers
from echoreel_core.lvdm.unet import LVDMConfig, LVDMUNet

from .report import Bench

SECONDS = 3.0
"""Of measuring, eager and compiled."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        make: a call of the block on its input, and the block's sites; the same numbers each time.
        layers: what is added at the sites.
        compiling: about how many seconds it takes.
    """

    name: str
    make: Callable[[], tuple[Call, Sequence[AnySite]]]
    layers: Sequence[AddedLayer]
    remark: str
    compiling: float = 40.0


@torch.inference_mode()
def check_wan(bench: Bench, sizes: WanSizes, name: str) -> None:
    """Rows: a plain block of Wan."""
    if bench.small:
        heads = sizes.heads // 4
        sizes = replace(sizes, dim=16 * heads, heads=heads, feed_forward=sizes.feed_forward // 64)
    frames, height, width = (3, 4, 6) if bench.small else (21, 30, 52)
    tokens, like = frames * height * width, {"device": bench.device, "dtype": torch.bfloat16}

    def make() -> tuple[Call, list[Site]]:
        torch.manual_seed(0)
        block = with_random_weights(lambda: WanBlock(sizes), bench.device)
        x, text, vector = (torch.randn(1, count, sizes.dim, **like) for count in (tokens, 512, 6))
        rotation = rotation_of(tokens, sizes, bench.device)
        return lambda: block(x, vector, rotation, text), [Site("", block, block.norm2, sizes.dim)]

    layer = folded_layer(sizes.dim, frames, frames, 0, torch.bfloat16, bench.device)
    measure(bench, Subject(f"{name} block, {tokens:,} tokens", make, [layer], "plain block"))


@torch.inference_mode()
def check_host(bench: Bench, names: dict[str, str]) -> None:
    """Rows: ComfyUI's own blocks.

    Args:
        names: of `host_blocks.MODELS`, and what they are called in the table.
    """
    try:
        operations = host_blocks.find_comfyui(bench.device.type)
    except ImportError as error:
        bench.row(", ".join(names.values()), f"skipped: no ComfyUI found ({error})", "set COMFYUI_PATH")
        return
    for key, name in names.items():
        with bench.attempt(name):
            _check_host_block(bench, host_blocks.MODELS[key], name, operations)


def _check_host_block(bench: Bench, model: host_blocks.Model, name: str, operations: dict) -> None:
    frames, height, width = (1, 2, 4) if bench.small else model.grid
    tokens = frames * height * width

    def make() -> tuple[Call, list[AnySite]]:
        torch.manual_seed(0)
        _block, site, call = host_blocks.make_block(model, tokens, operations, torch.bfloat16)
        x = torch.randn(1, model.text + tokens, model.dim, device=bench.device, dtype=torch.bfloat16)
        return lambda: call(x), [site]

    layer = folded_layer(model.dim, model.grid[0], frames, model.text, torch.bfloat16, bench.device)
    measure(bench, Subject(f"{name} block, {tokens:,} tokens", make, [layer], "ComfyUI's block"))


@torch.inference_mode()
def check_lvdm(bench: Bench) -> None:
    """Rows: the whole UNet of the released model."""
    size = {"model_channels": 64, "channel_mult": (1,), "res_blocks": 1, "attention_levels": (True,), "context_dim": 64}
    config = LVDMConfig(**size) if bench.small else LVDMConfig()
    frames, side, action_dim = (4, 4, 64) if bench.small else (16, 32, 4096)
    like = {"device": bench.device, "dtype": torch.bfloat16}

    def make() -> tuple[Call, list[Site]]:
        torch.manual_seed(0)
        unet = with_random_weights(partial(LVDMUNet, config), bench.device)
        x, text = torch.randn(1, 4, frames, side, side, **like), torch.randn(1, 77, config.context_dim, **like)
        timesteps = torch.tensor([601], device=bench.device)
        return lambda: unet(x, timesteps, text), unet.sites()

    context = ActionContext.plain(torch.randn(1, frames, action_dim), frames).to(bench.device)
    layers = []
    for site in make()[1]:
        heads = config.heads
        layer = ActionAttention(site.dim, action_dim, heads=heads, head_dim=site.dim // heads, max_distance=frames)
        nn.init.normal_(layer.to_out.weight, std=3 * site.dim**-0.5)  # so that rounding does not hide it
        layers.append(layer.to(bench.device).fold(context, torch.bfloat16, bench.device))
    name = f"LVDM UNet, {frames} frames, {8 * side} x {8 * side}"
    measure(bench, Subject(name, make, layers, f"the whole model, {len(layers)} layers", compiling=100))


def measure(bench: Bench, subject: Subject) -> None:
    """Rows: eager, and compiled."""
    call, sites = subject.make()

    def with_layers(call: Call = call) -> object:
        """As in a sampling run: hooks for the time of one call."""
        with added_layers(sites, subject.layers):
            return call()

    line = f"{subject.name}, eager"
    with bench.attempt(line):
        bench.row(line, _overhead(bench, call, with_layers), subject.remark)
    line = f"{subject.name}, compiled"
    if bench.enough(line, subject.compiling if bench.device.type == "cuda" else 2):
        with bench.attempt(line):
            _measure_compiled(bench, call, with_layers, line)


def _measure_compiled(bench: Bench, call: Call, with_layers: Callable[..., object], line: str) -> None:
    import torch._dynamo  # not before the process is a check's own, as it may look for cards

    backend = "inductor" if bench.device.type == "cuda" else "eager"  # on a CPU it would need a C++ compiler
    bare = torch.compile(call, backend=backend, dynamic=False)
    adapted = partial(with_layers, bare)
    took, adapted_took = (_compiling(bench, run) for run in (bare, adapted))
    result = _first(adapted())
    error, change = (_distance(result, _first(other())) for other in (with_layers, call))
    overhead = _overhead(bench, bare, adapted)
    remark = (
        f"torch.compile ({backend}): {took}; with the layer: {adapted_took}; off eager by {error:.1e} of its size, of "
        f"which the layer makes {change:.1e}"
    )
    if not error <= change / 2:
        overhead = "failed: compiled, it gives other numbers"
    bench.row(line, overhead, remark)


def _compiling(bench: Bench, call: Call) -> str:
    """In words, what compiling the call took."""
    counters = torch._dynamo.utils.counters
    counters.clear()
    start = time.perf_counter()
    for _ in range(2):  # the second would show that it is compiled anew
        timing.waited_for(call, bench.device)()
    seconds = time.perf_counter() - start
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    return f"{seconds:.0f} s, {graphs} graph{'s' * (graphs != 1)}, {breaks} breaks"


def _overhead(bench: Bench, bare: Call, with_layers: Call) -> str:
    most = min(SECONDS, bench.left / 3) if not bench.small else 0.2
    seconds = timing.on_device({"bare": bare, "with": with_layers}, bench.device, most)
    ratio = timing.median_ratio(seconds["with"], seconds["bare"])
    bare_ms, with_ms = (statistics.median(runs) * 1e3 for runs in seconds.values())
    return f"{bare_ms:.2f} ms -> {with_ms:.2f} ms, {100 * (ratio - 1):+.1f} %"


def _first(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _distance(a: Tensor, b: Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()
