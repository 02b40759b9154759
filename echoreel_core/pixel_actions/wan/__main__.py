"""`python -m echoreel_core.pixel_actions.wan COMMAND`: make the second base model from nothing, and measure it."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import torch

from ...training.process_group import AcceleratedProcessGroup
from ..evaluation.guided import BEST, CELLS
from ..evaluation.table import ARMS, BLEND
from .by_samples import Pieces, make_base
from .export import MODEL_FILE
from .recipe import VARIANTS, Plan, evaluated, make, make_adapter, try_adapter
from .train_adapter import AdapterSettings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m echoreel_core.pixel_actions.wan", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("all", help="in one run, all that is not there: VAE, base, adapters")
    command.add_argument("--folder", type=Path, required=True, help="where everything is written")
    command.add_argument("--minutes", type=float, default=6.5, help="for all of it; a base gets what is left over")
    command.add_argument("--vae-minutes", type=float, default=1.6)
    command.add_argument("--chunks", type=int, default=12, help="of 1024 pairs of clips each, to train on")
    command.add_argument("--adapter-minutes", type=float, default=0, help="kept free for adapters, beside each other")
    command.add_argument("--batch", type=int, default=256, help="pairs a step of an adapter")
    command.add_argument("--measure-minutes", type=float, default=0.5, help="kept free for measuring")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--tiny", action="store_true", help="in sizes that a CPU can try out")
    command.add_argument("--plain", action="store_true", help="no compiler and no CUDA graphs")
    command = commands.add_parser("base", help="the base alone by samples, on a CPU; goes on where it was stopped")
    command.add_argument("--folder", type=Path, required=True, help="where everything is written, and gone on from")
    command.add_argument("--samples", type=int, default=Pieces.samples, help="clips that all steps together show")
    command.add_argument("--down", type=float, default=Pieces.down, help="share over which the learning rate falls")
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    command.add_argument("--plain", action="store_true", help="no compiler")
    command = commands.add_parser("adapter", help="an adapter by steps, on a CPU; goes on where it was stopped")
    command.add_argument("--folder", type=Path, required=True, help="where everything is written, and gone on from")
    command.add_argument("--chunks", type=int, default=60, help="of 16 pairs of clips each, at least")
    command.add_argument("--variant", choices=VARIANTS, default="bias")
    command.add_argument("--steps", type=int, default=4000)
    command.add_argument("--batch", type=int, default=AdapterSettings.batch)
    command.add_argument("--seed", type=int, default=AdapterSettings.seed)
    command.add_argument(
        "--prism-start", type=int, default=AdapterSettings.prism_start, help="steps of the prism alone"
    )
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    command.add_argument("--plain", action="store_true", help="no compiler")
    command = commands.add_parser("trial", help="an adapter by minutes, as `all` makes it")
    command.add_argument("--folder", type=Path, required=True, help="where the base is, and the adapter goes")
    command.add_argument("--pairs", type=Path, required=True, help="latents, as `all` makes them")
    command.add_argument("--variant", choices=VARIANTS, required=True)
    command.add_argument("--minutes", type=float, required=True)
    command.add_argument("--batch", type=int, default=256)
    command.add_argument("--seed", type=int, default=AdapterSettings.seed)
    command.add_argument(
        "--prism-start", type=int, default=AdapterSettings.prism_start, help="steps of the prism alone"
    )
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--tiny", action="store_true", help="in sizes that a CPU can try out")
    command = commands.add_parser("evaluate", help="print the table and write it")
    command.add_argument("--base", type=Path, default=Path(__file__).with_name(MODEL_FILE), help="the base's file")
    command.add_argument("--adapter", type=Path, help="without one, only what needs none is measured")
    command.add_argument("--out", type=Path, required=True, help="a JSON file; cells that are there already stay")
    command.add_argument("--clips", type=int, default=200, help="per cell")
    command.add_argument("--sampling-steps", type=int, default=10)
    command.add_argument("--guidance", type=float, default=3.0)
    cells = [*ARMS, *CELLS, BEST, BLEND]
    command.add_argument("--arms", nargs="+", choices=cells, default=cells, help="of the table, guided cells or blend")
    command.add_argument("--device", default="cpu")
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = vars(parser.parse_args())
    say, command = partial(print, flush=True), arguments.pop("command")
    torch.set_num_threads(arguments.pop("threads", torch.get_num_threads()))
    if command == "all":
        make(Plan(**arguments), say)
    elif command == "base":
        group = AcceleratedProcessGroup("cpu") if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
        pieces = Pieces(arguments["samples"], arguments["down"])
        make_base(arguments["folder"], pieces, not arguments["plain"], say, group)
    elif command == "adapter":
        make_adapter(**arguments, say=say)
    elif command == "trial":
        try_adapter(**arguments, say=say)
    else:
        evaluated(**arguments, say=say)


if __name__ == "__main__":
    main()
