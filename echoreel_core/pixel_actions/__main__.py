"""`python -m echoreel_core.pixel_actions COMMAND`: make the embedded model from scratch, and measure it.

The recipe of the shipped files is recipes/RECIPE.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from .model.files import EMBEDDED_FILE

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m echoreel_core.pixel_actions", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="CPU threads")
    commands = parser.add_subparsers(dest="command", required=True)
    steps = {"autoencoder": 2000, "text": 600, "judge": 3000, "base": 10000, "adapter": 4800}
    for name, count in steps.items():
        command = commands.add_parser(name, help=f"train the {name}")
        command.add_argument(
            "--folder", type=Path, required=True, help="folder that everything is written to and read from"
        )
        command.add_argument("--steps", type=int, default=count)
        if name in ("base", "adapter"):
            command.add_argument("--until", type=int, help="stop after this step; the same command continues")
            command.add_argument("--noise-offset", type=float, default=0.1, help="see train_base.noise_like")
            command.add_argument("--eager", action="store_true", help="do not compile")
            command.add_argument(
                "--turning", type=float, default=3.0, help="how much more often rotating figures are drawn"
            )
        if name == "adapter":
            command.add_argument("--batch", type=int, default=16, help="pairs a step")
            command.add_argument("--device", default="cpu")
    command = commands.add_parser("pairs", help="write chunks of 1024 pairs of clips as latents")
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--chunks", type=int, default=24)
    command = commands.add_parser("export", help="write the checkpoint")
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--out", type=Path, default=EMBEDDED_FILE)
    command = commands.add_parser("curves", help="draw the training logs")
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True, help="a PNG")
    commands.add_parser("clips", help="write the example clips, of the unseen actions")
    command = commands.add_parser("evaluate", help="print the table and write results.json")
    command.add_argument("--model", type=Path, default=EMBEDDED_FILE)
    command.add_argument("--judge", type=Path, default=HERE / "evaluation" / "judge.safetensors")
    command.add_argument("--out", type=Path, default=HERE / "results" / "lvdm.json")
    command.add_argument("--clips", type=int, default=200, help="per cell")
    command.add_argument("--sampling-steps", type=int, default=25)
    command.add_argument("--guidance", type=float, default=2.0)
    command.add_argument(
        "--cells", nargs="+", help="only these, which need no adapter, such as unseen/guided; the file's others stay"
    )
    command.add_argument("--each", type=int, help="with --cells: so many of each action's clips only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command, importing what only that needs."""
    COMMANDS[arguments.command](arguments)


def _autoencoder(arguments: argparse.Namespace) -> None:
    from .recipes.train_autoencoder import train

    train(arguments.folder, arguments.steps)


def _pairs(arguments: argparse.Namespace) -> None:
    from .recipes.pairs import write_chunks

    folder = arguments.folder
    write_chunks(folder / "pairs", folder / "autoencoder.safetensors", 1, arguments.chunks)


def _judge(arguments: argparse.Namespace) -> None:
    from .recipes.train_judge import train

    train(arguments.folder, arguments.folder / "autoencoder.safetensors", arguments.steps)


def _text(arguments: argparse.Namespace) -> None:
    from .recipes.pretrain_text import train

    train(arguments.folder, arguments.steps)


def _base(arguments: argparse.Namespace) -> None:
    from .recipes.train_base import train

    folder = arguments.folder
    train(
        folder,
        folder / "text.pt",
        folder / "pairs",
        arguments.steps,
        offset=arguments.noise_offset,
        turning=arguments.turning,
        fast=not arguments.eager,
        until=arguments.until,
    )


def _adapter(arguments: argparse.Namespace) -> None:
    from .recipes.train_adapter import SETTINGS, train

    folder = arguments.folder
    settings = replace(
        SETTINGS,
        steps=arguments.steps,
        batch_size=arguments.batch,
        noise_offset=arguments.noise_offset,
        compile="no" if arguments.eager else "default",
    )
    paths = folder / "adapter", folder / "base.pt", folder / "pairs"
    train(*paths, settings, round(arguments.turning), arguments.until, arguments.device, _say)


def _export(arguments: argparse.Namespace) -> None:
    from .recipes.export import export

    folder = arguments.folder
    export(
        arguments.out,
        folder / "base.pt",
        folder / "adapter" / "adapter.safetensors",
        folder / "autoencoder.safetensors",
    )


def _curves(arguments: argparse.Namespace) -> None:
    from .recipes.curves import draw

    draw(arguments.folder, arguments.out)


def _clips(_arguments: argparse.Namespace) -> None:
    from .recipes.example_clips import write_clips, write_pairs

    write_clips()
    write_pairs()


def _evaluate(arguments: argparse.Namespace) -> None:
    from .evaluation.guided import CELLS, evaluate_guided
    from .evaluation.judge import load_judge
    from .evaluation.lvdm import LVDMPipeline
    from .evaluation.table import HEADER, evaluate, evaluate_blend, write
    from .model.embedded import load_embedded

    print(HEADER)
    judge, count = load_judge(arguments.judge), arguments.clips
    pipeline = LVDMPipeline(*load_embedded(arguments.model), arguments.sampling_steps, arguments.guidance)
    result = json.loads(arguments.out.read_text()) if arguments.cells else {}
    if not arguments.cells:
        result |= evaluate(pipeline, judge, count, progress=_say)
    result |= evaluate_guided(pipeline, judge, count, arguments.cells or CELLS, arguments.each, _say)
    if not arguments.cells:
        result |= evaluate_blend(pipeline, count, _say)
    write(result, arguments.out)


def _say(line: str) -> None:
    print(line, flush=True)


COMMANDS = {
    "autoencoder": _autoencoder,
    "pairs": _pairs,
    "judge": _judge,
    "text": _text,
    "base": _base,
    "adapter": _adapter,
    "export": _export,
    "curves": _curves,
    "clips": _clips,
    "evaluate": _evaluate,
}


if __name__ == "__main__":
    main()
