"""Reads real PyTorch files of every form, refuses everything that is not data, survives damage."""

from __future__ import annotations

import copy
import io
import pickle
import signal
import struct
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from effvid_jax.torch_import.files import TorchFileError, read_torch_file
from tests.unit.fixtures.make_fixtures import value

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted(p.name for p in FIXTURES.iterdir() if ".pth" in p.name or p.suffix == ".safetensors")
MAGIC = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)]
BASE = value((4, 6)).astype(np.float32)
STATE = {
    "float32": BASE, "float64": value((3,)), "float16": value((3, 2)).astype(np.float16),
    "bfloat16": value((3, 2)).astype(ml_dtypes.bfloat16), "int64": np.int64(-(2**40)),
    "int32": np.array([-7, 7], np.int32), "int16": np.array([300], np.int16),
    "int8": np.array([-8], np.int8), "uint8": np.array([200], np.uint8),
    "bool": np.array([True, False]), "empty": np.zeros((0, 3), np.float32),
    "scalar": np.float32(2.5), "transposed": BASE.T, "offset": BASE[1:3, 2:],
    "step": BASE[::2, ::3],
    "expanded": np.full((2, 3), 5, np.float32), "shared": value((5,), 7).astype(np.float32),
    "shared_again": value((5,), 7).astype(np.float32)[2:],
    "parameter": value((2, 3), 50).astype(np.float32), "tagged": value((2,), 60).astype(np.float32)}


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails


def same(a, b) -> bool:
    """Equal type, values and nesting; arrays bit for bit."""
    if isinstance(a, np.ndarray):
        return (isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape)
                and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return isinstance(b, dict) and [*a] == [*b] and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


# ------------------------------------------------------------------------------------ what is read
@pytest.mark.parametrize("name", ["kinds_zip.pth", "kinds_stream.pth"])
def test_every_kind_of_content(name):
    content = read_torch_file(FIXTURES / name)
    state = content.pop("state_dict")
    assert [*state] == [*STATE]
    for key, want in STATE.items():
        assert same(np.asarray(want), np.asarray(state[key])), key
    assert content == {
        "epoch": 12, "lr": 0.025, "arch": "resnet", "done": True, "nothing": None,
        "milestones": [10, 20], "betas": (0.9, 0.999), "seen": {1, 2}, "size": (4, 6), "best": 71.5,
        "steps": 900, "raw": b"\x00\xff", "nested": {"a": [{"b": ()}]}}
    assert type(content["best"]) is float and type(content["steps"]) is int
    assert np.shares_memory(state["shared"], state["shared_again"])


def test_unsigned_types_of_new_pytorch():
    content = read_torch_file(FIXTURES / "unsigned_zip.pth")
    assert same(content["uint16"], np.array([65535], np.uint16))


def test_tar_form_with_parameters_and_storage_views():
    content = read_torch_file(FIXTURES / "tar.pth")
    want = {"a.weight": value((2, 3, 1), 1), "a.bias": value((3,), 9), "scalar": value((), 4),
            "b.weight": value((2, 2), 30)}
    assert same({k: v.astype(np.float32) for k, v in want.items()}, content)


def test_pickles_of_python_2(tmp_path):
    """OrderedDict as a list of lists, byte strings as text, `__builtin__`."""
    data = (b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bc__builtin__\nset\n"
            b"](K\x01K\x02e\x85Ree\x85R.")
    (tmp_path / "f.pth").write_bytes(as_stream(data))
    assert read_torch_file(tmp_path / "f.pth") == {"a": 1, "b": {1, 2}}


def test_safetensors():
    content = read_torch_file(FIXTURES / "kinds.safetensors")
    assert sorted(content) == [*content] and len(content) == 8
    for key, array in content.items():
        assert same(np.asarray(STATE[key]), np.asarray(array)), key


