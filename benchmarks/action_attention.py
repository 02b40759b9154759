"""One added layer, folded, plain, and plain with the context tiled per position as the authors' code runs it.

    python benchmarks/action_attention.py [--threads N]

Sizes are those of the released model's sites at 32 x 32 latents and 16 frames. The tiled layer repeats the action for
each of the h * w positions and projects keys and values anew for each of them; all three give the same numbers.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch
from timing import arguments, interleaved, median_ratio
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from echoreel_core.action.attention import ActionAttention, ActionContext
from echoreel_core.modules.attention import at_distance

ACTION_DIM, FRAMES, HEADS = 4096, 16, 8
SITES = {(320, 32): 5, (640, 16): 5, (1280, 8): 5, (1280, 4): 1}
"""(width, height and width in positions) of the released model's sites: how many there are."""


def tiled(layer: ActionAttention, x: Tensor, context: ActionContext) -> Tensor:
    """The layer over sequences of T frames, one per position, each with a context of its own."""
    _, frames, positions, _ = x.shape
    tokens = context.tokens.repeat_interleave(positions, dim=0)  # [P, S, action_dim]
    q = layer.to_q(layer.norm(x[0].transpose(0, 1)))
    q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, layer.to_k(tokens), layer.to_v(tokens)))
    position_k, position_v = (at_distance(table, context.distance) for table in (layer.position_k, layer.position_v))
    scores = q @ k.mT + torch.einsum("phtd,tsd->phts", q, position_k)
    weight = (scores * layer.head_dim**-0.5).softmax(-1)
    out = weight @ v + torch.einsum("phts,tsd->phtd", weight, position_v)
    return layer.to_out(out.transpose(1, 2).flatten(-2)).transpose(0, 1)[None]


@torch.inference_mode()
def main() -> None:
    """Prints medians and ratios per size of site."""
    options = arguments(__doc__.splitlines()[0], repeats=5).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = "CPU" if options.cpu_time else "wall"
    print(f"{options.threads} threads, torch {torch.__version__}, float32, medians of {clock} time in milliseconds")
    print(f"{'site':>16}{'folded':>10}{'plain':>10}{'tiled':>10}{'plain/folded':>14}{'tiled/folded':>14}{'error':>10}")
    total = dict.fromkeys(("folded", "plain", "tiled"), 0.0)
    for (dim, side), count in SITES.items():
        layer = ActionAttention(dim, ACTION_DIM, heads=HEADS, head_dim=dim // HEADS, max_distance=FRAMES)
        torch.nn.init.normal_(layer.to_out.weight, std=dim**-0.5)
        context = ActionContext.plain(torch.randn(1, FRAMES, ACTION_DIM), FRAMES)
        x = torch.randn(1, FRAMES, side * side, dim)
        folded = layer.fold(context, x.dtype, x.device)
        variants = {
            "folded": lambda folded=folded, x=x: folded(x),
            "plain": lambda layer=layer, x=x, context=context: layer(x, context),
            "tiled": lambda layer=layer, x=x, context=context: tiled(layer, x, context),
        }
        reference = variants["tiled"]()
        error = max(((variants[name]() - reference).norm() / reference.norm()).item() for name in ("folded", "plain"))
        seconds = interleaved(variants, options.repeats, options.cpu_time)
        medians = {name: statistics.median(runs) * 1e3 for name, runs in seconds.items()}
        total = {name: total[name] + count * medians[name] for name in total}
        row = "".join(f"{median:10.2f}" for median in medians.values())
        ratios = [median_ratio(seconds[name], seconds["folded"]) for name in ("plain", "tiled")]
        print(f"{dim:>5} at {side:>2} x {side:<3}{row}{ratios[0]:>14.1f}{ratios[1]:>14.1f}{error:>10.0e}", flush=True)
    row = "".join(f"{milliseconds:10.2f}" for milliseconds in total.values())
    ratios = [total[name] / total["folded"] for name in ("plain", "tiled")]
    print(f"{f'all {sum(SITES.values())} sites':>16}{row}{ratios[0]:>14.1f}{ratios[1]:>14.1f}")


if __name__ == "__main__":
    main()
