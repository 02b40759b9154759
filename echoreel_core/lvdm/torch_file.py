"""Torch's own files, read without torch's unpickler: nothing in them is called, and only tensors are created.

`torch.load(weights_only=True)` reads other trainers' files only with a list of allowed names that all threads of the
process share. Here every name in the file becomes an object that does nothing, whatever is called on it.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import EchoReelError
from ..files import reason

# What trainers and torch leave in their files. None of it is looked up; the list only tells a file with a trainer's
# state from one that was made to do harm, so that the user hears of the latter.
_TRAINER_NAMES = re.compile(
    r"(deepspeed|pytorch_lightning|lightning|lightning_fabric|omegaconf|numpy|pathlib|torch\.optim|torch\._utils)\."
    r"|argparse\.Namespace$|typing\.Any$|collections\.(Counter|OrderedDict|defaultdict)$|_codecs\.encode$"
    r"|torch\.(Size|device|[a-z]*int[0-9]*|b?float[0-9]*\w*|bool|half|double|\w+Storage)$"
    r"|torch\.(nn\.parameter\.(Parameter|Buffer)|serialization\._get_layout|torch_version\.TorchVersion)$"
    r"|torch\.storage\.(Typed|Untyped)Storage$"
    r"|(builtins|__builtin__)\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|long|object|set|slice|str|tuple)$"
)
_DICTIONARIES = ("AttributeDict", "OrderedDict", "defaultdict")
_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "Untyped": torch.uint8,
    }.items()
}
_MAGIC = 0x1950A86A20F9469CFC6C
"""The first value in a file in the format from before 2020."""


def read_torch_file(path: Path) -> object:
    """What `torch.save` was given: containers, numbers, text and tensors; everything else becomes an empty dictionary.

    Tensors are memory-mapped, except in files in the format from before 2020, which are read whole.

    Raises: EchoReelError, naming the file and the reason, if it is damaged or tries to run code.
    """
    foreign: set[str] = set()
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            content = _read_zip(path, file, foreign) if zipped else _read_old(file, foreign)
    except Exception as error:  # whatever damaged or hostile bytes make the unpickler run into
        if not foreign:
            raise EchoReelError(
                f"{path.name} cannot be read because it is incomplete or damaged: download it again ({reason(error)})."
            ) from None
    if foreign:
        raise EchoReelError(
            f"{path.name} was not loaded because it tries to run code ({', '.join(sorted(foreign)[:3])[:150]}): "
            "use the authors' file, or a safetensors file."
        )
    return content


def _read_zip(path: Path, file: BinaryIO, foreign: set[str]) -> object:
    whole = torch.from_file(os.fspath(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next(name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl"))[: -len("data.pkl")]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("its parts are compressed")
        order = entries.get(f"{root}byteorder")
        if order is not None and archive.read(order).decode("ascii") != sys.byteorder:
            raise ValueError("it was written on a machine with another byte order")

        def storage(key: str, size: int) -> Tensor:
            place = entries[f"{root}data/{key}"].header_offset
            file.seek(place)
            name, extra = struct.unpack("<26xHH", file.read(30))
            begin = place + 30 + name + extra
            return whole[begin : begin + size]

        pickled = io.BytesIO(archive.read(f"{root}data.pkl"))
        return _Unpickler(pickled, storage, foreign).load()


def _read_old(file: BinaryIO, foreign: set[str]) -> object:
    """Magic number, version, facts, content and the storages' names, all pickled; then the storages."""
    storages: dict[str, Tensor] = {}
    left = os.fstat(file.fileno()).st_size

    def storage(key: str, size: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= size
            if left < 0:
                raise ValueError("a tensor is larger than the file")
            storages[key] = torch.empty(size, dtype=torch.uint8)
        return storages[key]

    magic, _, _, content, names = (_Unpickler(file, storage, foreign).load() for _ in range(5))
    if magic != _MAGIC:
        raise ValueError("it does not begin like a torch file")
    for name in names:
        file.read(8)  # how many values there are
        values = memoryview(storages[name].numpy())
        if file.readinto(values) != len(values):
            raise ValueError("it ends early")
    return content


class _Inert(dict):
    """Stands in for whatever a file names, and for what comes of it: stays empty, does nothing."""

    __hash__ = object.__hash__

    def ignore(self, *_args: object) -> None: ...

    __setitem__ = update = append = extend = add = ignore


class _Tuple(tuple):
    """Hashed by identity: a few bytes can nest tuples so that their hash takes for ever."""

    __slots__ = ()
    __hash__ = object.__hash__


class _Name:
    """A name found in a file, of something that is called with the arguments beside it."""

    def __init__(self, call: Callable[..., object], dtype: torch.dtype | None = None) -> None:
        self.call, self.dtype = call, dtype


class _Unpickler(pickle._Unpickler):  # the C one cannot be told what to do for each instruction
    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, storage: Callable[[str, int], Tensor], foreign: set[str]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage, self._foreign = storage, foreign
        self._known = {
            "torch._utils._rebuild_tensor": _Name(_tensor),
            "torch._utils._rebuild_tensor_v2": _Name(_tensor),
            "torch._utils._rebuild_parameter": _Name(_first),
            "torch._utils._rebuild_parameter_with_state": _Name(_first),
            **{name: _Name(_inert, dtype) for name, dtype in _STORAGES.items()},
        }

    def find_class(self, module: str, name: str) -> _Name:
        full = f"{module}.{name}"
        if known := self._known.get(full):
            return known
        if not _TRAINER_NAMES.match(full):
            self._foreign.add(full)
        return _Name(_dictionary if name in _DICTIONARIES else _inert)

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("it refers to a table of this machine")

    def persistent_load(self, identity: object) -> object:
        if not isinstance(identity, tuple) or identity[0] != "storage":
            return _Inert()
        kind, key, _, count = identity[1:5]
        if not isinstance(key, str) or not isinstance(count, int) or count < 0 or kind.dtype is None:
            raise ValueError("a storage is described wrongly")
        size = count * kind.dtype.itemsize
        data = self._storage(key, size)
        if len(data) != size:
            raise ValueError("a storage is cut off")
        return _Storage(data, kind.dtype)

    def _call(self, name: object, arguments: tuple) -> None:
        self.append(name.call(*arguments) if isinstance(name, _Name) else _Inert())

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self._call(self.stack.pop(), arguments)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    def load_obj(self) -> None:
        name, *arguments = self.pop_mark()
        self._call(name, tuple(arguments))

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        arguments = self.pop_mark()
        self._call(self.find_class(module, name), tuple(arguments))

    def load_build(self) -> None:
        self.stack.pop()  # the state, which nothing here has

    def load_tuple(self) -> None:
        parts = self.pop_mark()  # which sets another self.append
        self.append(_Tuple(parts))

    def _load_short_tuple(self, length: int) -> None:
        parts = self.stack[len(self.stack) - length :]
        if len(parts) < length:
            raise pickle.UnpicklingError("it holds too little")
        self.stack[-length:] = [_Tuple(parts)]

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.INST[0]] = load_inst
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.TUPLE[0]] = load_tuple
    dispatch[pickle.TUPLE1[0]] = lambda self: self._load_short_tuple(1)
    dispatch[pickle.TUPLE2[0]] = lambda self: self._load_short_tuple(2)
    dispatch[pickle.TUPLE3[0]] = lambda self: self._load_short_tuple(3)


class _Storage:
    """Bytes of the file, and what they are."""

    def __init__(self, data: Tensor, dtype: torch.dtype) -> None:
        self.data, self.dtype = data, dtype


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    numbers = (offset, *size, *stride)
    if not all(isinstance(number, int) and 0 <= number < 1 << 48 for number in numbers) or len(size) != len(stride):
        raise ValueError("a tensor is described wrongly")
    if math.prod(size) * storage.dtype.itemsize > len(storage.data):
        raise ValueError("a tensor is larger than what is stored of it")
    data = storage.data
    if data.data_ptr() % storage.dtype.itemsize or data.storage_offset() % storage.dtype.itemsize:
        data = data.clone()
    return data.view(storage.dtype).as_strided(size, stride, data.storage_offset() // storage.dtype.itemsize + offset)


def _first(tensor: object, *_: object) -> object:
    return tensor


def _inert(*_: object) -> _Inert:
    return _Inert()


def _dictionary(*_: object) -> dict:
    return {}
