"""Reads tensors out of PyTorch checkpoints and safetensors files; needs no PyTorch, runs no code.

    read_torch_file("tsm_r50.pth")  ->  {'meta': {...}, 'state_dict': {'backbone...': array, ...}}

Four forms, told apart by content (names such as `model.pth.tar` say nothing):

* zip (PyTorch >= 1.6): `*/data.pkl` and one raw entry `*/data/<key>` per storage; CRC-checked.
* stream (PyTorch 0.1.10 to 1.5): pickles of a magic number, a version, facts of the machine, the
  object and the list of storage keys, then per storage an int64 count and its bytes.
* tar (PyTorch < 0.1.10, so torchvision's `resnet50-19c8e357.pth`): members `storages`, `tensors`
  and `pickle`, in which tensors are persistent ids.
* safetensors, through the library.

What may be in a pickle: tensors and parameters, numbers, strings, bytes, bool, None, dict,
OrderedDict, list, tuple, set, frozenset, torch.Size. numpy *scalars* are read as Python numbers,
since training loops store accuracies and learning rates that way; numpy arrays, Counter, Namespace,
torch.device and all other classes are refused by name. Attributes that a pickle sets on a dict or
tensor (`_metadata` of a state dict) are dropped.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from effvid_jax.errors import UserError
from effvid_jax.torch_import import other_files, plain_pickle
from effvid_jax.torch_import.naming import CONTAINERS

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
_DTYPES = {  # name of the storage class without "Storage" -> dtype of the elements
    "Double": np.dtype("<f8"), "Float": np.dtype("<f4"), "Half": np.dtype("<f2"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16), "Long": np.dtype("<i8"), "Int": np.dtype("<i4"),
    "Short": np.dtype("<i2"), "Char": np.dtype("i1"), "Byte": np.dtype("u1"), "Bool": np.dtype("?")}
_UNSIGNED = {f"torch.uint{b}": np.dtype(f"<u{b // 8}") for b in (16, 32, 64)}
_SAFE_DTYPES = {  # names in a safetensors header
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"}
_BIG_ENDIAN = "written on a big-endian machine; save it again on a little-endian one."
_LONGEST = 2000  # characters of a message: a file's names can be megabytes
_REPEATED = 1 << 26  # bytes of elements that share memory, as expanded tensors have it: stride 0
_SHARED = 8  # times the size of the file: what all tensors together may have
_budget = threading.local()  # .repeated, .all: bytes that are left for the file that is read


class TorchFileError(UserError):
    """The file is missing, damaged, of another kind, or holds more than tensors and plain data."""

    def __init__(self, text: str):
        super().__init__(text if len(text) <= _LONGEST else f"{text[:_LONGEST - 500]} ... {text[-490:]}")


def read_torch_file(path: str | os.PathLike) -> Any:
    """Everything a checkpoint holds, tensors as numpy arrays.

    Args:
        path: a `.pth`, `.pt`, `.pyth`, `.pth.tar` or `.safetensors` file.

    Returns:
        The saved object. Tensors that shared storage share memory; arrays keep the file's dtype
        (bfloat16 as `ml_dtypes.bfloat16`) and strides and may be read-only.

    Raises:
        TorchFileError: with the path and what is wrong; for a refused class or function, its name.
    """
    path = Path(path)
    try:
        file = open(path, "rb")
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        with file:
            head = file.read(512)
            _budget.repeated = _REPEATED
            size = file.seek(0, io.SEEK_END)
            _budget.copies = 1024 + 4 * size
            _budget.all = _REPEATED + _SHARED * size
            file.seek(max(0, size - 8))
            tail = file.read()
            file.seek(0)
            return _reader(head, tail, path.name)(file)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error
    except plain_pickle.Refused as error:
        containers = [name for name in CONTAINERS if name in error.strings]
        message = other_files.refused(error.name, error.entry, containers, getattr(error, "first", False))
        raise TorchFileError(f"{path}: {message}") from error
    except Exception as error:  # a damaged stream can fail anywhere; none of it may surface raw
        raise TorchFileError(
            f"{path}: damaged or cut short ({type(error).__name__}: {error}). Compare its size and "
            f"checksum with the source, and download it again.") from error


def _reader(head: bytes, tail: bytes, name: str) -> Callable[[io.BufferedReader], Any]:
    """The function that reads a file which begins with `head`."""
    if head.startswith(b"PK\x03\x04"):
        return _read_zip
    if head[257:262] == b"ustar":
        return _read_tar
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return _read_safetensors
    if head[:1] == b"\x80":
        return _read_stream
    raise TorchFileError(other_files.what_it_is(head, tail, name))


# ---------------------------------------------------------------------------------- tensor building
class _Storage:
    """Raw bytes of one storage. `dtype` is None for PyTorch's untyped storages."""

    def __init__(self, data, dtype: np.dtype | None):
        self.data, self.dtype = data, dtype


