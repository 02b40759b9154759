"""What the added layers cost a pass of the big video models, in time and in memory: one real-sized block of each.

    COMFYUI_PATH=... python benchmarks/host_overhead.py [--frames T] [--threads N] [--cpu-time]

The blocks are ComfyUI's own with random weights, the layer is hooked in as while sampling, the action has as many
frames as the clip: 81 frames at 832 x 480. A CPU cannot run all of a clip's latent frames, so the time is measured on
the first few (--frames). That is a bound from above: self-attention grows with the square of the frames, the added
layer does not. The last columns are arithmetic at all frames: multiplications of the added layer beside those of the
block, and the folded matrices of both halves of the guidance beside the model's weights.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import arguments, interleaved, median_ratio
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1]), os.environ.get("COMFYUI_PATH", str(Path.home() / "ComfyUI"))]
OPTIONS, sys.argv[1:] = sys.argv[1:], ["--cpu"]  # the host reads its options at import
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ops  # noqa: E402
from comfy.ldm.hunyuan_video.model import DoubleStreamBlock, SingleStreamBlock  # noqa: E402
from comfy.ldm.lightricks.model import BasicTransformerBlock  # noqa: E402
from comfy.ldm.wan.model import WanAttentionBlock  # noqa: E402

from echoreel_core.action.attention import ActionAttention, ActionContext  # noqa: E402
from echoreel_core.action.injection import AnySite, BranchSite, OutputSite, Site, added_layers  # noqa: E402

OPERATIONS = {"operations": comfy.ops.disable_weight_init, "device": "cpu", "dtype": torch.float32}
ACTION_DIM, HEADS, HEAD_DIM = 1024, 8, 64
"""Of the default adapter for these families, see training/adapters.py."""

Call = Callable[[Tensor], object]


@dataclass(frozen=True)
class Model:
    """A model's sizes.

    Attributes:
        grid: latent frames, height and width in tokens of 81 frames at 832 x 480.
        parameters: of the whole model. blocks: that take a layer.
        make: → (block, its site, a call of it with a hidden state, the text's tokens in that hidden state).
    """

    dim: int
    grid: tuple[int, int, int]
    blocks: int
    parameters: float
    make: Callable[[int], tuple[nn.Module, AnySite, Call, int]]


def wan(dim: int, feed_forward: int, heads: int) -> Callable:
    def make(_tokens: int):
        block = WanAttentionBlock(
            "t2v_cross_attn", dim, feed_forward, heads, cross_attn_norm=True, operation_settings=OPERATIONS
        )
        context, vector = torch.randn(1, 512, dim), torch.randn(1, 6, dim)
        freqs = torch.eye(2).expand(1, _tokens, 1, dim // heads // 2, 2, 2)
        return block, Site("", block, block.norm2, dim), lambda x: block(x, vector, freqs, context), 0

    return make


def hunyuan(single: bool) -> Callable:
    def make(tokens: int):
        dim, heads, text = 3072, 24, 256
        freqs = torch.eye(2).expand(1, 1, text + tokens, dim // heads // 2, 2, 2)
        vector, context = torch.randn(1, dim), torch.randn(1, text, dim)
        if single:
            block = SingleStreamBlock(dim, heads, **OPERATIONS)
            return block, OutputSite("", block, dim, block), lambda x: block(x.clone(), vector, freqs), text
        block = DoubleStreamBlock(dim, heads, 4.0, qkv_bias=True, **OPERATIONS)
        site = Site("", block, block.img_norm2, dim, item=0)
        return block, site, lambda x: block(x.clone(), context.clone(), vector, freqs), 0

    return make


def ltxv(dim: int) -> Callable:
    def make(_tokens: int):
        block = BasicTransformerBlock(dim, 32, dim // 32, context_dim=dim, **OPERATIONS)
        context, timestep = torch.randn(1, 256, dim), torch.randn(1, 1, 6 * dim)
        call = lambda x: block(x.clone(), context=context, timestep=timestep)  # noqa: E731
        return block, BranchSite("", block, dim, block.attn2, block.attn2), call, 0

    return make


MODELS = {
    "Wan 1.3B": Model(1536, (21, 30, 52), 30, 1.42e9, wan(1536, 8960, 12)),
    "Wan 14B": Model(5120, (21, 30, 52), 40, 14.3e9, wan(5120, 13824, 40)),
    "Hunyuan double": Model(3072, (21, 30, 52), 60, 12.8e9, hunyuan(single=False)),
    "Hunyuan single": Model(3072, (21, 30, 52), 60, 12.8e9, hunyuan(single=True)),
    "LTXV 2B": Model(2048, (11, 15, 26), 28, 1.92e9, ltxv(2048)),
    "LTXV 13B": Model(4096, (11, 15, 26), 48, 13.0e9, ltxv(4096)),
}


def multiplications(block: nn.Module, dim: int, tokens: int) -> float:
    """Of a block for one token: its linear layers' weights and self-attention over all tokens."""
    linear = sum(module.weight.numel() for module in block.modules() if isinstance(module, nn.Linear))
    return linear + 2 * tokens * dim


@torch.inference_mode()
def main() -> None:
    """Prints one line per model."""
    parser = arguments(__doc__.splitlines()[0], repeats=3)
    parser.add_argument("--frames", type=int, default=1, help="latent frames to measure on, default %(default)s")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default all")
    options = parser.parse_args(OPTIONS)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = "CPU" if options.cpu_time else "wall"
    print(f"{options.threads} threads, torch {torch.__version__}, float32, medians of {clock} time")
    print(
        f"{'block':>16}{'tokens':>8}{'of':>7}{'without':>10}{'with':>10}{'overhead':>10}"
        f"{'arithmetic, all frames':>24}{'folded/model':>14}"
    )
    for name in options.models:
        model = MODELS[name]
        total, height, width = model.grid
        frames = min(options.frames, total)
        tokens = frames * height * width
        block, site, call, text = model.make(tokens)
        for parameter in block.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
        attention = ActionAttention(
            model.dim, ACTION_DIM, heads=HEADS, head_dim=HEAD_DIM, max_distance=total, position="relative_bias"
        )
        nn.init.normal_(attention.to_out.weight, std=0.02)
        distance = torch.arange(total)[None] - torch.arange(frames)[:, None]
        context = ActionContext(torch.randn(1, total, ACTION_DIM), distance)
        folded = attention.fold(context, torch.float32, "cpu")
        hidden = torch.randn(1, text + tokens, model.dim)

        def layer(x: Tensor, folded=folded, frames=frames, text=text) -> Tensor:
            delta = folded(x[:, text:].unflatten(1, (frames, -1))).flatten(1, 2)
            return nn.functional.pad(delta, (0, 0, text, 0)) if text else delta

        def with_layer(call=call, site=site, hidden=hidden, layer=layer) -> None:
            with added_layers([site], [layer]):
                call(hidden)

        variants = {"without": lambda call=call, hidden=hidden: call(hidden), "with": with_layer}
        seconds = interleaved(variants, options.repeats, options.cpu_time)
        without, with_ = (statistics.median(seconds[variant]) for variant in variants)
        overhead = median_ratio(seconds["with"], seconds["without"]) - 1
        everything = total * height * width
        added = 2 * model.dim * HEADS * total / multiplications(block, model.dim, everything)
        # bfloat16 in both, so the bytes cancel; the biases are beside the matrices nothing
        memory = 2 * model.blocks * 2 * model.dim * HEADS * total / model.parameters
        print(
            f"{name:>16}{tokens:>8}{everything:>7}{without:>9.2f}s{with_:>9.2f}s{overhead:>10.1%}"
            f"{added:>24.2%}{memory:>14.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
