"""Safetensors files with a JSON description in their metadata, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

METADATA_KEY = "echoreel"


def write_safetensors(path: str | os.PathLike, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes tensors and description to a temporary file beside `path`, then renames it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        tensors = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
        save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(description), "format": "pt"})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_description(path: str | os.PathLike) -> dict[str, Any] | None:
    """The description in a safetensors file's metadata, or None where it has none.

    Raises: ValueError where the file is no complete safetensors file, or the description is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{Path(path).name} can not be read as safetensors ({error}): download or save it again."
        ) from None
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{Path(path).name}: its EchoReel description is damaged ({error}).") from None


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped on the CPU.

    Raises: ValueError where the file is no complete safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{Path(path).name} can not be read as safetensors ({error}): download or save it again."
        ) from None