class _EmptyParameter:
    """`Parameter()` of 2017 files, before the BUILD instruction hands it its data."""


def _tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_ignored, metadata=None,
            dtype: np.dtype | None = None) -> np.ndarray:
    """A view into a storage; offset and stride count elements. Refuses views beyond the storage."""
    if not isinstance(storage, _Storage):
        raise TypeError(f"a {type(storage).__name__} where a storage is needed")
    if metadata:
        bits = sorted(map(_word, metadata))
        raise TorchFileError(f"a tensor has lazy bits {bits}: .resolve_neg() it first.")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise TypeError("a tensor of an untyped storage without a dtype")
    if len(size) != len(stride) or min(map(_whole, (offset, *size, *stride))) < 0:
        raise UserError(f"offset {offset}, size {size}, stride {stride} of a tensor")
    itemsize = dtype.itemsize
    array = np.ndarray(size, dtype, storage.data, offset * itemsize, [s * itemsize for s in stride])
    _spend(array.nbytes, len(storage.data))
    return array


def _spend(needed: int, stored: int) -> None:
    """Refuses tensors that are small in the file and would be huge as arrays of their own."""
    _budget.repeated -= max(0, needed - stored)
    _budget.all -= needed
    if min(_budget.repeated, _budget.all) < 0:
        raise TorchFileError(f"a tensor of {needed} bytes over a storage of {stored}: tensors that repeat "
                             f"elements "
                             f"or share storages would need far more memory than the file has. Save them as "
                             f"they "
                             f"are, tensor.clone(), if this is meant.")


def _tensor_v2(storage, offset, size, stride, _grad, _hooks, metadata=None):
    return _tensor(storage, offset, size, stride, metadata=metadata)


def _tensor_v3(storage, offset, size, stride, _grad, _hooks, dtype, metadata=None):
    return _tensor(storage, offset, size, stride, metadata=metadata, dtype=_UNSIGNED[_word(dtype)])


def _parameter(data=None, *_ignored):
    return _EmptyParameter() if data is None else _array(data)


def _array(value) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a {type(value).__name__} where a tensor is needed")
    return value


def _numpy_dtype(code: str, *_ignored) -> np.dtype:
    if _word(code) not in {"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"}:
        raise plain_pickle.Refused(f"numpy.dtype({code!r})")
    return np.dtype(code)


def _numpy_scalar(dtype: np.dtype, raw: bytes | str) -> int | float | bool:
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw  # Python 2 had no bytes
    if not isinstance(dtype, np.dtype) or len(raw) != dtype.itemsize:
        raise UserError("a numpy scalar")
    return np.frombuffer(raw, dtype)[0].item()


def _build(obj: Any, state: Any) -> Any:
    """What BUILD may do: give a 2017 parameter its data, check a dtype's byte order, no more."""
    if isinstance(obj, _EmptyParameter):
        return _array(state[0])  # (data, grad, hooks, requires_grad, volatile)
    if isinstance(obj, np.dtype) and state[1] == ">":
        raise TorchFileError("a big-endian numpy scalar.")
    if isinstance(obj, (dict, np.ndarray, np.dtype)):
        return obj
    raise plain_pickle.Refused(f"a state for a {type(obj).__name__}")


def _copied(items):
    """`items`, of which a copy is made: a pickle may ask for copies of the same thing again and again."""
    _budget.copies -= len(items)
    if _budget.copies < 0:
        raise TorchFileError("the pickle inside copies its own content until there are far more values than "
                             "the file has bytes.")
    return items


