"""Runs every test, after setting up what they need: `python tests/run.py [arguments for pytest]`.

The core tests run in a virtual environment of their own (.venv-test). The host tests run in the Python of a real
ComfyUI, found through COMFYUI_PATH, else at ~/ComfyUI; its Python is COMFYUI_PYTHON, else the one of the virtual
environment inside it. Without a ComfyUI they are skipped, with one line that says so. The browser tests run there too,
where Node and a Chromium are installed. The core tests run beside all these, and are shown after them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


class Reports:
    """Runs commands, one or two at a time, and keeps the names of those that failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def run(self, name: str, command: list, environment: dict[str, str] | None = None) -> None:
        print(f"── {name}", flush=True)
        self._keep(name, subprocess.run(command, cwd=ROOT, env=environment).returncode)

    @contextmanager
    def beside(self, name: str, command: list, environment: dict[str, str]) -> Iterator[None]:
        """Runs a command while the `with` runs others; what it printed is shown after theirs."""
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            try:
                yield
                process.wait()
            finally:
                process.kill()
            output.seek(0)
            print(f"── {name}", flush=True)
            shutil.copyfileobj(output, sys.stdout.buffer)
            sys.stdout.flush()
        self._keep(name, process.returncode)

    def _keep(self, name: str, code: int) -> None:
        if code:
            self.failed.append(name)


def main(arguments: list[str]) -> int:
    requirements = [TORCH, *read_requirements(ROOT / "requirements.txt"), *TOOLS]
    python = ensure_environment(ROOT / ".venv-test", requirements)
    reports = Reports()
    reports.run("ruff check", [python, "-m", "ruff", "check", "."])
    reports.run("ruff format", [python, "-m", "ruff", "format", "--check", "."])
    core = [python, "-m", "pytest", "tests/core", *arguments]
    host = find_host()
    if host is None:
        print("── HOST TESTS SKIPPED: no ComfyUI with a virtual environment found; set COMFYUI_PATH.", flush=True)
        reports.run("core tests", core)
    else:
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}  # half of the cores each
        with reports.beside("core tests", core, {**os.environ, **threads}):
            run_host_tests(reports, *host, python, threads, arguments)
    if reports.failed:
        print(f"── FAILED: {', '.join(reports.failed)}", flush=True)
    return bool(reports.failed)


def run_host_tests(
    reports: Reports, folder: Path, host_python: Path, python: Path, threads: dict[str, str], arguments: list[str]
) -> None:
    """Everything that needs a ComfyUI, and a browser where there is one."""
    environment = {**host_environment(folder, host_python, python), **threads}
    reports.run(f"host tests on {folder}", [host_python, "-m", "pytest", "tests/host", *arguments], environment)
    if npm := shutil.which("npm"):
        install = [npm, "install", "--prefix", "tests/web", "--no-package-lock", "--no-audit", "--no-fund"]
        reports.run("what the browser tests need", install)
    reports.run("browser tests", [host_python, "-m", "pytest", "tests/web", *arguments], environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
