"""What the added layers cost a pass of the big video models, in time and in memory: one real-sized block of each.

    COMFYUI_PATH=... python benchmarks/host_overhead.py [--frames T] [--compile] [--threads N] [--cpu-time]

The blocks are ComfyUI's own with random weights, the layer is hooked in as while sampling, the action has as many
frames as the clip: 81 frames at 832 x 480. A CPU cannot run all of a clip's latent frames, so the time is measured on
the first few (--frames). That is a bound from above: self-attention grows with the square of the frames, the added
layer does not. The last columns are arithmetic at all frames: multiplications of the added layer beside those of the
block, and the folded matrices of both halves of the guidance beside the model's weights.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import arguments, interleaved, median_ratio
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from blocks import HEADS, folded_layer
from host_blocks import MODELS, find_comfyui, make_block

from echoreel_core.action.injection import AddedLayer, AnySite, added_layers


def multiplications(block: nn.Module, dim: int, tokens: int) -> float:
    """Of a block for one token: its linear layers' weights and self-attention over all tokens."""
    linear = sum(module.weight.numel() for module in block.modules() if isinstance(module, nn.Linear))
    return linear + 2 * tokens * dim


@torch.inference_mode()
def main() -> None:
    """Prints one line per model."""
    parser = arguments(__doc__.splitlines()[0], repeats=3)
    parser.add_argument("--frames", type=int, default=1, help="latent frames to measure on, default %(default)s")
    parser.add_argument("--compile", action="store_true", help="compiled as well, by torch.compile with inductor")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    operations = find_comfyui("cpu")
    clock = "CPU" if options.cpu_time else "wall"
    print(f"{options.threads} threads, torch {torch.__version__}, float32, medians of {clock} time")
    print(
        f"{'block':>26}{'tokens':>8}{'of':>7}{'without':>10}{'with':>10}{'overhead':>10}"
        f"{'arithmetic, all frames':>24}{'folded/model':>14}"
    )
    for name in options.models:
        model = MODELS[name]
        total, height, width = model.grid
        frames = min(options.frames, total)
        tokens = frames * height * width
        block, site, call = make_block(model, tokens, operations, torch.float32)
        layer = folded_layer(model.dim, total, frames, model.text, torch.float32, "cpu")
        hidden = torch.randn(1, model.text + tokens, model.dim)
        calls = {name: call}
        if options.compile:
            calls[f"{name}, compiled"] = torch.compile(call, dynamic=False)
        variants = {}
        for how, each in calls.items():
            variants[how, "without"] = partial(each, hidden)
            variants[how, "with"] = partial(with_layer, each, hidden, site, layer)
        seconds = interleaved(variants, options.repeats, options.cpu_time)
        everything = total * height * width
        added = 2 * model.dim * HEADS * total / multiplications(block, model.dim, everything)
        # bfloat16 in both, so the bytes cancel; the biases are beside the matrices nothing
        memory = 2 * model.blocks * 2 * model.dim * HEADS * total / model.parameters
        for how in calls:
            without, with_ = seconds[how, "without"], seconds[how, "with"]
            print(
                f"{how:>26}{tokens:>8}{everything:>7}{statistics.median(without):>9.2f}s{statistics.median(with_):>9.2f}s"
                f"{median_ratio(with_, without) - 1:>10.1%}{added:>24.2%}{memory:>14.2%}",
                flush=True,
            )


def with_layer(call: Callable[[torch.Tensor], object], hidden: torch.Tensor, site: AnySite, layer: AddedLayer) -> None:
    """A call with the layer hooked in, as while sampling."""
    with added_layers([site], [layer]):
        call(hidden)


if __name__ == "__main__":
    main()