def _set(items=()):
    return set(map(plain_pickle.hashable, _copied(items)))


def _dict(pairs=()):
    return {plain_pickle.hashable(k): v for k, v in _copied(pairs)}


def _bytes(text: str, encoding: str) -> bytes:  # how pickle protocol 2 writes bytes
    if _word(encoding) != "latin1":
        raise plain_pickle.Refused(f"_codecs.encode(..., {encoding!r})")
    return _copied(_word(text)).encode("latin1")


# What is compared, hashed or shown is a number or a word: of a list that holds another one twice, and so on
# forty times, that would take for ever.
def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a {type(value).__name__} where a whole number is needed")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} where a text is needed")
    return value


_CALLS: dict[str, Callable | None] = {
    "collections.OrderedDict": _dict,
    "_codecs.encode": _bytes,
    "torch.Size": lambda sizes=(): tuple(_copied(sizes)),
    "torch.nn.parameter.Parameter": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "numpy.dtype": _numpy_dtype,
    "torch.storage.UntypedStorage": None,
    **dict.fromkeys(_UNSIGNED),
    **{f"{module}.set": _set for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": lambda items=(): frozenset(_set(items))
       for module in ("builtins", "__builtin__")},
    **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
    **{f"torch.{place}{name}{kind}": None for name in _DTYPES for place in ("", "cuda.")
       for kind in ("Storage", "Tensor")},
}


def _storage_dtype(name: str) -> np.dtype | None:
    """'torch.FloatStorage' -> float32; None for the untyped storage."""
    if _word(name) == "torch.storage.UntypedStorage":
        return None
    return _DTYPES[name.rpartition(".")[2].removesuffix("Storage")]


def _load(stream, persistent_load=None) -> Any:
    return plain_pickle.load(stream, _CALLS, _build, persistent_load)


# --------------------------------------------------------------------------------------- containers
def _read_zip(file) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        roots = [name[: -len("data.pkl")] for name in entries if name.endswith("data.pkl")]
        if len(roots) != 1 or roots[0] + "constants.pkl" in entries:
            program = any(root + "constants.pkl" in entries for root in roots)
            raise TorchFileError(f"{other_files.zip_without_pickle(entries, program)}.")
        root = roots[0]

        left = file.seek(0, io.SEEK_END)

        def read(name: str) -> bytes:
            nonlocal left
            if entries[root + name].compress_type != zipfile.ZIP_STORED:  # keeps zip bombs out
                raise TorchFileError(f"entry {name!r} is compressed, which torch.save never does.")
            left -= entries[root + name].file_size
            if left < 0:
                raise TorchFileError("its entries are larger than the file: they overlap, or lie.")
            return archive.read(entries[root + name])

        if root + "byteorder" in entries and read("byteorder") != b"little":
            raise TorchFileError(_BIG_ENDIAN)
        storages: dict[str, _Storage] = {}

        def persistent_load(pid):
            kind, name, key, _device, count = pid
            if _word(kind) != "storage":
                raise plain_pickle.Refused(f"persistent id {kind}")
            key, count = _word(key), _whole(count)
            if key not in storages:
                dtype, data = _storage_dtype(name), read(f"data/{key}")
                if len(data) != count * (dtype.itemsize if dtype else 1):
                    raise UserError(f"storage {key} has {len(data)} bytes for {count} elements")
                storages[key] = _Storage(data, dtype)
            return storages[key]

        return _load(io.BytesIO(read("data.pkl")), persistent_load)


