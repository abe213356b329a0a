"""What a file is that is no PyTorch checkpoint and no safetensors, and how to get weights out of it.

It is told by the first bytes and the name alone: nothing is opened by a library, nothing executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence

EXPECTED = "Expected a PyTorch file (zip, stream, tar) or safetensors."
_SAVE = "torch.save(model.state_dict(), 'weights.pth')"
_PACKED = {"gzip": ("gz", b"\x1f\x8b"), "bzip2": ("bz2", b"BZh"), "xz": ("xz", b"\xfd7zXZ\x00"),
           "zstd": ("zst", b"\x28\xb5\x2f\xfd"), "lz4": ("lz4", b"\x04\x22\x4d\x18"),
           "7z": ("7z", b"7z\xbc\xaf\x27\x1c"), "rar": ("rar", b"Rar!")}
_TENSORFLOW = (f"of TensorFlow, whose layouts and names are others: load it there, copy its arrays into the "
               f"PyTorch model of the same network, and {_SAVE}")
_TRUST = "If you trust the file, save its weights alone with PyTorch:"
OF_PICKLE = ("if you trust the file, pickle.load(open(FILE, 'rb')) gives its arrays by name, which "
             "safetensors.numpy.save_file(arrays, 'weights.safetensors') saves.")
# Where what a harmful pickle calls lives; networks and their settings do not.
_NOT_OF_NETWORKS = frozenset(
    "os posix nt builtins __builtin__ subprocess commands sys shutil socket runpy importlib ctypes pickle "
    "_pickle "
    "marshal code operator webbrowser pty".split())
_NOT_OF_TORCH = ("torch.load", "torch.hub.", "torch.jit.", "torch.serialization.", "torch.utils.cpp")
_HARMLESS = frozenset(f"{module}.{name}" for module in ("builtins", "__builtin__")
                      for name in ("object", "type", "complex", "slice", "range", "bytearray"))
_LEVELDB_END = bytes.fromhex("57fb808b247547db")  # magic number of the table that a TensorFlow checkpoint is
_KINDS = [  # (what it begins with, what it is)
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, of Keras or MATLAB: its layouts are others. Load it in Keras, "
                           f"copy its arrays into the PyTorch model of the same network, and {_SAVE}"),
    (b"GGUF", "a GGUF file, a quantised language model: this program has no such network"),
    *((magic, "a GGML file, a quantised language model: this program has no such network")
      for magic in (b"lmgg", b"tjgg", b"ggml", b"fmgg")),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
    (b"version https://hawser", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer; fetch the real file with `git annex get`"),
    (b"\x93NUMPY", "a single numpy array (.npy): save the network's arrays by name with safetensors, "
                   "safetensors.numpy.save_file(arrays, 'weights.safetensors')"),
    (b"model_checkpoint_path:", f"the list of checkpoints {_TENSORFLOW}"),
]


def what_it_is(head: bytes, tail: bytes, name: str) -> str:
    """One sentence or two about a file that is none of ours, with what to do.

    Args:
        head, tail: its first 512 and its last 8 bytes.
        name: of the file.
    """
    ending = os.path.splitext(name)[1].lower()
    if not head:
        return f"an empty file: the download or the copy did not work. {EXPECTED}"
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return f"{kind}. {EXPECTED}"
    for how, (suffix, magic) in _PACKED.items():
        if head.startswith(magic):
            return f"packed with {how}: unpack it first (.{suffix}), and give the file inside. {EXPECTED}"
    if head[4:8] == b"TFL3":
        return f"a TensorFlow Lite model: {_how_from('TensorFlow Lite')}. {EXPECTED}"
    if tail == _LEVELDB_END or re.search(r"\.data-\d+-of-\d+$", name):
        return f"a part of a checkpoint {_TENSORFLOW}. {EXPECTED}"
    if not any(head):
        return f"zeros only: the download did not get to its content. Download it again. {EXPECTED}"
    if head.lstrip()[:1] == b"<":
        return f"a web page, not a checkpoint: the download did not work. {EXPECTED}"
    if ending == ".onnx" or head[:1] == b"\x08" and (b"pytorch" in head or b"onnx" in head.lower()):
        return (f"an ONNX model, a program whose constants may have lost their names: {_how_from('ONNX')}. "
                f"{EXPECTED}")
    if ending == ".pb":
        return f"a frozen program {_TENSORFLOW}. {EXPECTED}"
    if ending == ".msgpack":
        return (f"a msgpack file, of Flax: save its parameters under PyTorch's names and layouts with "
                f"safetensors.numpy.save_file. {EXPECTED}")
    if (text := _as_text(head)) is not None:
        json = head.lstrip()[:1] in (b"{", b"[")
        kind = "a JSON text (an index of shards is called NAME.index.json)" if json else "a text"
        return f"no checkpoint, {kind} that begins {text!r}: did the download work? {EXPECTED}"
    return f"no checkpoint. {EXPECTED}"


def zip_without_pickle(names: Collection[str], is_program: bool) -> str:
    """What a zip file is in which there is not one `data.pkl`.

    Args:
        names: of its entries.
        is_program: whether it is TorchScript.
    """
    if is_program:
        return ("a zip file, but not one of torch.save: a TorchScript program, which is code. Where you "
                "trust it, torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')")
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return ("a program of torch.export (.pt2). Where you trust it, "
                "torch.save(dict(torch.export.load(FILE).state_dict), 'weights.pth')")
    if any(name.endswith(".npy") for name in names):
        return ("arrays of numpy (.npz): save them under PyTorch's names and layouts, "
                "safetensors.numpy.save_file(dict(np.load(FILE)), 'weights.safetensors')")
    if any(name.endswith(".weights.h5") for name in names):
        return (f"a Keras model: load it in Keras, copy its arrays into the PyTorch model of that network, "
                f"and {_SAVE}")
    inside = [name for name in names if not name.endswith("/")]
    endings = (".pth", ".pt", ".bin", ".tar", ".pyth", ".safetensors")
    weights = [name for name in inside if name.endswith(endings)]
    shown = ", ".join(repr(os.path.basename(name)) for name in (weights or inside)[:3]) or "nothing"
    return (f"a zip file, but not one of torch.save, with {shown} inside: unpack it and give the file with "
            f"the weights, or save the state dict with torch.save")


def tar_without_tensors(names: Collection[str]) -> str:
    """What a tar file is that is not one of torch.save."""
    shown = ", ".join(repr(name) for name in list(names)[:3]) or "nothing"
    return (f"a tar file, but not one of torch.save, with {shown} inside: unpack it and give the file with "
            f"the weights")


def refused(name: str, entry: str | None, containers: Sequence[str], by_pickle: bool) -> str:
    """What a pickle is that asks for something which is no plain data, and how to get its weights out.

    Args:
        name: of the class or function that it asks for first.
        entry: see `plain_pickle.Refused`.
        containers: strings of the file that are called as the entries of weights are.
        by_pickle: whether it is no file of torch.save.
    """
    text = (f"refused: the pickle inside asks for {name!r}, neither a tensor nor a plain container. Nothing "
            f"was executed.")
    if (" " in name or "(" in name or name.startswith(_NOT_OF_TORCH)
            or name.split(".")[0] in _NOT_OF_NETWORKS and name not in _HARMLESS):
        return f"{text} That is no part of a network: do not load this file with anything that trusts it."
    if by_pickle:
        return f"{text} It is not of torch.save, but of pickle.dump: {OF_PICKLE}"
    load, to = "torch.load(FILE, weights_only=False)", "'weights.pth')"
    if name.startswith("numpy.") and not containers:
        return (f"{text} {_TRUST} torch.save({{k: torch.as_tensor(v) for k, v in {load}.items()}}, {to}.")
    if entry == "":
        return (f"{text} It is a whole pickled object, as of torch.save(model), whose classes are code. "
                f"{_TRUST} torch.save({load}.state_dict(), {to}.")
    if entry in containers:
        return (f"{text} Its {entry!r} is a whole pickled object, whose classes are code. {_TRUST} "
                f"torch.save({load}[{entry!r}].state_dict(), {to}.")
    if containers:
        where = f" It is in {entry!r}, beside the weights." if entry else ""
        return f"{text}{where} {_TRUST} torch.save({load}[{containers[0]!r}], {to}."
    return (f"{text} {_TRUST} torch.save({{k: v for k, v in {load}.items() if torch.is_tensor(v)}}, {to}.")


def is_checkpoint_folder(names: Collection[str]) -> str:
    """What a folder without weights of PyTorch's is, by the names in it; '' if unknown."""
    names = set(names)
    if {"data.pkl", "version"} <= names or {"data.pkl", "data"} <= names:
        return ("the unpacked content of a PyTorch file: pack it again without compression, `cd FOLDER/.. && "
                "zip -0 -r weights.pth FOLDER`")
    if any(name.endswith(".distcp") for name in names):
        return ("a sharded checkpoint of torch.distributed: `python -m "
                "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth`")
    if any("_model_states.pt" in name or "zero_pp_rank" in name for name in names):
        return "a sharded checkpoint of DeepSpeed: its own zero_to_fp32.py makes one file of it"
    if "saved_model.pb" in names or "keras_metadata.pb" in names or any(
            re.search(r"\.data-\d+-of-\d+$", name) for name in names):
        return f"a checkpoint {_TENSORFLOW}"
    if names & {"_CHECKPOINT_METADATA", "_METADATA", "checkpoints"}:
        return ("a checkpoint of this project or of orbax, not of PyTorch: --config.init.checkpoint=FOLDER "
                "starts from one")
    return ""


def _how_from(kind: str) -> str:
    return (f"{kind} is not read; take the PyTorch file that it was made from, or save that model's weights "
            f"with {_SAVE}")


def _as_text(head: bytes) -> str | None:
    """The beginning of the first line, if the file is a text."""
    try:
        text = head.decode("utf-8", "strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return None
    if not text.strip() or not all(c.isprintable() or c in "\r\n\t" for c in text):
        return None
    return text.strip().splitlines()[0][:60]
