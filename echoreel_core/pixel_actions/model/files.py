"""What comes with the pack: the embedded model, and clips of actions that it was never trained on."""

from __future__ import annotations

from pathlib import Path

EMBEDDED_FILE = Path(__file__).parent / "pixel_actions.safetensors"
"""The embedded model: a released all-in-one checkpoint in half precision."""

CLIPS = Path(__file__).parents[1] / "example_clips"
"""The folder of the reference clips."""

PAIRS = Path(__file__).parents[1] / "example_pairs"
"""A data set to try training with: a folder for each action, two takes of it, their captions beside them."""


def example_clips() -> dict[str, Path]:
    """Names and files of the reference clips, in alphabetical order."""
    return {path.stem: path for path in sorted(CLIPS.glob("*.mp4"))}