def _read_stream(file) -> Any:
    # mmap, since reads of damaged lengths then end at the end of the file, whatever they ask for
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        try:
            magic = _load(stream)
        except plain_pickle.Refused as error:
            error.first = True  # so it is not torch.save's
            raise
        if magic != _STREAM_MAGIC:
            raise TorchFileError("a pickle, but not one of torch.save: " + other_files.OF_PICKLE)
        if (version := _whole(_load(stream))) != _STREAM_VERSION:
            raise TorchFileError(f"version {version} of the stream form, not {_STREAM_VERSION}.")
        if not _load(stream)["little_endian"]:
            raise TorchFileError(_BIG_ENDIAN)
        storages: dict[str, _Storage] = {}  # the bytes follow the object: allocate now, fill below
        allocated = 0

        def persistent_load(pid):
            nonlocal allocated
            kind, name, key, _device, count, view = pid
            if _word(kind) != "storage":
                raise plain_pickle.Refused(f"persistent id {kind}")
            key, count = plain_pickle.hashable(key), _whole(count)
            dtype = _storage_dtype(name)
            itemsize = dtype.itemsize if dtype else 1
            if key not in storages:
                allocated += count * itemsize
                if not 0 <= count * itemsize <= allocated <= len(stream):
                    raise UserError(f"storage {key} of {count} elements is larger than the file")
                storages[key] = _Storage(np.empty(count * itemsize, np.uint8), dtype)
            if view is None:
                return storages[key]
            _view_key, offset, size = view
            return _slice(storages[key], offset, size)

        value = _load(stream, persistent_load)
        keys = _load(stream)
        if set(map(plain_pickle.hashable, keys)) != set(storages):
            raise UserError("the list of storages does not match the tensors")
        for key in keys:
            _fill(stream, storages[key])
        return value


def _fill(stream, storage: _Storage) -> None:
    """Reads `int64 count, bytes` into a storage."""
    (count,) = struct.unpack("<q", stream.read(8))
    itemsize = storage.dtype.itemsize if storage.dtype else 1
    if count * itemsize != len(storage.data):
        raise UserError(f"{count} elements in a storage of {len(storage.data) // itemsize}")
    storage.data[:] = np.frombuffer(stream.read(len(storage.data)), np.uint8)


def _slice(storage: _Storage, offset: int, count: int) -> _Storage:
    """A storage that is a part of another one; offset and count in elements."""
    itemsize = storage.dtype.itemsize if storage.dtype else 1
    if not 0 <= _whole(offset) <= offset + _whole(count) <= len(storage.data) // itemsize:
        raise UserError(f"a view of {count} elements at {offset} beyond its storage")
    return _Storage(storage.data[offset * itemsize: (offset + count) * itemsize], storage.dtype)


def _read_tar(file) -> Any:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        if not {"storages", "tensors", "pickle"} & set(names := archive.getnames()):
            raise TorchFileError(f"{other_files.tar_without_tensors(names)}.")

        def member(name: str) -> io.BytesIO:
            if archive.getmember(name).issparse():  # would unpack to any size
                raise TorchFileError(f"member {name!r} is sparse, which torch.save never writes.")
            return io.BytesIO(archive.extractfile(name).read())

        objects: dict[int, Any] = {}  # storages and tensors by id
        stream = member("storages")
        for _ in range(_load(stream)):
            key, _device, name = _load(stream)
            key, dtype = plain_pickle.hashable(key), _storage_dtype(name)
            size = struct.unpack("<q", stream.read(8))[0] * dtype.itemsize
            data = stream.read(size) if size >= 0 else b""
            if len(data) != size:
                raise UserError(f"storage {key} is cut short")
            objects[key] = _Storage(data, dtype)
        for key, root, offset, count in _load(stream):
            objects[plain_pickle.hashable(key)] = _slice(objects[plain_pickle.hashable(root)], offset, count)

        stream = member("tensors")
        for _ in range(_load(stream)):
            key, storage, _tensor_class = _load(stream)
            axes, _padding = struct.unpack("<ii", stream.read(8))
            numbers = struct.unpack(f"<{2 * axes + 1}q", stream.read(8 * (2 * axes + 1)))
            key, storage = map(plain_pickle.hashable, (key, storage))
            objects[key] = _tensor(objects[storage], numbers[-1], numbers[:axes], numbers[axes:-1])
        return _load(member("pickle"), lambda pid: objects[int(plain_pickle.hashable(pid))])


def _read_safetensors(file) -> dict[str, np.ndarray]:
    tensors = {}
    for name, entry in safetensors.deserialize(file.read()):
        if entry["dtype"] not in _SAFE_DTYPES:
            raise TorchFileError(f"tensor {name!r} has dtype {entry['dtype']}, which is unknown.")
        flat = np.frombuffer(entry["data"], _SAFE_DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return dict(sorted(tensors.items()))
