"""Generates a clip with the embedded model, without and with EchoReel, from a reference clip of an action."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import EchoReelError
from ..pixel_actions.model.files import EMBEDDED_FILE, example_clips
from .environment import TORCH, ensure_environment, read_requirements

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-demo"
PROMPT = "a big green robot tracing figure eights on a navy background"
REFERENCE = "figure eight"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    names = ", ".join(example_clips())
    parser.add_argument("--prompt", default=PROMPT, help='what to generate (default: "%(default)s")')
    parser.add_argument(
        "--reference",
        default=REFERENCE,
        metavar="CLIP",
        help=f"your own video, or one that comes with the pack (default: %(default)s): {names}",
    )
    parser.add_argument("--caption", help="what the reference shows (default: its title, or the .txt file beside it)")
    parser.add_argument("--strength", type=float, default=1.0, help="how strongly the action is followed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25, help="of sampling")
    parser.add_argument(
        "--out", type=Path, default=Path("echoreel-demo"), metavar="FOLDER", help="(default: %(default)s)"
    )


def in_own_environment(argv: list[str]) -> int | None:
    """Runs the command in its own virtual environment and returns the exit code; None if this is that environment."""
    if Path(sys.prefix).resolve() == ENVIRONMENT:
        return None
    requirements = [TORCH, *read_requirements(ROOT / "requirements.txt"), "numpy", "pillow"]
    python = ensure_environment(ENVIRONMENT, requirements)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([python, "-m", "echoreel_core", *argv], env=environment).returncode


def run(arguments: argparse.Namespace) -> Iterator[str]:
    """Runs the command and yields its output, line by line. Raises: EchoReelError on bad input."""
    import torch

    from ..files import valid_text, whole_file
    from ..pixel_actions.model.adapted_model import generate, noise_for
    from ..pixel_actions.model.embedded import load_embedded
    from ..pixel_actions.model.latents import decode, encode
    from ..pixel_actions.world.pictures import contact_sheet, side_by_side
    from ..pixel_actions.world.words import unknown_words
    from ..video.frames import FrameSelection, read_video
    from ..video.write import write_video

    if arguments.strength < 0:
        raise EchoReelError(f"The strength is {arguments.strength}: use 0 (off) or more; 1 is as trained.")
    if not -(1 << 63) <= arguments.seed < 1 << 64:
        raise EchoReelError(f"The seed is {arguments.seed}: use a whole number from 0 to {(1 << 64) - 1}.")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise EchoReelError(f"{arguments.out} is a file: name a folder for --out.")
    prompt = valid_text(arguments.prompt)
    source = example_clips().get(arguments.reference, Path(arguments.reference))
    taken = read_video(source, FrameSelection(frames=16, mode="even"), width=32, height=32, crop="center")
    caption = valid_text(taken.caption if arguments.caption is None else arguments.caption)
    yield f"Reference: {taken.source.name}, {caption!r}"
    yield f"Prompt:    {prompt!r}"
    if unknown := unknown_words(prompt):
        yield f"           (the model was never taught: {', '.join(unknown)})"
    model, autoencoder = load_embedded(EMBEDDED_FILE)
    reference = taken.frames.movedim(-1, 1)[None]
    latents = encode(autoencoder, reference)
    made = {}
    for name, references in (("without", []), ("with", [(latents, [caption])])):
        yield f"Sampling {name} EchoReel …"
        sampled = generate(
            model,
            [prompt],
            noise_for(1, arguments.seed),
            *references,
            steps=arguments.steps,
            strength=arguments.strength,
            dtype=torch.float32,
        )
        made[f"{name} EchoReel"] = decode(autoencoder, sampled)[0]
    clips = {"reference": reference[0], **made}
    arguments.out.mkdir(parents=True, exist_ok=True)
    film, sheet = arguments.out / "demo.mp4", arguments.out / "demo.png"
    write_video(film, side_by_side(clips), 8, title=prompt)
    with whole_file(sheet) as temporary:
        contact_sheet(clips).save(temporary, "PNG")
    yield f"Wrote {film} and {sheet}"