# --------------------------------------------------------------------------------- what is refused
def as_zip(data: bytes, entries=(), compression=zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in entries:
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def as_stream(data: bytes, tail: bytes = pickle.dumps([], 2), little: bool = True) -> bytes:
    return b"".join(MAGIC) + pickle.dumps({"little_endian": little}, 2) + data + tail


def error_of(tmp_path, content: bytes) -> str:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(TorchFileError) as error:
        read_torch_file(path)
    assert str(path) in str(error.value)
    return str(error.value)


class Call:
    """Pickles as `function(*args)`."""

    def __init__(self, function, *args):
        self.how = (function, args)

    def __reduce__(self):
        return self.how


def gadgets(victim: str) -> dict[str, bytes]:
    """Refused name -> pickle that would create the file `victim`."""
    import os
    import subprocess
    touch = f"touch {victim}"
    command = b"X" + struct.pack("<I", len(touch)) + touch.encode()
    return {
        f"{os.name}.system": pickle.dumps({"state_dict": Call(os.system, touch)}, 2),
        "builtins.eval": pickle.dumps([Call(eval, f"open({victim!r}, 'w')")], 4),
        "__builtin__.eval": b"\x80\x02c__builtin__\neval\n(" + command + b"tR.",
        "builtins.getattr": pickle.dumps(Call(getattr, Path(victim), "touch"), 4),
        "subprocess.Popen": pickle.dumps(Call(subprocess.Popen, ["touch", victim]), 4),
        "torch.load": b"\x80\x02ctorch\nload\n(" + command + b"tR.",
        "torch.hub.load": b"\x80\x04\x8c\x05torch\x8c\x08hub.load\x93(" + command + b"tR.",
        "os.system": b"(" + command + b"ios\nsystem\n.",  # INST, protocol 0
        "pickle instruction EXT1": b"\x80\x02\x82\x01.",
        "pickle instruction OBJ": b"\x80\x02(ccollections\nOrderedDict\no.",
        "torch.FloatStorage()": b"\x80\x02ctorch\nFloatStorage\n)R.",
        # BUILD may not touch what a name stands for: with `pickle` it sets function attributes
        "a state for a Name": b"\x80\x02ctorch._utils\n_rebuild_tensor\n}U\x08__code__K\x01sb.",
        "numpy.dtype('O8')": pickle.dumps(Call(np.dtype, "O8"), 2),
        "_codecs.encode(..., 'rot13')": b"\x80\x02c_codecs\nencode\n(U\x01aU\x05rot13tR.",
    }


@pytest.mark.parametrize("name", gadgets("x"))
@pytest.mark.parametrize("form", ["zip", "stream", "version"])
def test_code_is_refused_by_name_and_never_runs(tmp_path, name, form):
    victim = tmp_path / "victim"
    data = gadgets(str(victim))[name]
    content = {"zip": as_zip, "stream": as_stream,
               "version": lambda data: MAGIC[0] + data}[form](data)  # where a number should be
    message = error_of(tmp_path, content)
    assert f"refused: the pickle inside asks for {name!r}" in message
    assert not victim.exists()


@pytest.mark.parametrize("name", ["module_zip.pth", "module_stream.pth"])
def test_a_whole_module_is_refused_with_advice(name):
    with pytest.raises(TorchFileError, match=r"'torch.nn.modules.linear.Linear'.*save its weights"):
        read_torch_file(FIXTURES / name)


def test_numpy_arrays_are_refused(tmp_path):
    message = error_of(tmp_path, as_zip(pickle.dumps({"a": np.zeros(3)}, 2)))
    assert "multiarray._reconstruct'" in message


@pytest.mark.parametrize("content, reason", [
    (b"", "an empty file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>", "a web page"),
    (b"hello", "no checkpoint"),
    (pickle.dumps({"a": 1}, 2), "not one of torch.save"),
    (MAGIC[0] + pickle.dumps(1002, 2), "version 1002"),
    (as_stream(pickle.dumps({}, 2), little=False), "big-endian"),
    (as_zip(pickle.dumps({}, 2), [("byteorder", b"big")]), "big-endian"),
    (as_zip(pickle.dumps({}, 2), [("constants.pkl", b"")]), "TorchScript"),
    (as_zip(pickle.dumps({}, 2), compression=zipfile.ZIP_DEFLATED), "compressed"),
])
def test_other_files_are_told_apart(tmp_path, content, reason):
    assert reason in error_of(tmp_path, content)


def test_paths_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.pth"):
        with pytest.raises(TorchFileError, match="cannot be read"):
            read_torch_file(path)


# -------------------------------------------------------------------------------------- damage
def tensor_pickle(offset=0, size=(2,), stride=(1,), count=4, key="0", view=None) -> bytes:
    """A tensor of a float32 storage of `count` elements; `view`: the stream form's sixth field."""
    def ops(obj):
        return pickle.dumps(obj, 2)[2:-1]  # without PROTO and STOP

    storage = b"(" + ops("storage") + b"ctorch\nFloatStorage\n" + ops(key) + ops("cpu") + ops(count)
    storage += (b"" if view is None else ops(*view)) + b"tQ"
    args = b"(" + storage + ops(offset) + ops(size) + ops(stride) + ops(False) + ops({}) + b"t"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + args + b"R."


def test_views_stay_inside_their_storage(tmp_path):
    entry = [("data/0", struct.pack("<4f", 1, 2, 3, 4))]
    path = tmp_path / "good.pth"
    path.write_bytes(as_zip(tensor_pickle(1, (2,), (2,)), entry))
    assert read_torch_file(path).tolist() == [2, 4]
    for bad in (dict(offset=3), dict(size=(5,)), dict(stride=(4,)), dict(stride=(-1,), offset=2),
                dict(offset=-1), dict(size=(2, 2)), dict(size=(1 << 62, 1 << 62), stride=(0, 0)),
                dict(count=5), dict(count=-4), dict(key="1")):
        assert "damaged" in error_of(tmp_path, as_zip(tensor_pickle(**bad), entry)), bad


def test_small_files_do_not_give_huge_tensors(tmp_path):
    """A stride of 0 repeats one element; windows that overlap and storages that are shared do the same."""
    entry = [("data/0", struct.pack("<4f", 1, 2, 3, 4))]

    def several(number, **arguments):
        tensor = tensor_pickle(**arguments)[2:-1]
        return b"\x80\x02(" + tensor * number + b"t."

    for count, arguments in ((1, dict(size=(1 << 25,), stride=(0,))),
                             (1, dict(size=(1 << 20, 1 << 20), stride=(0, 0))),
                             (1, dict(size=(1 << 24, 2), stride=(0, 1))),
                             (5, dict(size=(1 << 22,), stride=(0,)))):
        message = error_of(tmp_path, as_zip(several(count, **arguments), entry))
        assert "bytes over a storage of 16: tensors that repeat elements" in message, arguments
    path = tmp_path / "fine.pth"
    path.write_bytes(as_zip(several(3, size=(1 << 22,), stride=(0,)), entry))
    assert all(tensor.shape == (1 << 22,) and tensor[-1] == 1 for tensor in read_torch_file(path))
    storage = [("data/0", bytes(4 << 20))]
    shared = dict(size=(1 << 20,), count=1 << 20)
    path.write_bytes(as_zip(several(20, **shared), storage))
    assert len(read_torch_file(path)) == 20
    assert "share storages" in error_of(tmp_path, as_zip(several(40, **shared), storage))


@pytest.mark.parametrize("data", [
    b"\x80\x02r\xff\xff\xff\x7f.",  # a memo index of 2^31
    b"\x80\x02X\xff\xff\xff\x7fabc.",  # a string of 2 GB
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 2^63
    b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",  # an int of 2^34 bits
    b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999,  # no end
    b"\x80\x02)" + b"\x85" * 100_000 + b"}\x8b",  # deep tuples
    b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s.",  # a deep tuple as key
    b"\x80\x02}]K\x01s.", b"\x80\x02a.", b"\x80\x02h\x05.", b"\x80\x02K\x01K\x02R.",
])
def test_hostile_streams_end_in_one_error(tmp_path, data):
    for content in (as_zip(data), as_stream(data), MAGIC[0] + data):
        assert "damaged" in error_of(tmp_path, content)


def nested(op: bytes) -> bytes:
    """A list or tuple of two that hold each the same two, and so on, 60 deep: small, and endless to walk."""
    return b"(K\x00" + op + b"q\0" + b"".join(b"(h%ch%c%bq%c" % (k, k, op, k + 1) for k in range(60))


@pytest.mark.parametrize("op", [b"l", b"t"])
@pytest.mark.parametrize("place", [
    b"%b", b"}%bK\x01s", b"(%btQ", b"(%bU\x01aU\x01aU\x01aK\x04NtQ",
    b"(U\x07storage%bU\x01aU\x01aK\x04NtQ",
    b"(U\x07storagectorch\nFloatStorage\n%bU\x01aK\x04NtQ", b"(%b}tQ",
    b"(U\x07storagectorch\nFloatStorage\nU\x010U\x01a%bNtQ", b"cnumpy\ndtype\n(%btR",
    b"(U\x07storagectorch\nFloatStorage\nU\x010U\x01aK\x00(U\x011%b%btttQ",
    b"c_codecs\nencode\n(U\x01a%btR", b"c_codecs\nencode\n(%bU\x06latin1tR", b"c__builtin__\nset\n(%btR",
    b"ctorch._utils\n_rebuild_tensor_v2\n(K\x00%b%b%bNNtR",
    b"ctorch._utils\n_rebuild_tensor_v3\n(NK\0))NN%btR"])
def test_content_that_is_endless_to_walk(tmp_path, place, op):
    """Nothing of a pickle is compared, hashed or shown that is no number or word."""
    def stop(*args):
        pytest.fail("it hangs")  # no Exception, which the reader would catch

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 20)
    try:
        data = b"\x80\x02" + place.replace(b"%b", nested(op)) + b"."
        for content in (as_zip(data), as_stream(data, data), MAGIC[0] + data, data, as_stream(b"}.", data)):
            (tmp_path / "file.pth").write_bytes(content)
            try:
                read_torch_file(tmp_path / "file.pth")
            except TorchFileError as error:
                assert len(str(error)) < 2500
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("call", [b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"c__builtin__\nset\n",
                                  b"c__builtin__\nfrozenset\n"])
