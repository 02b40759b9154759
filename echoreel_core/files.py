"""Files written whole or not at all, and safetensors with a JSON description in their metadata."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import EchoReelError

METADATA_KEY = "echoreel"
ABANDONED = 3600
"""A temporary file that nobody wrote to for this many seconds was left by a killed process."""
_TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside `path`: it gets that name if the `with` succeeds, and is removed otherwise.

    Leftovers of killed processes are removed too. A missing folder is created.

    Raises: OSError if the folder or the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_safetensors(
    path: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes tensors and description as one file, whole or not at all.

    Tensors are converted, copied from their device and written one by one: beside what the caller holds it takes the
    memory of the largest. (The library's `save_file` needs all of them converted at once, and refuses two names for
    the same memory.)

    Args:
        dtype: of the floating-point tensors in the file; None keeps each tensor's own.

    Raises: EchoReelError, naming the file and the reason, if it cannot be written.
    """
    path = Path(path)

    def stored_dtype(tensor: Tensor) -> torch.dtype:
        return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype

    metadata = {"format": "pt"}
    if description is not None:
        metadata[METADATA_KEY] = json.dumps(description)
    header: dict[str, Any] = {"__metadata__": metadata}
    # the widest types first, as the library does: every tensor then lies at a multiple of its own width
    names = sorted(tensors, key=lambda name: (-stored_dtype(tensors[name]).itemsize, name))
    end = 0
    for name in names:
        tensor, kind = tensors[name], stored_dtype(tensors[name])
        begin, end = end, end + tensor.numel() * kind.itemsize
        header[name] = {"dtype": _TYPE_NAMES[kind], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    try:
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                tensor = tensors[name].detach().to("cpu", stored_dtype(tensors[name]))
                file.write(tensor.flatten().view(torch.uint8).numpy().data)
    except OSError as error:
        raise EchoReelError(
            f"{Path(path).name} cannot be written ({error.strerror or error}): it needs {end / 1e6:,.0f} MB in a "
            "folder where you have write permission."
        ) from None


def read_description(path: str | os.PathLike, kind: str, version: int) -> dict[str, Any]:
    """The description in a safetensors file's metadata.

    Args:
        kind: what the file must be, e.g. "adapter".
        version: the newest format version that can be read.

    Raises: EchoReelError, naming the file and the reason, if it is no complete safetensors file, of another kind,
        or of a newer version, or the description is damaged.
    """
    name = Path(path).name
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise EchoReelError(_unreadable(name, error)) from None
    if text is None:
        raise EchoReelError(f"{name} is not an EchoReel {kind}: it has no EchoReel description.")
    try:
        description = json.loads(text)
        found_kind, found_version = description["format"], int(description["version"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EchoReelError(f"{name} cannot be used: its EchoReel description is damaged ({reason(error)}).") from None
    if found_kind != kind:
        raise EchoReelError(f"{name} is not an EchoReel {kind}: it holds an EchoReel {found_kind}.")
    if found_version > version:
        raise EchoReelError(
            f"{name} has format version {found_version}, but this pack reads up to version {version}: update the pack."
        )
    return description


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped on the CPU.

    Raises: EchoReelError if the file is no complete safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise EchoReelError(_unreadable(Path(path).name, error)) from None


def reason(error: Exception) -> str:
    """A library's error, which may fill a page, shortened to a few words for brackets."""
    return (" ".join(str(error).split()) or type(error).__name__)[:120].rstrip(".")


def _unreadable(name: str, error: Exception) -> str:
    return f"{name} cannot be read as safetensors ({reason(error)}): download or save it again."
