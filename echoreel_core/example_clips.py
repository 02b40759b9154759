"""The reference clips that come with the pack: actions that the embedded model was never trained on."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "pixel_actions" / "clips"


def example_clips() -> dict[str, Path]:
    """Names and files, in alphabetical order."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.mp4"))}