def test_content_that_is_copied_again_and_again(tmp_path, call):
    entry = b"(K\x01Nt" if call.endswith(b"Dict\n") else b"K\x01"
    data = b"\x80\x02((" + entry * 20_000 + b"lq\0" + (call + b"(h\0tR") * 100 + b"t."
    for content in (as_zip(data), as_stream(data)):
        assert "copies its own content" in error_of(tmp_path, content)


def test_entries_that_overlap(tmp_path):
    """Many names of a directory for the same bytes."""
    names, out = [f"archive/data/{k}" for k in range(50)], io.BytesIO()
    tensors = b"".join(tensor_pickle(key=str(k), count=1 << 18)[2:-1] for k in range(50))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02(" + tensors + b"t.")
        archive.writestr(names[0], bytes(1 << 20))
        first = archive.getinfo(names[0])
        for name in names[1:]:
            other = copy.copy(first)
            other.filename = other.orig_filename = name
            archive.filelist.append(other)
    assert "overlap" in error_of(tmp_path, out.getvalue()).lower()


def test_messages_have_an_end(tmp_path):
    assert len(error_of(tmp_path, as_zip(b"\x80\x02c" + b"a" * 100_000 + b"\nb\n."))) < 2500


def test_storages_of_the_stream_form(tmp_path):
    tail = pickle.dumps(["0"], 2) + struct.pack("<q4f", 4, 1, 2, 3, 4)
    path = tmp_path / "good.pth"
    path.write_bytes(as_stream(tensor_pickle(view=[None]), tail))
    assert read_torch_file(path).tolist() == [1, 2]
    path.write_bytes(as_stream(tensor_pickle(view=[("1", 2, 2)]), tail))  # a view, as of old
    assert read_torch_file(path).tolist() == [3, 4]
    for bad in (dict(count=1 << 50), dict(count=-1), dict(count=5), dict(key="1"),
                dict(view=[("1", 3, 2)]), dict(view=[("1", -1, 2)])):
        data = tensor_pickle(**{"view": [None], **bad})
        assert "damaged" in error_of(tmp_path, as_stream(data, tail)), bad


@pytest.mark.parametrize("name", FILES)
def test_files_cut_anywhere(tmp_path, name):
    """Every prefix of a file is an error; only a tar may lose its padding, and nothing else."""
    whole, rng = (FIXTURES / name).read_bytes(), np.random.default_rng(0)
    path, survived = tmp_path / name, 0
    want = None if name.startswith("module") else read_torch_file(FIXTURES / name)
    for size in sorted({*rng.integers(1, len(whole), 120), len(whole) - 1}):
        path.write_bytes(whole[:size])
        try:
            got = read_torch_file(path)
        except TorchFileError:
            continue
        survived += 1
        assert name == "tar.pth" and same(want, got), size
    print(f"{name}: {survived} of 121 prefixes readable")


@pytest.mark.parametrize("name", FILES)
def test_files_with_a_flipped_bit(tmp_path, name):
    """Never anything but our error; in the zip form never other values (CRC)."""
    whole, rng = (FIXTURES / name).read_bytes(), np.random.default_rng(1)
    path, refused = tmp_path / name, 0
    want = None if name.startswith("module") else read_torch_file(FIXTURES / name)
    for position in rng.integers(0, len(whole) * 8, 100):
        data = bytearray(whole)
        data[position // 8] ^= 1 << (position % 8)
        path.write_bytes(data)
        try:
            got = read_torch_file(path)
        except TorchFileError:
            refused += 1
        else:
            assert "zip" not in name or same(want, got), position
    print(f"{name}: {refused} of 100 flips noticed")
