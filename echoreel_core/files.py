"""Files written whole or not at all, and safetensors with a JSON description in their metadata."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import stat
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
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}
DEEPEST = 32
"""Levels of lists and objects within each other in a description; ours have seven."""


def check_file(path: str | os.PathLike, kind: str) -> None:
    """Lets pass only what can be opened and read to its end: a plain file, not a folder, pipe or device.

    Args:
        kind: what the user is to choose instead, e.g. "video".

    Raises: EchoReelError, naming the file and the reason.
    """
    name = os.path.basename(os.fspath(path))
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb"):
                pass
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = "No such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise EchoReelError(
            f"{name} cannot be opened ({why}): check its name, place and permissions, or choose another {kind}."
        ) from None
    if stat.S_ISDIR(status.st_mode):
        raise EchoReelError(f"{name} cannot be opened because it is a folder: choose another {kind}.")
    if not stat.S_ISREG(status.st_mode):
        raise EchoReelError(
            f"{name} cannot be opened because it is a pipe or a device: choose another {kind}, on a disk."
        )
    if not status.st_size:
        raise EchoReelError(f"{name} is empty (0 bytes), damaged or not yet written: copy or upload it again.")


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

    Raises: EchoReelError, naming the file and the reason, if it cannot be written, or if a tensor has a type or
        layout that safetensors does not support.
    """
    path = Path(path)
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in _TYPE_NAMES:
            kind = "without values" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}".replace("torch.", "")
            raise EchoReelError(
                f"{path} cannot be written: the tensor {name} is of a kind that safetensors does not hold ({kind})."
            )

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
    check_file(path, kind)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise EchoReelError(_unreadable(name, error)) from None
    if text is None:
        raise EchoReelError(f"{name} is not an EchoReel {kind}: it has no EchoReel description.")
    try:
        description = json.loads(text)
        _check_plain(description)
        found_kind, found_version = description["format"], int(description["version"])
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise EchoReelError(f"{name} cannot be used: its EchoReel description is damaged ({reason(error)}).") from None
    if found_kind != kind:
        raise EchoReelError(f"{name} is not an EchoReel {kind}: it holds an EchoReel {str(found_kind)[:40]}.")
    if found_version > version:
        raise EchoReelError(
            f"{name} has format version {found_version}, but this pack reads up to version {version}: update the pack."
        )
    return description


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped on the CPU.

    Raises: EchoReelError if the file is no complete safetensors file.
    """
    check_file(path, "safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise EchoReelError(_unreadable(Path(path).name, error)) from None


def valid_text(text: str) -> str:
    """The text with ? for halves of surrogate pairs, which neither files nor libraries take."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _check_plain(description: Any) -> None:
    """Raises ValueError where a description is nested without end or holds numbers that cannot be counted with."""
    level = [description]
    for _ in range(DEEPEST):
        for value in level:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"a number is {value}")
            if isinstance(value, int) and abs(value) > 1 << 64:
                raise ValueError("a number has more than 64 bits")
        inner = (
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, (dict, list))
        )
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def reason(error: Exception) -> str:
    """A library's error, which may fill a page, shortened to a few words for brackets."""
    return (" ".join(str(error).split()) or type(error).__name__)[:120].rstrip(".")


def _unreadable(name: str, error: Exception) -> str:
    return f"{name} cannot be read as safetensors ({reason(error)}): download or save it again."
