"""Virtual environments for the commands that set up everything they need. Standard library only."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

PYTHONS = ((3, 10), (3, 13))
"""The oldest and the newest Python that the commands support."""

TORCH = "torch==2.13.0"
"""For the commands' own environments only; in ComfyUI the pack uses whatever torch is there."""


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure_environment(environment: Path, requirements: list[str]) -> Path:
    """Creates or updates the virtual environment and returns its interpreter.

    Raises: SystemExit, saying why in one sentence, if this Python is not supported or an installation fails.
    """
    oldest, newest = PYTHONS
    if not oldest <= sys.version_info[:2] <= newest:
        sys.exit(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} is not supported: use one from "
            f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}."
        )
    python = python_of(environment)
    stamp = environment / "installed.txt"
    wanted = hashlib.sha256("\n".join(requirements).encode()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Setting up {environment.name} (once; this takes some minutes) …", flush=True)
    if not python.exists():
        venv.create(environment, with_pip=True, clear=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    if subprocess.run(command).returncode:
        sys.exit(f"Installing {' '.join(requirements)} failed: see pip's message above, then run the command again.")
    stamp.write_text(wanted)
    return python


def read_requirements(path: Path) -> list[str]:
    """The lines of a requirements file without comments."""
    return [line for line in (raw.split("#")[0].strip() for raw in path.read_text().splitlines()) if line]
