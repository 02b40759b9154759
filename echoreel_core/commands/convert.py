"""Converts the authors' checkpoint to safetensors: one file, or separate files for base model and adapter."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import EchoReelError
from ..files import write_safetensors
from ..lvdm.checkpoint import ReleasedCheckpoint, load_released
from ..lvdm.names import TEXT_PREFIX, VAE_PREFIX

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; see `convert`."""
    parser.add_argument("source", metavar="IN", help="checkpoint.pt as published, a .ckpt, or a safetensors file")
    parser.add_argument("target", metavar="OUT", help="safetensors file to write; must not exist yet")
    parser.add_argument(
        "--adapter",
        metavar="ADAPTER_OUT",
        help="write EchoReel's parts to this file, for Load EchoReel Adapter, and the base model alone to OUT",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="precision in the files; without it, that of IN")


def run(arguments: argparse.Namespace) -> Iterator[str]:
    """Runs the command and yields its output, line by line. Raises: EchoReelError as `convert`."""
    dtype = DTYPES.get(arguments.dtype)
    checkpoint = convert(arguments.source, arguments.target, arguments.adapter, dtype)
    yield from _report(checkpoint, dtype)
    for path in filter(None, (arguments.target, arguments.adapter)):
        yield f"Wrote {path}, {_gigabytes(Path(path).stat().st_size)}"
    stored, peak = _bytes(checkpoint.kept.values()), peak_memory()
    if peak is not None:
        yield f"Peak memory {_gigabytes(peak)}; the kept tensors take {_gigabytes(stored)} in {arguments.source}"


def convert(
    source: str, target: str, adapter_target: str | None = None, dtype: torch.dtype | None = None
) -> ReleasedCheckpoint:
    """Writes the kept tensors of a checkpoint, memory-mapped and one by one.

    Args:
        source: see `lvdm.checkpoint.read_state_dict`.
        target: gets all kept tensors under their released keys, without EchoReel's if those get their own file.
        adapter_target: gets EchoReel's tensors as an adapter file.
        dtype: of the floating-point tensors in the files, or None for that of the source.

    Returns: what was read.
    Raises: EchoReelError if a file already exists, cannot be read or written, or has no EchoReel parts to separate.
    """
    targets = [Path(path) for path in (target, adapter_target) if path is not None]
    for path in targets:
        if path.exists():
            raise EchoReelError(f"{path} already exists: choose another name, or remove the file first.")
        if path.suffix != ".safetensors":
            raise EchoReelError(f"{path} is not a name for a safetensors file: choose one that ends with .safetensors.")
    # Case-folded, because many file systems ignore case.
    if len(targets) > len({os.path.realpath(path).casefold() for path in targets}):
        raise EchoReelError(f"{target} cannot hold both the base model and the adapter: choose two names.")
    checkpoint = load_released(source)
    if adapter_target is None:
        write_safetensors(target, checkpoint.kept, dtype=dtype)
        return checkpoint
    if checkpoint.adapter_config is None:
        raise EchoReelError(f"{source} has no EchoReel parts to write to {adapter_target}: it is a base model.")
    write_safetensors(adapter_target, checkpoint.adapter, checkpoint.adapter_config.to_json(), dtype=dtype)
    base = {key: tensor for key, tensor in checkpoint.kept.items() if "video_inject_" not in key}
    write_safetensors(target, base, dtype=dtype)
    return checkpoint


def peak_memory() -> int | None:
    """The most memory this process had in use so far, in bytes, memory-mapped pages included; None where unknown."""
    try:  # on Linux, ru_maxrss would include what the parent had in use before this process began
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _report(checkpoint: ReleasedCheckpoint, dtype: torch.dtype | None) -> Iterator[str]:
    prism = {key: tensor for key, tensor in checkpoint.adapter.items() if key.startswith("prism.")}
    parts = {
        "UNet": checkpoint.unet.values(),
        "Action Prism": prism.values(),
        "EchoReel layers": [tensor for key, tensor in checkpoint.adapter.items() if key not in prism],
        f"VAE ({VAE_PREFIX[:-1]})": checkpoint.vae.values(),
        f"text encoder ({TEXT_PREFIX[:-1]})": checkpoint.text.values(),
        "in all": checkpoint.kept.values(),
    }
    yield f"{'Kept':<34}{'tensors':>8}{'parameters':>14}{'written':>10}"
    for name, tensors in parts.items():
        parameters = sum(tensor.numel() for tensor in tensors)
        yield f"  {name:<32}{len(tensors):>8,}{parameters:>14,}{_gigabytes(_bytes(tensors, dtype)):>10}"
    yield "Dropped" if checkpoint.dropped else "Dropped nothing"
    for reason, names in checkpoint.dropped.items():
        examples = ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
        yield f"  {reason}: {len(names):,} ({examples})"


def _bytes(tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> int:
    return sum(
        tensor.numel() * (dtype if dtype and tensor.is_floating_point() else tensor.dtype).itemsize
        for tensor in tensors
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
