"""`python -m echoreel_core.training [check|cache|train] CONFIG`, alone or under `accelerate launch`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import EchoReelError
from .command import command_line
from .config import Config
from .lvdm.released import ReleasedModel
from .process_group import ProcessGroup


def open_released(config: Config, processes: ProcessGroup) -> ReleasedModel:
    """The checkpoint that the settings name. Raises: EchoReelError where they name a model that ComfyUI loads."""
    if config.model.comfyui is not None:
        raise EchoReelError("[model] names a model that ComfyUI loads: run `python train.py` in the pack's folder.")
    return ReleasedModel(config, processes.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return command_line("python -m echoreel_core.training", open_released, arguments)


if __name__ == "__main__":
    sys.exit(main())
