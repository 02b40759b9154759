"""Checkpoints of a run: one folder each, which gets its name only when it is complete."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..action.adapter import read_adapter
from ..errors import EchoReelError
from ..files import read_description, read_tensors, write_safetensors
from .state import load_state, state
from .trainer import Trainer

ADAPTER_FILE = "adapter.safetensors"
STATE_FILE = "state.safetensors"
STATE_KIND, STATE_VERSION = "training state", 1
PARTIAL = ".part"
_NAME = re.compile(r"step-(\d+)")


def list_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name).group(1)))


def save_checkpoint(trainer: Trainer, folder: str | os.PathLike, facts: Mapping[str, Any], keep: int = 3) -> Path:
    """Writes `folder/step-<n>` and removes all but the `keep` latest checkpoints.

    Args:
        facts: for the adapter's `training` description.

    Returns: the checkpoint's folder; the adapter in it is ready to use.
    """
    folder = Path(folder)
    final = folder / f"step-{trainer.step:07d}"
    partial = final.with_name(final.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_adapter(trainer, partial / ADAPTER_FILE, facts)
    tensors, values = state(trainer)
    description = {"format": STATE_KIND, "version": STATE_VERSION, **values, "settings": settings_of(trainer)}
    write_safetensors(partial / STATE_FILE, tensors, description)
    if final.exists():  # the same step, saved again: swap, so that there is always a whole one
        old = final.with_name(final.name + ".old" + PARTIAL)
        os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old)
    else:
        os.replace(partial, final)
    for outdated in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(outdated)
    return final


def settings_of(trainer: Trainer) -> dict[str, Any]:
    """What a run is carried on with: its settings, and the boundary where two experts are trained."""
    return {**asdict(trainer.settings), "boundary": trainer.trainable.boundary}


def write_adapter(
    trainer: Trainer, path: str | os.PathLike, facts: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Writes the averaged adapter, ready to use: one safetensors file with `facts` in its description."""
    config = replace(trainer.adapter.config, training={**facts, "steps": trainer.step})
    write_safetensors(path, trainer.average.weights(), config.to_json(), dtype=dtype)


def resume(trainer: Trainer, checkpoint: str | os.PathLike) -> dict[str, Any]:
    """Continues the run of a checkpoint.

    Returns: the settings that differ now, by name, with their old values.
    Raises: EchoReelError if it is damaged or belongs to another adapter.
    """
    checkpoint = Path(checkpoint)
    config, weights = read_adapter(checkpoint / ADAPTER_FILE)
    if replace(config, training={}) != replace(trainer.adapter.config, training={}):
        raise EchoReelError(
            f"The run in {checkpoint.parent.parent.name} trains an adapter of different sizes: choose another output "
            "folder, or the sizes it started with."
        )
    description = read_description(checkpoint / STATE_FILE, STATE_KIND, STATE_VERSION)
    then = description.get("settings")
    if not isinstance(then, dict):
        raise EchoReelError(
            f"{checkpoint.name}/{STATE_FILE} is damaged: it does not say which settings it was made with."
        )
    load_state(trainer, weights, read_tensors(checkpoint / STATE_FILE), description)
    now = json.loads(json.dumps(settings_of(trainer)))
    return {name: value for name, value in {"boundary": None, **then}.items() if now.get(name) != value}
