"""Hostile weight files: pickles that would run something, lies about sizes, other things' files, damage.

A case is its seed and number. What would run makes the file `canary`, by which it is found out.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parents[1] / "tests" / "unit" / "fixtures"
_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)


class _Call:
    """Pickles as `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self._how = function, arguments

    def __reduce__(self):
        return self._how


def write(seed: int, number: int, folder: str, canary: str) -> tuple[str, str]:
    """Writes a hostile file; returns (its path, its kind)."""
    rng = random.Random(f"weights {seed} {number}")
    kind = KINDS[number % len(KINDS)]
    content = kind(rng, canary)
    ending = rng.choice((".pth", ".pt", ".pth.tar", ".bin", ".ckpt"))
    if kind in (_safetensors, _safetensors_json):
        ending = ".safetensors"
    path = os.path.join(folder, f"{number:04}{ending}")
    with open(path, "wb") as file:
        file.write(content)
    return path, kind.__name__.strip("_")


def _zip(data: bytes, entries=(), compression=zipfile.ZIP_STORED, root: str = "archive") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", data)
        for name, content in entries:
            archive.writestr(name if name.startswith(("/", "..")) else f"{root}/{name}", content)
    return out.getvalue()


def _stream(data: bytes, tail: bytes = pickle.dumps([], 2)) -> bytes:
    return _MAGIC + pickle.dumps({"little_endian": True, "protocol_version": 1001}, 2) + data + tail


def _tar(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        nothing = pickle.dumps(0, 2)
        for name, content in (("storages", nothing), ("tensors", nothing), ("pickle", data)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _wrap(rng, data: bytes) -> bytes:
    """One of the forms of a PyTorch file around a pickle, or the pickle alone."""
    return rng.choice((_zip, _stream, _tar, lambda d: d, lambda d: _MAGIC[:18] + d))(data)


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _calls(rng, canary):
    """Functions that would be called: by REDUCE, INST, OBJ, NEWOBJ, BUILD, names with dots, extensions."""
    import builtins
    import importlib
    import shutil
    import subprocess

    touch, code = f"touch {canary}", f"open({canary!r}, 'w').close()"
    protocol = rng.randrange(6)
    data = rng.choice((
        pickle.dumps({"state_dict": _Call(os.system, touch)}, protocol),
        pickle.dumps([_Call(builtins.eval, code)], protocol),
        pickle.dumps(_Call(builtins.exec, code), protocol),
        pickle.dumps({"a": _Call(subprocess.Popen, ["touch", canary])}, protocol),
        pickle.dumps(_Call(importlib.import_module, "antigravity"), protocol),
        pickle.dumps(_Call(builtins.open, canary, "w"), protocol),
        pickle.dumps({_Call(os.mkdir, canary): 1}, protocol),
        pickle.dumps(_Call(shutil.rmtree, canary), protocol),
        pickle.dumps(_Call(getattr, _Call(importlib.import_module, "os"), "system"), protocol),
        b"\x80\x02c__builtin__\nexec\n(" + _text(code) + b"tR.", b"(" + _text(touch) + b"ios\nsystem\n.",
        b"\x80\x02(cos\nsystem\n" + _text(touch) + b"o.",
        b"\x80\x02cos\nsystem\n(" + _text(touch) + b"t\x81.",
        b"\x80\x04\x8c\x05torch\x8c\x08hub.load\x93(" + _text("x") + b"tR.",
        b"\x80\x02ctorch\nload\n(" + _text(canary) + b"tR.", b"\x80\x02\x82\x01.", b"\x80\x02\x84\x01\0\0\0.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x08__code__K\x01sb.",
        b"\x80\x02ccollections\nOrderedDict\n)R}U\x09__class__cos\nsystem\nsb.",
        b"\x80\x02ctorch.serialization\nload\n(" + _text(canary) + b"tR.",
        b"\x80\x04\x8c\x08builtins\x8c\x0b__import__\x93(" + _text("os") + b"tR\x8c\x06system\x86.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85U\x01bt\x85R.",
        b"\x80\x02ctorch.jit\nload\n(" + _text(canary) + b"tR.",
        b"\x80\x02cpickle\nloads\n(" + _text("cos\nsystem\n(S'x'\ntR.") + b"tR.",
        b"\x80\x02cfunctools\npartial\n(cos\nsystem\n" + _text(touch) + b"tR)R."))
    return _wrap(rng, data)


def _bombs(rng, canary):
    """Pickles that grow: doubled lists, memos, long strings and numbers, depth, repeats."""
    doubled = b"\x80\x02]q\0" + b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(60)) + b"."
    return _wrap(rng, rng.choice((
        doubled, b"\x80\x02r\xff\xff\xff\x7f.", b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999, b"\x80\x02)" + b"\x85" * 100_000 + b".",
        b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02" + b"(" * 1_000_000, b"\x80\x02]" + b"2" * 1_000_000 + b"t.",
        b"\x80\x02N" * 100_000 + b".",
        b"I" + b"9" * 200_000 + b"\n.", b"\x80\x02]q\0h\0a.", b"\x80\x02}q\0h\0h\0s.",
        b"\x80\x02ctorch\nSize\n(" + b"\x85" * 9 + b"tR.", b"\x80\x95\xff\xff\xff\xff\xff\xff\xff\xff.")))


def _tensor(offset=0, size=(2,), stride=(1,), count=4, kind="FloatStorage", key="0", more=b"") -> bytes:
    """A tensor's instructions; `more`: the sixth field of a storage in the stream form."""
    def ops(value):
        return pickle.dumps(value, 2)[2:-1]

    storage = (b"(" + ops("storage") + b"ctorch\n" + kind.encode() + b"\n" + ops(key) + ops("cpu")
               + ops(count) + more + b"tQ")
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + ops(offset) + ops(size) + ops(stride)
            + ops(False) + ops({}) + b"tR")


def _tensors(rng, canary):
    """Views that leave their storage or repeat it, storages that lie, a classifier of any shape."""
    huge = rng.choice((2**20, 2**31, 2**40, 2**62, 2**63, 10**30))
    how = rng.choice((
        dict(size=(huge,), stride=(0,)), dict(size=(huge, huge), stride=(0, 0)), dict(offset=huge),
        dict(offset=-1), dict(stride=(-1,), offset=3), dict(size=(huge,)), dict(size=(-1,)),
        dict(stride=(huge,)), dict(count=huge), dict(count=-4), dict(key="../../etc/passwd"),
        dict(size=(1,) * 70, stride=(0,) * 70), dict(size="ab", stride="cd"), dict(size=(2.5,)),
        dict(size=None),
        dict(count="4"), dict(key=None), dict(kind="UntypedStorage"), dict(kind="NothingStorage"),
        dict(size=(), stride=()), dict(size=(True,)), dict(size=(2**20, 2**5), stride=(0, 0)),
        dict(size=(0, huge), stride=(huge, huge)), dict(size=(0, 2), stride=(1, 1)), dict(size=(1, 1, 1, 1),
                                                                                         stride=(1, 1, 1,
                                                                                                 1))))
    stream, name = rng.random() < 0.5, pickle.dumps("fc.weight", 2)[2:-1]
    tensor = _tensor(**how, more=b"N" if stream else b"")
    data = b"\x80\x02}" + b"".join(name + tensor + b"s" for _ in range(rng.choice((1, 1, 50)))) + b"."
    if stream:
        count, values = rng.choice(((4, 4), (4, 4), (huge % 2**62, 0))), struct.pack("<4f", *range(4))
        return _stream(data, pickle.dumps(["0"], 2) + struct.pack("<q", count[0]) + values[:4 * count[1]])
    return _zip(data, [("data/0", struct.pack("<4f", *range(4)))])


def _types(rng, canary):
    """Plain content that is no state dict."""
    return _wrap(rng, pickle.dumps(rng.choice((
        None, 1, "weights", [], {}, {"state_dict": {}}, {"state_dict": []}, {"state_dict": None}, {1: 2}, [1,
                                                                                                           2],
        {"state_dict": {"a": "b"}}, {"model": {"a": 1}}, {"state_dict": {"state_dict": {}}}, {"a\0": b"x"},
        set(),
        {None: None}, {(): {}}, {"state_dict": {1: 2}}, {"a" * 100_000: 1}, {"fc.weight\n": {}}, True,
        1e400)), 2))


def _zips(rng, canary):
    """Archives: compressed, with other names, without data, packed programs, entries outside the folder."""
    data = pickle.dumps({"state_dict": {}}, 2)
    nothing = bytes(1 << 24)
    out = rng.choice((
        lambda: _zip(data, [("data/0", nothing)], zipfile.ZIP_DEFLATED),
        lambda: _zip(data, [("constants.pkl", b"")]),
        lambda: _zip(data, [("byteorder", b"big")]), lambda: _zip(data, [("byteorder", b"\xff" * 99)]),
        lambda: _zip(data, [("/etc/x", b""), ("../../x", b"")]), lambda: _zip(data, root="a\0b"),
        lambda: _zip(nothing[:1000]), lambda: _zip(data, [("b/data.pkl", data)]), lambda: _zip(b""),
        lambda: _zip(_tensor(), [("data/0", nothing[:16])], zipfile.ZIP_BZIP2),
        lambda: _zip(data, [(f"data/{k}", b"") for k in range(20_000)])))()
    if rng.random() < 0.3:  # sizes in the directory that lie
        at = out.rfind(b"PK\x01\x02")
        out = out[:at + 20] + struct.pack("<II", 2**32 - 2, 2**32 - 2) + out[at + 28:]
    return out


def _safetensors(rng, canary):
    """Headers that lie about types, shapes and places."""
    huge = rng.choice((2**31, 2**40, 2**62, 2**63, 10**30, -1))
    header = rng.choice((
        {"a": {"dtype": "F32", "shape": [huge], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, huge]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [huge, huge]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
         "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "X9", "shape": [4], "data_offsets": [0, 16]}}, {"a": 5}, {"a": {}},
        {"a": {"dtype": "F32"}},
        {"a": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [huge, 0], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2] * 100, "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": ["4"], "data_offsets": ["0", "16"]}},
        {"__metadata__": {"x": "y" * 100_000}}, {"__metadata__": 5}, {},
        {f"w{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(20_000)}))
    text = json.dumps(header).encode()
    length = rng.choice((len(text), len(text), len(text), huge % 2**63, 0, len(text) + 1000))
    return struct.pack("<Q", length) + text + bytes(16)


def _safetensors_json(rng, canary):
    """What is no header: depth, doubled names, other texts; indices of files in parts."""
    text = rng.choice((b'{"a":' * 50_000, b"{" * 100_000, b'{"a":1,"a":2}', b"{}", b"{\xff\xfe}",
                       b'{"a":NaN}',
                       b"{" + b" " * 10_000 + b"}"))
    index = json.dumps({"weight_map": {"a": "../../../etc/passwd", "b": "/etc/passwd"}}).encode()
    return rng.choice((struct.pack("<Q", len(text)) + text, struct.pack("<Q", len(text)) + text, index))


def _arrays(rng, canary):
    """numpy's files with objects in them, which a plain load would run."""
    out = io.BytesIO()
    content = np.array([_Call(os.system, f"touch {canary}")], object)
    rng.choice((lambda: np.savez(out, a=content), lambda: np.save(out, content, allow_pickle=True),
                lambda: np.savez_compressed(out, a=np.zeros(1 << 20))))()
    return out.getvalue()


def _others(rng, canary):
    """Files of other programs."""
    onnx = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x84\x01\n1\n\x05input\x12\x06output\x1a\x04Relu"
    return rng.choice((
        onnx + rng.randbytes(100), b"\x89HDF\r\n\x1a\n" + bytes(500), b"GGUF\x03\0\0\0" + bytes(100), b"",
        b"\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b"<!DOCTYPE html><html>",
        b"\x1f\x8b\x08",
        b"\x7fELF" + bytes(100), b"#!/bin/sh\ntouch " + canary.encode(), b"MZ" + bytes(100),
        rng.randbytes(10_000),
        b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(500), bytes(1000), b"\x80", b"\x80\x02",
        b"\x80\xff.", b".",
        b"\x28\xb5\x2f\xfd" + bytes(50), b"BZh9" + bytes(50), bytes(257) + b"ustar" + bytes(250)))


def _modules(rng, canary):
    """Whole modules of PyTorch, made by it."""
    return (FIXTURES / rng.choice(("module_zip.pth", "module_stream.pth"))).read_bytes()


def _damaged(rng, canary):
    """Real files, cut or with other bytes."""
    names = sorted(p.name for p in FIXTURES.iterdir() if ".pth" in p.name or p.suffix == ".safetensors")
    data = bytearray((FIXTURES / rng.choice(names)).read_bytes())
    if rng.random() < 0.4:
        return data[:rng.randrange(len(data))]
    for _ in range(rng.choice((1, 5, 50))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data


KINDS = (_calls, _bombs, _calls, _tensors, _types, _zips, _safetensors, _safetensors_json, _arrays, _others,
         _modules, _damaged, _calls, _tensors, _damaged)
