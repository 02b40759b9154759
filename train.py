"""Trains an adapter for any model that ComfyUI loads: `python train.py my.toml`, with ComfyUI's Python.

`echoreel_core/training/example.toml` explains the settings. `accelerate launch train.py my.toml` trains on several GPUs
or machines.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PACK = Path(__file__).resolve().parent
NAME = "echoreel"


def import_pack() -> None:
    """Imports this folder as a package, as ComfyUI does; ComfyUI's own `nodes` keeps its name."""
    if NAME in sys.modules:
        return
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != PACK]
    spec = importlib.util.spec_from_file_location(NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    sys.modules[NAME] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


def part(name: str) -> ModuleType:
    """A module of the pack."""
    import_pack()
    return importlib.import_module(f"{NAME}.{name}")


def start_comfyui(folder: Path, options: Sequence[str]) -> None:
    """Makes ComfyUI importable as a library, with options as on its command line.

    Raises: EchoReelError where the folder holds none, or its dependencies are missing.
    """
    error = part("echoreel_core.errors").EchoReelError
    if not (folder / "comfy").is_dir():
        raise error(f"There is no ComfyUI in {folder}: set comfyui in [model] to the folder that has main.py in it.")
    sys.path.insert(0, str(folder))
    arguments, sys.argv = sys.argv, [sys.argv[0], *options]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        from comfy.cli_args import args
        from utils.extra_config import load_extra_path_config

        import nodes  # noqa: F401  the host's
    except ModuleNotFoundError as missing:
        raise error(f"ComfyUI needs {missing.name}: run train.py with the Python that runs ComfyUI.") from None
    finally:
        sys.argv = arguments
    more = [path for given in args.extra_model_paths_config or () for path in given]
    own = folder / "extra_model_paths.yaml"
    for path in [str(own), *more] if own.is_file() else more:
        load_extra_path_config(path)


def open_model(config: Any, processes: Any) -> Any:
    """The model that the settings name: the released family's as it is, all others through ComfyUI."""
    model = config.model
    if model.comfyui is None:
        return part("echoreel_core.training.__main__").open_released(config, processes)
    if processes.device.type == "cuda" and processes.device.index is not None:
        import torch

        torch.cuda.set_device(processes.device)  # ComfyUI takes the current one
    on_cpu = ["--cpu"] if processes.device.type == "cpu" else []
    start_comfyui(model.comfyui, [*model.comfyui_options, *on_cpu])
    return part("nodes.training.headless").HeadlessModel(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return part("echoreel_core.training.command").command_line("python train.py", open_model, arguments)


if __name__ == "__main__":
    sys.exit(main())
