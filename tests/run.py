"""Runs every test, after setting up what they need: `python tests/run.py [arguments for pytest]`.

The core tests run in a virtual environment of their own (.venv-test). The host tests run in the Python of a real
ComfyUI, found through COMFYUI_PATH, else at ~/ComfyUI; its Python is COMFYUI_PYTHON, else the one of the virtual
environment inside it. Without a ComfyUI they are skipped, with one line that says so. The browser tests run there too,
where Node and a Chromium are installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from echoreel_core.commands.environment import TORCH, ensure_environment, python_of, read_requirements  # noqa: E402

TOOLS = [
    "pytest",
    "ruff",
    "numpy",
    "pillow",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "tomli; python_version < '3.11'",
]
BROUGHT = {"pytest": ["pytest", "exceptiongroup", "tomli"], "accelerate": ["--no-deps", "accelerate"]}
"""What the tests import and a ComfyUI may lack, with what each needs beside it; all of it pure Python."""


def find_host() -> tuple[Path, Path] | None:
    """(folder, interpreter) of the ComfyUI to test against, or None."""
    folder = Path(os.environ.get("COMFYUI_PATH", Path.home() / "ComfyUI")).expanduser()
    named = os.environ.get("COMFYUI_PYTHON")
    candidates = [Path(named)] if named else [python_of(folder / name) for name in (".venv", "venv")]
    python = next((path for path in candidates if path.exists()), None)
    return (folder, python) if python and (folder / "comfy").is_dir() else None


def host_environment(folder: Path, python: Path, own_python: Path) -> dict[str, str]:
    """Environment variables for the host's Python; brings along what the tests need and it lacks."""
    environment = {**os.environ, "COMFYUI_PATH": str(folder), "COMFYUI_PYTHON": str(python)}
    places = []
    for name, packages in BROUGHT.items():
        if subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode:
            place = ROOT / ".venv-test" / f"{name}-alone"
            if not place.exists():
                install = [own_python, "-m", "pip", "install", "--quiet", "--target", place, *packages]
                subprocess.run(install, check=True)
            places.append(str(place))
    return {**environment, "PYTHONPATH": os.pathsep.join(places)} if places else environment


def main(arguments: list[str]) -> int:
    requirements = [TORCH, *read_requirements(ROOT / "requirements.txt"), *TOOLS]
    python = ensure_environment(ROOT / ".venv-test", requirements)
    failed = []

    def run(name: str, command: list, **options) -> None:
        print(f"── {name}", flush=True)
        if subprocess.run(command, cwd=ROOT, **options).returncode:
            failed.append(name)

    run("ruff check", [python, "-m", "ruff", "check", "."])
    run("ruff format", [python, "-m", "ruff", "format", "--check", "."])
    host = find_host()
    if host is None:
        print("── HOST TESTS SKIPPED: no ComfyUI with a virtual environment found; set COMFYUI_PATH.", flush=True)
    else:
        folder, host_python = host
        environment = host_environment(folder, host_python, python)
        run(f"host tests on {folder}", [host_python, "-m", "pytest", "tests/host", *arguments], env=environment)
        if npm := shutil.which("npm"):
            install = [npm, "install", "--prefix", "tests/web", "--no-package-lock", "--no-audit", "--no-fund"]
            run("what the browser tests need", install)
        run("browser tests", [host_python, "-m", "pytest", "tests/web", *arguments], env=environment)
    run("core tests", [python, "-m", "pytest", "tests/core", *arguments])
    if failed:
        print(f"── FAILED: {', '.join(failed)}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
