"""Weights as people have them: in several files, behind wrappers, beside their average, in no such file."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from effvid_jax import torch_import
from effvid_jax.torch_import import convert, load_torch_state, loading
from effvid_jax.torch_import.files import TorchFileError, read_torch_file
from effvid_jax.torch_import.shards import read_weights
from tests.parity import golden
from tests.unit.test_torch_files import MAGIC, as_stream, as_zip
from tests.unit.test_torch_import import FIXTURES, OPTIONS, SMALL, small_state, template


def same(a, b) -> bool:
    a, b = (flatten_dict(x, sep="/") for x in (a, b))
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def refusal(path) -> str:
    with pytest.raises(TorchFileError) as error:
        load_torch_state(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------- shards
def write_shards(folder: Path, state, count=3, ending=".safetensors", stem="model") -> Path:
    """`count` shards and their index; '.bin' shards are zip files of torch.save without tensors."""
    folder.mkdir(exist_ok=True)
    names = [f"{stem}-{k + 1:05}-of-{count:05}{ending}" for k in range(count)]
    files = {key: names[i * count // len(state)] for i, key in enumerate(state)}
    for name in names:
        part = {key: np.array(state[key], order="C") for key in state if files[key] == name}
        safetensors.numpy.save_file(part, str(folder / name))
    index = folder / f"{stem}{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    return index


@pytest.mark.parametrize("ending, stem", [(".safetensors", "model"), (".bin", "pytorch_model")])
def test_shards_are_one_checkpoint(tmp_path, ending, stem):
    """By their index, by their folder, and by the folder without an index."""
    state = small_state("torchvision_stream.pth")
    index = write_shards(tmp_path / "a", state, ending=ending, stem=stem)
    (index.parent / "config.json").write_text("{}")
    (index.parent / "training_args.bin").write_bytes(b"not weights")
    for path in (index, index.parent):
        assert same(load_torch_state(path), state)
    index.unlink()
    assert same(load_torch_state(index.parent), state), "all of them are there"


def test_a_missing_shard_is_named(tmp_path):
    state = small_state("torchvision_stream.pth")
    index = write_shards(tmp_path, state)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    moved = shard.rename(tmp_path / "elsewhere")
    wanted = "shard model-00002-of-00003.safetensors of 3 is not there: download it"
    assert wanted in refusal(index) and wanted in refusal(tmp_path)
    index.rename(tmp_path / "no_index")
    assert wanted in refusal(tmp_path), "their names say how many there are"
    moved.rename(shard)
    assert "is one of 3 shards: give their index (model.safetensors.index.json), or the folder" in refusal(
        shard
    )


def test_an_index_that_does_not_fit_is_refused(tmp_path):
    state = small_state("torchvision_stream.pth")
    index = write_shards(tmp_path, state)
    content = json.loads(index.read_text())
    content["weight_map"]["more"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(content))
    assert "lacks 1 of the tensors that the index says it has, the first is 'more'" in refusal(index)
    for outside in ("../weights.safetensors", "/etc/passwd", "..", "a\nb", "a\0b"):
        content["weight_map"]["more"] = outside
        index.write_text(json.dumps(content))
        assert f"names the shard {outside!r}, which is not in its own folder" in refusal(index)
    for text in (
        "",
        "[]",
        '{"weight_map": 3}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        "[" * 100_000,
    ):
        index.write_text(text)
        assert "is no index of a sharded checkpoint: expected JSON with 'weight_map'" in refusal(index)


def test_a_folder_is_one_checkpoint_or_refused(tmp_path):
    state = small_state("torchvision_stream.pth")
    assert "is a folder without weights (empty)" in refusal(tmp_path)
    safetensors.numpy.save_file(state, str(tmp_path / "model.safetensors"))
    assert same(load_torch_state(tmp_path), state)
    safetensors.numpy.save_file(state, str(tmp_path / "other.pth"))
    assert "holds 2 checkpoints, model.safetensors, other.pth: give one of them" in refusal(tmp_path)
    for names, told in (
        (("data.pkl", "version"), "zip -0 -r"),
        (("__0_0.distcp", ".metadata"), "dcp_to_torch"),
        (("mp_rank_00_model_states.pt",), "zero_to_fp32.py"),
        (("saved_model.pb",), "of TensorFlow"),
        (("m.ckpt.index", "m.ckpt.data-00000-of-00001"), "of TensorFlow"),
        (("_CHECKPOINT_METADATA",), "--config.init.checkpoint"),
    ):
        folder = tmp_path / names[0].replace(".", "")
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"x")
        assert told in refusal(folder)
    assert "of TensorFlow" in refusal(tmp_path / "mckptindex" / "m.ckpt"), "which is no file itself"


def test_the_command_takes_shards_and_a_prefix(tmp_path, capsys):
    write_shards(
        tmp_path / "a", {f"teacher.{k}": v for k, v in small_state("torchvision_stream.pth").items()}
    )
    command = [
        "--backbone",
        "resnet50",
        "--checkpoint",
        str(tmp_path / "a"),
        "--out",
        str(tmp_path / "b"),
        *OPTIONS,
    ]
    assert torch_import.main([*command, "--strip_prefix=student"]) == 1
    assert (
        "--strip_prefix=student.: no name begins with it. The names begin with teacher."
        in capsys.readouterr().err
    )
    assert torch_import.main(command) == 0
    assert "note: the prefix 'teacher.' was taken off the file's names" in capsys.readouterr().out


# ------------------------------------------------------------------------------ prefixes and averages
def load(monkeypatch, content, *arguments):
    monkeypatch.setattr(loading, "read_weights", lambda path: content)
    return loading.load_with_notes("f.pth", *arguments)


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


FILES = ["mmaction2_zip.pth", "torchvision_stream.pth", "tsm_stream.pth.tar"]


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "backbone.",
        "encoder.",
        "student.",
        "_orig_mod.",
        "ema.",
        "model.module.",
        "module.model.",
        "_orig_mod.module.",
        "module.encoder_q.",
        "ema_model.module.",
        "model._orig_mod.",
        "_forward_module.model.",
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_prefixes_of_wrappers_are_taken_off_and_told(monkeypatch, name, prefix):
    state = small_state(name)
    got, notes = load(monkeypatch, {"state_dict": prefixed(prefix, state)})
    assert same(got, state)
    assert len(notes) == 1 and "was taken off the file's names" in notes[0], notes
    assert all(word in notes[0] for word in prefix.split(".") if word)
    assert same(convert("resnet50", got, template(**SMALL)), convert("resnet50", state, template(**SMALL)))


@pytest.mark.parametrize("name", FILES)
def test_names_without_a_wrapper_stay(monkeypatch, name):
    state = small_state(name)
    assert load(monkeypatch, {"state_dict": {"state_dict": {"model": state}}, "epoch": 3}) == (state, [])
    assert load(monkeypatch, {**state, "other.thing": np.zeros(2)})[1] == []
    unknown = {"a.weight": np.zeros(2), "model.b.weight": np.zeros(2)}
    assert load(monkeypatch, unknown) == (unknown, [])


CASES = Path(__file__).parents[1] / "parity" / "cases"


@pytest.mark.parametrize("case", ["corrnet26_8x112", "i3d_inception_16x224", "tv_swin3d_t_16x112"])
def test_no_convention_looks_like_a_wrapper(case):
    """Networks of other families: nothing is taken off their own names, everything off wrapped ones."""
    state = golden.build_state(json.loads((CASES / f"{case}.json").read_text()))
    assert loading.without_wrappers(state) == (state, "")
    got, prefix = loading.without_wrappers(prefixed("module.model.", state))
    assert list(got) == list(state) and prefix == "module.model."


def test_wrappers_inside_names_are_taken_out(monkeypatch):
    state = small_state("mmaction2_zip.pth")
    wrapped = {
        key.replace("layer1.0.", "layer1.0._checkpoint_wrapped_module."): v for key, v in state.items()
    }
    got, notes = load(monkeypatch, prefixed("_fsdp_wrapped_module.", wrapped))
    assert same(got, state) and "_fsdp_wrapped_module" in notes[0]


@pytest.mark.parametrize(
    "one, other",
    [
        ("student.", "teacher."),
        ("module.encoder_q.", "module.encoder_k."),
        ("model.", "model_ema.module."),
        ("online_network.", "target_network."),
    ],
)
def test_of_two_networks_the_switch_takes_one(monkeypatch, one, other):
    state = small_state("torchvision_stream.pth")
    both = prefixed(one, state) | prefixed(
        other, {key: np.array(value + 1, value.dtype) for key, value in state.items()}
    )
    queue = {"module.queue" if one.startswith("module.") else "queue": np.zeros(3)}
    with pytest.raises(TorchFileError, match=r"f.pth: holds two networks") as error:
        load(monkeypatch, both | queue)
    for prefix in (one, other):
        assert f"--strip_prefix={prefix}" in str(error.value)
    got, notes = load(monkeypatch, both | queue, "", other)
    assert np.array_equal(got["fc.bias"], state["fc.bias"] + 1) and got.keys() == state.keys()
    assert f"the prefix {other!r} was taken off" in notes[0] and "other tensors, such as" in notes[0]
    assert load(monkeypatch, both, "", one.rstrip("."))[0]["fc.bias"][0] == state["fc.bias"][0]
    assert load(monkeypatch, both, "", "") == (both, []), "empty: none"


def test_of_two_containers_the_switch_takes_one(monkeypatch):
    state = small_state("torchvision_stream.pth")
    both = {"student": prefixed("module.", state), "teacher": prefixed("backbone.", state), "epoch": 3}
    with pytest.raises(TorchFileError, match="has weights under 'student' and 'teacher': --weights NAME"):
        load(monkeypatch, both)
    got, notes = load(monkeypatch, both, "teacher")
    assert same(got, state) and "'student'" in notes[0] and "'backbone.'" in notes[1]
    assert same(load(monkeypatch, {"net": state, "acc": 93.0, "epoch": 3})[0], state)


@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("form", ["mmcv", "LitEma"])
def test_averages_in_the_same_dict_are_told_and_can_be_chosen(monkeypatch, form, wrapper):
    plain = small_state("mmaction2_zip.pth") if form == "mmcv" else small_state("torchvision_stream.pth")
    root = "" if form == "mmcv" else "model."
    both = {wrapper + root + key: value for key, value in plain.items()}
    for key, value in plain.items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            name = "ema_" + key.replace(".", "_") if form == "mmcv" else "model_ema." + key.replace(".", "")
            both[wrapper + name] = value + np.float32(1)
    if form == "LitEma":
        both |= {f"{wrapper}model_ema.decay": np.array(0.99), f"{wrapper}model_ema.num_updates": np.array(3)}
    content = {"meta": {"epoch": 3}, "state_dict": both}
    got, notes = load(monkeypatch, content)
    assert same(got, plain)
    assert "averaged weights beside the others" in notes[0] and "--weights ema takes the averages" in notes[0]
    assert ("mmcv's hook swaps the two" in notes[0]) == (form == "mmcv")
    got, notes = load(monkeypatch, content, "ema")
    assert got.keys() == plain.keys() and "the averages were taken" in notes[0]
    for key in plain:
        shift = not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert np.array_equal(got[key], plain[key] + np.array(shift, plain[key].dtype)), key
    with pytest.raises(TorchFileError, match="f.pth: holds no weights called 'ema', neither"):
        load(monkeypatch, plain, "ema")


# ------------------------------------------------------------------------------------- no such file
def named(tmp_path, name: str, content: bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return refusal(path)


def packed_tar(**files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def packed_zip(*names, how=zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name in names:
            archive.writestr(name, b"content")
    return out.getvalue()


ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xb5\x01\n\x1b\n\x05input"
KINDS = {  # name of the file, its content, what is told
    "model.onnx": (b"\x08\x07\x12\x04tf2x", "an ONNX model"),
    "onnx.pth": (ONNX, "an ONNX model"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, of Keras"),
    "llm.gguf": (b"GGUF\x03\0\0\0" + bytes(100), "a GGUF file"),
    "lite.tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite model"),
    "model.ckpt.index": (
        bytes(100) + bytes.fromhex("57fb808b247547db"),
        "a part of a checkpoint of TensorFlow",
    ),
    "model.ckpt.data-00000-of-00001": (bytes(range(255)), "a part of a checkpoint of TensorFlow"),
    "checkpoint": (b'model_checkpoint_path: "model.ckpt"\n', "the list of checkpoints of TensorFlow"),
    "frozen.pb": (b"\n\x20\n\x05input\x12\x0bPlaceholder\xff", "a frozen program of TensorFlow"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "annex.pth": (b"/annex/objects/SHA256E-s4--0.pth\n", "git annex get"),
    "page.pth": (b"\n<!DOCTYPE html><html>", "a web page"),
    "denied.pth": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "the download did not work"),
    "answer.pth": (b'{"error": "Repository not found"}', "a JSON text"),
    "text.pth": (b"Entry not found", "a text that begins 'Entry not found': did the download work?"),
    "zeros.pth": (bytes(5000), "zeros only"),
    "empty.pth": (b"", "an empty file"),
    "a.pth.gz": (gzip.compress(b"x"), "packed with gzip: unpack it first"),
    "a.pth.bz2": (bz2.compress(b"x"), "packed with bzip2"),
    "a.pth.xz": (lzma.compress(b"x"), "packed with xz"),
    "a.zst": (b"\x28\xb5\x2f\xfd" + bytes(9), "packed with zstd"),
    "a.tar": (packed_tar(weights=b"x"), "a tar file, but not one of torch.save, with 'weights' inside"),
    "a.zip": (packed_zip("a/", "a/readme", "a/resnet.pth"), "with 'resnet.pth' inside: unpack it"),
    "a.npz": (packed_zip("conv1.npy"), "arrays of numpy (.npz)"),
    "a.npy": (b"\x93NUMPY\x01\0" + bytes(100), "a single numpy array"),
    "a.keras": (packed_zip("config.json", "model.weights.h5"), "a Keras model"),
    "a.pt2": (
        packed_zip("m/archive_format", "m/data/weights/w0", how=zipfile.ZIP_STORED),
        "torch.export.load(FILE)",
    ),
    "script.pt": (
        packed_zip("s/data.pkl", "s/constants.pkl", "s/code/a.py", how=zipfile.ZIP_STORED),
        "torch.save(torch.jit.load(FILE).state_dict()",
    ),
    "a.msgpack": (b"\x81\xa6params\x80", "a msgpack file, of Flax"),
    "arrays.pkl": (pickle.dumps({"a": 1.0}, 2), "pickle.load(open(FILE, 'rb'))"),
    "detectron.pkl": (
        pickle.dumps({"model": {"a": np.zeros(3)}}, 2),
        "of pickle.dump: if you trust the file",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_another_file_is(tmp_path, name):
    content, told = KINDS[name]
    assert told in named(tmp_path, name, content)


def settings(class_name: str) -> bytes:
    """Instructions for an object with a state, as pickle writes Namespace, DictConfig and modules."""
    module, _, name = class_name.rpartition(".")
    return f"c{module}\n{name}\n)R".encode() + b"}X\x02\0\0\0lrG?\x84z\xe1G\xae\x14{sb"


def key(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


SAVE = "torch.save(torch.load(FILE, weights_only=False)"


@pytest.mark.parametrize("form", [as_zip, as_stream])
@pytest.mark.parametrize(
    "class_name",
    [
        "argparse.Namespace",
        "omegaconf.dictconfig.DictConfig",
        "yacs.config.CfgNode",
        "mmcv.utils.config.ConfigDict",
        "pathlib.PosixPath",
        "models.net.Net",
    ],
)
def test_an_object_in_a_pickle_gets_its_own_advice(tmp_path, form, class_name):
    """Beside the weights, before or after them; instead of them; the whole of the file."""
    thing, weights = settings(class_name), key("state_dict") + b"}" + key("a") + b"K\x01s"
    args = key("args") + thing
    for data in (
        b"(" + key("epoch") + b"K\x03" + args + weights + b"u",
        b"(" + weights + args + b"u",
        b"(" + key("args") + b"}(" + key("inner") + thing + b"u" + weights + b"u",
    ):
        message = named(tmp_path, "f.pth", form(b"\x80\x02}" + data + b"."))
        assert f"asks for {class_name!r}" in message and "Nothing was executed" in message
        assert (
            "It is in 'args', beside the weights." in message
            and f"{SAVE}['state_dict'], 'weights.pth')" in message
        )
    message = named(tmp_path, "f.pth", form(b"\x80\x02" + thing + b"."))
    assert "It is a whole pickled object, as of torch.save(model)" in message
    assert f"{SAVE}.state_dict(), 'weights.pth')" in message
    message = named(tmp_path, "f.pth", form(b"\x80\x02}" + key("model") + thing + b"s."))
    assert "Its 'model' is a whole pickled object" in message and f"{SAVE}['model'].state_dict(), " in message
    message = named(tmp_path, "f.pth", form(b"\x80\x02}" + key("args") + thing + b"s."))
    assert "if torch.is_tensor(v)" in message


def test_what_no_network_needs_gets_no_advice_to_trust_it(tmp_path):
    for name in (
        "os.system",
        "posix.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.hub.load",
        "runpy._run_code",
    ):
        module, _, function = name.rpartition(".")
        message = named(tmp_path, "f.pth", as_zip(f"\x80\x02c{module}\n{function}\n)R.".encode("latin1")))
        assert f"{name!r}" in message and "do not load this file with anything that trusts it" in message
        assert "weights_only=False" not in message
    message = named(tmp_path, "f.pth", MAGIC[0] + pickle.dumps({"a": complex(1, 2)}, 2))
    assert "__builtin__.complex" in message and "do not load" not in message


def test_folders_stay_no_files():
    with pytest.raises(TorchFileError, match="cannot be read"):
        read_torch_file(FIXTURES)
    with pytest.raises(TorchFileError, match="nothing.pth: cannot be read"):
        read_weights(FIXTURES / "nothing.pth")
