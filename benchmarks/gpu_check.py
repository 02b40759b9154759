"""What a GPU makes of EchoReel, in one table: are the numbers right, what do the added layers and training cost.

    python benchmarks/gpu_check.py [--markdown docs/gpu.md] [--minutes 8] [--only parity …]
    python benchmarks/gpu_check.py --device cpu --small      the same in a small form, in under a minute

Weights are random but for the embedded model's, so nothing is downloaded. Blocks of LTX-Video and HunyuanVideo are
ComfyUI's own, which is looked for where COMFYUI_PATH says. Checks run one after another, each for its share of the time
at most.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

START = time.monotonic()  # before torch, whose import can take long
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from blocks import WAN_1_3B, WAN_14B  # noqa: E402
from gpu_checks import embedded, facts, layers, parity, wan_step  # noqa: E402
from gpu_checks.report import Row, markdown  # noqa: E402
from gpu_checks.runner import Check, ask, run  # noqa: E402

LTXV = {"LTXV 2B": "LTX-Video 2B"}
HUNYUAN = {"Hunyuan double": "HunyuanVideo double", "Hunyuan single": "HunyuanVideo single"}

CHECKS = {
    check.name: check
    for check in (
        Check("device", facts.check, 45),
        Check("parity", parity.check, 90),
        Check("training-wan", wan_step.check, 150),
        Check("training-embedded", embedded.check, 45),
        Check("layer-wan-1.3b", partial(layers.check_wan, sizes=WAN_1_3B, name="Wan 2.1 1.3B"), 75),
        Check("layer-wan-14b", partial(layers.check_wan, sizes=WAN_14B, name="Wan 2.1 14B"), 75),
        Check("layer-ltxv", partial(layers.check_host, names=LTXV), 75),
        Check("layer-hunyuan", partial(layers.check_host, names=HUNYUAN), 120),
        Check("layer-lvdm", layers.check_lvdm, 240),
    )
}
"""In the order in which they run, each with its limit in seconds; the small form has none."""

MARGIN = 5.0
"""Seconds of the time allowed that are kept for ending processes."""


def page(rows: Sequence[Row], device: facts.Device, minutes: float) -> str:
    """The table with what belongs to it, as Markdown."""
    return "\n".join(
        [
            "# Measured on a GPU",
            "",
            f"{device.name}, torch {torch.__version__}, {date.today().isoformat()}, by `python benchmarks/gpu_check.py`"
            f" in {minutes:.1f} minutes. Weights are random but for the embedded model's; times are medians of"
            " interleaved runs, ratios are taken within a round.",
            "",
            markdown(rows),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns: 1 where a check failed or a number is wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="toy sizes, which a CPU does in under a minute")
    parser.add_argument("--minutes", type=float, default=8.0, help="to end within, default %(default)g")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where to write the table, after every check")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="default all")
    options = parser.parse_args(arguments)
    device = ask(partial(facts.find_device, options.device))
    if device.kind != options.device:
        parser.error("there is no CUDA card; the small form runs with --device cpu --small")
    rows: list[Row] = []
    for name in options.only:
        check = replace(CHECKS[name], seconds=60 * options.minutes) if options.small else CHECKS[name]
        for row in run(check, device.kind, options.small, START + 60 * options.minutes - MARGIN):
            rows.append(row)
            print(
                f"[{time.monotonic() - START:5.0f} s] {row.check}: {row.what}: {row.result}  {row.remark}", flush=True
            )
        if options.markdown:
            options.markdown.write_text(page(rows, device, (time.monotonic() - START) / 60), encoding="utf-8")
    print("\n" + page(rows, device, (time.monotonic() - START) / 60))
    return int(any(row.result.startswith(("failed", "DOES NOT HOLD")) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
