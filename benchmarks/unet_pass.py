"""One pass of the released-size LVDM UNet, plain and with EchoReel folded in; and what the plain pass spends time on.

    python benchmarks/unet_pass.py [--threads N] [--dtype bfloat16] [--compile]

Random weights: the arithmetic is the same whatever they are. With --compile, the UNet is compiled by inductor as well,
and called with EchoReel and without in turn, as by two samplers that share a compiled model.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import arguments, interleaved, median_ratio
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from echoreel_core.action.attention import ActionAttention, ActionContext
from echoreel_core.action.injection import added_layers
from echoreel_core.lvdm.unet import LVDMConfig, LVDMUNet

ACTION_DIM, FRAMES, TEXT_TOKENS = 4096, 16, 77
GROUPS = {  # in this order, the first whose words are in an operator's name takes it
    "attention": ("scaled_dot_product", "attention", "softmax", "bmm"),
    "convolution": ("conv",),
    "linear": ("addmm", "::mm", "mkl_linear", "linear"),
    "norm": ("norm",),
    "copies": ("copy", "cat", "clone", "upsample", "contiguous", "index"),
    "pointwise": ("add", "mul", "silu", "gelu"),
}


def profile(run) -> dict[str, float]:
    """Share of the self CPU time of one run, by group of operators."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run()
    shares = dict.fromkeys([*GROUPS, "other"], 0.0)
    for event in profiler.key_averages():
        name = event.key.lower()
        group = next((group for group, words in GROUPS.items() if any(word in name for word in words)), "other")
        shares[group] += event.self_cpu_time_total
    total = sum(shares.values())
    return {group: share / total for group, share in shares.items()}


@torch.inference_mode()
def main() -> None:
    """Prints medians, the ratio, and the profile."""
    parser = arguments(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--size", type=int, nargs=2, default=(32, 32), metavar=("H", "W"), help="of the latents")
    parser.add_argument("--compile", action="store_true", help="compiled as well, by torch.compile with inductor")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)

    unet = LVDMUNet(LVDMConfig()).to(dtype).eval()
    sites = unet.sites()
    context = ActionContext.plain(torch.randn(1, FRAMES, ACTION_DIM), FRAMES)
    folded = []
    for site in sites:
        dim = site.norm.weight.shape[0]
        layer = ActionAttention(dim, ACTION_DIM, heads=8, head_dim=dim // 8, max_distance=FRAMES)
        torch.nn.init.normal_(layer.to_out.weight, std=dim**-0.5)
        folded.append(layer.fold(context, dtype, "cpu"))
    x = torch.randn(1, 4, FRAMES, *options.size, dtype=dtype)
    text = torch.randn(1, TEXT_TOKENS, unet.config.context_dim, dtype=dtype)
    timesteps = torch.tensor([601])

    def plain(model: Callable = unet) -> torch.Tensor:
        return model(x, timesteps, text)

    def with_echoreel(model: Callable = unet) -> torch.Tensor:
        with added_layers(sites, folded):
            return model(x, timesteps, text)

    tokens, weight = torch.randn(4096, 1280, dtype=dtype), torch.randn(5120, 1280, dtype=dtype)

    def one_linear() -> torch.Tensor:
        return torch.nn.functional.linear(tokens, weight)

    variants = {"plain": plain, "EchoReel": with_echoreel, "one linear": one_linear}
    if options.compile:
        compiled = torch.compile(unet, dynamic=False)
        variants |= {
            "plain, compiled": partial(plain, compiled),
            "EchoReel, compiled": partial(with_echoreel, compiled),
        }
    seconds = interleaved(variants, options.repeats, options.cpu_time)
    parameters = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    print(
        f"UNet of {parameters:.0f} M parameters, latents {list(x.shape)}, {options.dtype}, {options.threads} threads, "
        f"torch {torch.__version__}, {'CPU' if options.cpu_time else 'wall'} time"
    )
    for name, runs in seconds.items():
        print(f"  {name:<18} median {statistics.median(runs):7.3f} s   fastest {min(runs):7.3f} s")
    for how in ("", ", compiled") if options.compile else ("",):
        print(f"  with EchoReel / plain{how}: {median_ratio(seconds[f'EchoReel{how}'], seconds[f'plain{how}']):.3f}")
    for name, run in (("plain", plain), ("one linear", one_linear)):
        with FlopCounterMode(display=False) as counter:
            run()
        operations = counter.get_total_flops() / 1e9
        print(f"  {name:<18} {operations:6.0f} GFLOP, {operations / statistics.median(seconds[name]):6.0f} GFLOP/s")
    print("Self CPU time of the plain pass:")
    for group, share in sorted(profile(plain).items(), key=lambda item: -item[1]):
        print(f"  {group:<12} {share:6.1%}")


if __name__ == "__main__":
    main()
