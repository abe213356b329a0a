"""Names, layouts, strictness and the command of the PyTorch import."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from configs import supervised_minik
from effvid_jax import checkpoint, cli, cost, torch_import
from effvid_jax.backbones import make_backbone
from effvid_jax.torch_import import (
    ImportMismatch,
    convert,
    convert_with_report,
    count_classes,
    load_torch_state,
    loading,
)
from effvid_jax.torch_import.files import TorchFileError
from effvid_jax.torch_import.naming import select_part
from tests.drawn import shapes_of

FIXTURES = Path(__file__).parent / "fixtures"
SMALL = dict(stage_sizes=(1, 1), width=2)  # the network of the fixtures, 4 classes
FILES = {"mmaction2_zip.pth": "mmaction2 ResNet", "torchvision_stream.pth": "torchvision ResNet",
         "tsm_stream.pth.tar": "TSM repository ResNet"}


def template(name="resnet50", classes=4, values=False, **options):
    model = make_backbone(name, num_classes=classes, **options)
    tree = shapes_of(model, np.zeros((1, 2, 32, 32, 3), np.float32))
    return jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), tree) if values else tree


def shapes(*leaves) -> dict:
    """A template of the given ('a/kernel', shape, ...) parameters."""
    return {"params": {module: {leaf: jax.ShapeDtypeStruct(shape, "float32")}
                       for (module, leaf), shape in ((path.split("/"), s) for path, s in leaves)}}


def small_state(name="mmaction2_zip.pth"):
    return load_torch_state(FIXTURES / name)


# ------------------------------------------------------------------------------- names and layouts
@pytest.mark.parametrize("name, convention", FILES.items())
def test_each_convention_gives_the_same_variables(name, convention):
    variables, report = convert_with_report("tsm_resnet50", small_state(name),
                                            template("tsm_resnet50", **SMALL))
    assert report.convention == convention
    assert (len(report.sources), report.dropped, report.kept, report.left_out) == (47, 9, [], [])
    assert jax.tree.structure(variables) == jax.tree.structure(template("tsm_resnet50", **SMALL))
    want = flatten_dict(convert("resnet50", small_state(), template(**SMALL)), sep="/")
    got = flatten_dict(variables, sep="/")
    assert all(np.array_equal(want[k], got[k]) and got[k].flags.c_contiguous for k in want)


def test_values_and_layouts():
    state, variables = small_state(), convert("resnet50", small_state(), template(**SMALL))
    params, stats = variables["params"], variables["batch_stats"]
    kernel, weight = params["conv1"]["kernel"], state["backbone.conv1.conv.weight"]
    assert kernel.shape == (7, 7, 3, 2) and kernel[1, 5, 2, 0] == weight[0, 2, 1, 5]
    assert np.array_equal(params["fc"]["kernel"], state["cls_head.fc_cls.weight"].T)
    assert np.array_equal(params["fc"]["bias"], state["cls_head.fc_cls.bias"])
    norm = "backbone.layer2.0.downsample.bn."
    assert np.array_equal(params["layer2_0"]["downsample_bn"]["scale"], state[norm + "weight"])
    assert np.array_equal(params["layer2_0"]["downsample_bn"]["bias"], state[norm + "bias"])
    assert np.array_equal(stats["layer2_0"]["downsample_bn"]["mean"], state[norm + "running_mean"])
    assert np.array_equal(stats["layer2_0"]["downsample_bn"]["var"], state[norm + "running_var"])


MOBILENET = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]


def mobilenet_state(convention: str) -> dict[str, np.ndarray]:
    """MobileNetV2 in the keys of a convention, from its definition; values tell tensors apart."""
    state, start = {}, 0

    def put(key, *shape):
        nonlocal start
        state[key] = np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)
        start += state[key].size

    def conv_bn(conv, bn, *shape):
        put(conv + ".weight", *shape)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            put(f"{bn}.{leaf}", shape[0])
        state[bn + ".num_batches_tracked"] = np.int64(7)

    mm, tsm = convention.startswith("mmaction2"), convention.startswith("TSM")
    root = "base_model.features." if tsm else "features."

    def ends(index, layer):
        if mm:
            return f"backbone.conv{layer}.conv", f"backbone.conv{layer}.bn"
        return f"{root}{index}.0", f"{root}{index}.1"

    conv_bn(*ends(0, 1), 32, 3, 3, 3)
    inside, index = 32, 0
    for stage, (expansion, outside, size) in enumerate(MOBILENET, start=1):
        for block in range(size):
            index += 1
            hidden = inside * expansion
            convs = [(hidden, inside, 1, 1), (hidden, 1, 3, 3), (outside, hidden, 1, 1)]
            for i, shape in enumerate(convs if expansion > 1 else convs[1:]):
                last, shift = shape is convs[2], ".net" if shape is convs[0] and block else ""
                if mm:
                    base = f"backbone.layer{stage}.{block}.conv.{i}{shift}."
                    conv_bn(base + "conv", base + "bn", *shape)
                elif tsm:  # convolution, norm, ReLU6 in one flat list
                    base = f"{root}{index}.conv."
                    conv_bn(f"{base}{3 * i}{shift}", f"{base}{3 * i + 1}", *shape)
                else:
                    base = f"{root}{index}.conv.{i}"
                    norm = f"{root}{index}.conv.{i + 1}" if last else base + ".1"
                    conv_bn(base if last else base + ".0", norm, *shape)
            inside = outside
    conv_bn(*ends(18, 2), 1280, 320, 1, 1)
    head = "cls_head.fc_cls" if mm else "new_fc" if tsm else "classifier.1"
    put(head + ".weight", 5, 1280)
    put(head + ".bias", 5)
    return state


def test_mobilenet_in_three_conventions():
    want = template("tsm_mobilenet_v2", 5)
    results = []
    for convention in ("mmaction2 MobileNetV2", "torchvision MobileNetV2",
                       "TSM repository MobileNetV2"):
        state = mobilenet_state(convention)
        assert count_classes(state) == 5
        variables, report = convert_with_report("tsm_mobilenet_v2", state, want)
        assert (report.convention, len(report.sources)) == (convention, 262)
        results.append(jax.tree.leaves(variables))
    assert all(np.array_equal(a, b) and np.array_equal(a, c)
               for a, b, c in zip(*results, strict=True))
    kernel = variables["params"]["layer2_1"]["depthwise_conv"]["kernel"]
    assert kernel.shape == (3, 3, 1, 144)
    weight = state["base_model.features.3.conv.3.weight"]
    assert kernel[2, 1, 0, 100] == weight[100, 0, 2, 1]


@pytest.mark.parametrize("shape", [(), (0, 4), (4, 0)])
def test_a_classifier_without_classes(shape):
    state = {"conv1.weight": np.zeros((4, 3, 7, 7)), "fc.weight": np.zeros(shape)}
    assert count_classes(state) is None
    assert count_classes({**state, "fc.weight": np.zeros((5, 4))}) == 5


def test_kernels_of_other_ranks():
    rng = np.random.default_rng(0)
    conv3d, conv1d, conv2d = (rng.standard_normal((4, 3, *k)).astype(np.float32)
                              for k in ((2, 5, 6), (5,), (5, 6)))
    got = convert("x", {"conv1.weight": conv3d}, shapes(("conv1/kernel", (2, 5, 6, 3, 4))))
    assert got["params"]["conv1"]["kernel"][1, 4, 2, 0, 3] == conv3d[3, 0, 1, 4, 2]
    got = convert("x", {"conv1.weight": conv1d}, shapes(("conv1/kernel", (5, 3, 4))))
    assert got["params"]["conv1"]["kernel"][4, 2, 1] == conv1d[1, 2, 4]
    one = conv2d[:, :, :1, :1]
    for source, shape in ((one, (3, 4)), (one[..., 0, 0], (1, 1, 1, 3, 4))):  # 1x1 conv <-> linear
        got = convert("x", {"fc.weight": source}, shapes(("fc/kernel", shape)))
        assert np.array_equal(got["params"]["fc"]["kernel"].reshape(3, 4), one[..., 0, 0].T)

    target = shapes(("conv1/kernel", (3, 5, 6, 3, 4)))
    with pytest.raises(ImportMismatch, match=r"file \(5, 6, 3, 4\), model \(3, 5(.|\n)*--inflate"):
        convert("x", {"conv1.weight": conv2d}, target)
    got = convert("x", {"conv1.weight": conv2d}, target, inflate=True)
    kernel = got["params"]["conv1"]["kernel"]
    assert np.array_equal(kernel[0], kernel[2])
    np.testing.assert_array_equal(kernel[1], conv2d.transpose(2, 3, 1, 0) / np.float32(3))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_float_types_become_the_templates(dtype):
    got = convert("x", {"fc.weight": np.array([[1.5, -2.0]], dtype)}, shapes(("fc/kernel", (2, 1))))
    kernel = got["params"]["fc"]["kernel"]
    assert kernel.dtype == np.float32 and kernel.tolist() == [[1.5], [-2.0]]
    assert got["batch_stats"] == {}


# ------------------------------------------------------------------------------------- strictness
def test_one_error_lists_everything():
    state = small_state()
    del state["backbone.layer2.0.conv3.bn.running_var"], state["backbone.conv1.conv.weight"]
    state["backbone.layer9.0.conv1.conv.weight"] = np.zeros((2, 2, 1, 1), np.float32)
    state["head.extra"] = np.zeros(2, np.float32)
    state["backbone.conv1.bn.weight"] = np.zeros(3, np.float32)
    state["backbone.conv1.bn.bias"] = np.zeros(2, np.int64)
    state["backbone.layer1.0.conv2.bn.weight"] = np.array([1, np.nan], np.float32)
    with pytest.raises(ImportMismatch) as error:
        convert("resnet50", state, template(classes=9, **SMALL))
    print(error.value)
    lines = [line.split("        <-")[0] for line in str(error.value).splitlines()]
    assert lines == [
        "weights do not fit resnet50 (num_classes=9), read as mmaction2 ResNet:",
        "  missing here (2): conv1/kernel, layer2_0/bn3/var",
        "  unused in file (2): backbone.layer9.0.conv1.conv.weight, head.extra",
        "  wrong shape (3): bn1/scale: file (3,), model (2,), fc/bias: file (4,), model (9,), "
        "fc/kernel: file (16, 4), model (16, 9)",
        "  wrong type (1): bn1/bias: file int64, model float32",
        "  not finite (1): layer1_0/bn2/scale (backbone.layer1.0.conv2.bn.weight)",
        "  The file's classifier has 4 classes, the model 9: --classes 4 keeps it, --skip 'fc/.*' "
        "starts a new one (fine-tuning)."]


def test_skip_waives_by_our_path_or_the_files_key():
    state = {**small_state(), "head.extra": np.zeros(2, np.float32)}
    start = template(classes=9, values=True, **SMALL)
    for extra in ("head/extra", r"head\..*"):
        variables, report = convert_with_report("resnet50", state, start, skip=["fc/.*", extra])
        assert (report.kept, report.left_out) == (["fc/bias", "fc/kernel"], ["head.extra"])
        assert (variables["params"]["fc"]["kernel"] == 0.5).all()
        assert np.array_equal(variables["params"]["conv1"]["kernel"].transpose(3, 2, 0, 1),
                              state["backbone.conv1.conv.weight"])
    with pytest.raises(ImportMismatch, match="unused in file"):  # patterns match whole names
        convert("resnet50", state, start, skip=["fc/.*", "head"])
    with pytest.raises(ValueError, match="only shapes"):
        convert("resnet50", state, template(classes=9, **SMALL), skip=["fc/.*", ".*extra"])
    with pytest.raises(ValueError, match="not a regular expression"):
        convert("resnet50", state, start, skip=["fc/("])


def test_unknown_names_and_prefix():
    state = {f"encoder.{key}": value for key, value in small_state().items()}
    with pytest.raises(ImportMismatch, match=r"not one name.*encoder\.backbone.*torchvision"):
        convert("resnet50", state, template(**SMALL))
    got = convert("resnet50", state, template(**SMALL), prefix="encoder.")
    assert np.array_equal(got["params"]["fc"]["bias"], state["encoder.cls_head.fc_cls.bias"])


def test_notes_on_temporal_shift():
    def notes(backbone, name):
        here = template(backbone, **SMALL)
        return convert_with_report(backbone, small_state(name), here)[1].notes

    assert "tsm_resnet50?" in notes("resnet50", "tsm_stream.pth.tar")[0]
    assert "trained without temporal shift" in notes("tsm_resnet50", "torchvision_stream.pth")[0]
    assert notes("tsm_resnet50", "tsm_stream.pth.tar") == []
    assert notes("resnet50", "mmaction2_zip.pth") == []


# ------------------------------------------------------------------------------------- ResKD files
def reskd_state():
    """A ResKD student file on the fixtures' network; the teacher's values are greater by 1."""
    plain = small_state()
    state = {}
    for path, shift in (("low_res_path", 0), ("high_res_path", 1)):
        state |= {k.replace("backbone.", f"backbone.{path}."): v + np.asarray(shift, v.dtype)
                  for k, v in plain.items() if k.startswith("backbone.")}
    return state | {k: v for k, v in plain.items() if k.startswith("cls_head.")}


def test_reskd_student_is_the_default_part():
    variables, report = convert_with_report("resnet50", reskd_state(), template(**SMALL))
    want = convert("resnet50", small_state(), template(**SMALL))
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, want))
    assert report.notes == ["the student of a ResKD file; 54 tensors of its teacher are left out"]


def test_reskd_teacher_needs_a_new_classifier():
    with pytest.raises(ImportMismatch, match=r"no classifier(.|\n)*have drifted"):
        convert("resnet50", reskd_state(), template(**SMALL), part="teacher")
    start = template(values=True, **SMALL)
    variables, report = convert_with_report("resnet50", reskd_state(), start, part="teacher",
                                            skip=["fc/.*"])
    assert "drifted" in report.notes[0]
    assert np.array_equal(variables["params"]["bn1"]["scale"],
                          small_state()["backbone.conv1.bn.weight"] + 1)
    swin = {**reskd_state(), "cls_head.fc_cls_t.bias": np.zeros(7, np.float32)}
    assert count_classes(select_part(swin, "teacher")[0]) == 7
    assert count_classes(select_part(swin)[0]) == 4


def test_part_of_an_ordinary_file_is_an_error():
    with pytest.raises(ValueError, match="no ResKD student"):
        convert("resnet50", small_state(), template(**SMALL), part="student")
    with pytest.raises(ValueError, match="expected one of"):
        convert("resnet50", reskd_state(), template(**SMALL), part="both")


# ------------------------------------------------------------------------------- files and command
def test_where_the_state_dict_is(monkeypatch):
    plain = {"conv1.weight": np.zeros(1), "module.x": np.zeros(1)}
    wrapped = {"module.a": np.zeros(1), "module.b": np.zeros(1)}

    def load(content):
        monkeypatch.setattr(loading, "read_weights", lambda path: content)
        return [*load_torch_state("f.pth")]

    assert load(plain) == [*plain]
    for name in torch_import.CONTAINERS:
        assert load({"epoch": 1, name: wrapped}) == ["a", "b"]
    for bad in ({}, [1], np.zeros(3), {"epoch": 3}, {"a": np.zeros(1), "cfg": "text"},
                {"state_dict": {"a": 1}}):
        with pytest.raises(TorchFileError, match="f.pth: "):
            load(bad)


def test_averaged_weights_are_told_and_can_be_chosen(monkeypatch):
    """Two sets in one file: training frameworks call the average by many names."""
    raw, average = {"conv1.weight": np.zeros(2)}, {"module.conv1.weight": np.ones(2), "steps": np.array(3)}
    for name in ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "swa_model", "ema_model_state"):
        content = {"epoch": 3, "state_dict": raw, name: average, "optimizer": {"state": {0: {}}}}
        monkeypatch.setattr(loading, "read_weights", lambda path, content=content: content)
        state, notes = loading.load_with_notes("f.pth")
        assert state == raw and len(notes) == 1
        assert "averaged weights as well" in notes[0] and f"--weights {name} takes" in notes[0]
        state, notes = loading.load_with_notes("f.pth", name)
        assert state["conv1.weight"].tolist() == [1, 1] and list(state) == ["conv1.weight"]
        assert "'state_dict'" in notes[0]
        with pytest.raises(TorchFileError, match=f"no weights called 'nothing'.*state_dict, {name}"):
            load_torch_state("f.pth", "nothing")
        del content["state_dict"]
        with pytest.raises(TorchFileError, match=f"no state dict found.*under {name}: --weights NAME"):
            load_torch_state("f.pth")
        assert load_torch_state("f.pth", name)["conv1.weight"].tolist() == [1, 1]
    monkeypatch.setattr(loading, "read_weights", lambda path: {"model_state": raw, "epoch": 1})
    assert loading.load_with_notes("f.pth") == (raw, [])


OPTIONS = ["--resolution", "32", "--options", '{"width": 2, "stage_sizes": [1, 1]}']


def test_command_writes_a_checkpoint(tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("up\ndown\nleft\nright\n")
    out = tmp_path / "run"
    code = torch_import.main(["--backbone", "tsm_resnet50", "--checkpoint",
                              str(FIXTURES / "tsm_stream.pth.tar"), "--class_names", str(names),
                              "--out", str(out), "--dtype", "bfloat16", "--bn_groups", "8", *OPTIONS])
    text = capsys.readouterr().out
    print(text)
    assert code == 0 and "read as TSM repository ResNet" in text and "1,050" in text
    saved, variables = checkpoint.load_variables(str(out))
    assert saved.model.backbone == "tsm_resnet50" and saved.model.resolution == 32
    assert (saved.model.dtype, saved.model.bn_groups) == ("bfloat16", 8), "a teacher's own"
    assert saved.class_names == ("up", "down", "left", "right")
    want = convert("tsm_resnet50", small_state("tsm_stream.pth.tar"),
                   template("tsm_resnet50", **SMALL))
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, want))


SLOWONLY = ('{"width": 2, "stage_sizes": [1, 1], "inflate": [0, 1], "time_strides": [1, 1], '
            '"space_strides": [1, 2]}')


@pytest.mark.parametrize("backbone, file, options, arguments", [
    ("resnet50", "torchvision_stream.pth", OPTIONS[-1], []),
    ("slowonly_resnet50", "torchvision_stream.pth", SLOWONLY, ["--inflate"]),
    ("resnet50", "written.safetensors", OPTIONS[-1], []),
])
def test_imported_weights_are_evaluated(tmp_path, backbone, file, options, arguments):
    """From a file through the command to `--mode=eval` on real clips; other data is refused."""
    path = FIXTURES / file
    if file == "written.safetensors":
        path = tmp_path / file
        safetensors.numpy.save_file(small_state("torchvision_stream.pth"), str(path))
    out = str(tmp_path / "run")
    command = ["--backbone", backbone, "--checkpoint", str(path), "--out", out, "--resolution", "32",
               "--options", options, *arguments]
    assert torch_import.main(command) == 0
    config = supervised_minik.get_config("tiny")
    config.data.root = str(tmp_path / "benchmark")
    config.data.synthetic.update(dict(num_textures=2, num_motions=2, train_clips=4, val_clips=4))
    metrics = cli.eval(config, out)
    assert metrics["val/examples"] == 4 and metrics["val/resolution"] == 32 and metrics["step"] == 0
    model = make_backbone(backbone, num_classes=4, **{
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(options).items()})
    found = cost.count(model, (4, 32, 32, 3))
    assert metrics["params"] == found.params and metrics["val/gmacs"] == pytest.approx(found.gmacs)
    config.data.synthetic.num_textures = 3
    config.data.root = str(tmp_path / "other")
    with pytest.raises(ValueError, match="the network has 4 classes, split 'val' of config.data has 6"):
        cli.eval(config, out)
    with pytest.raises(ValueError, match="names a model but no data .imported weights.: give --config"):
        cli.eval(None, out)


def test_command_turns_what_reads_bgr(tmp_path, capsys):
    state = small_state("torchvision_stream.pth")
    turned, note = loading.to_rgb(state)
    np.testing.assert_array_equal(turned["conv1.weight"][:, 0], state["conv1.weight"][:, 2])
    assert all(turned[key] is value for key, value in state.items() if key != "conv1.weight")
    assert "BGR to RGB: conv1.weight" in note
    with pytest.raises(TorchFileError, match="no convolution of the file reads three colours"):
        loading.to_rgb({"fc.weight": np.zeros((4, 3))})
    arguments = ["--backbone", "resnet50", "--checkpoint", str(FIXTURES / "torchvision_stream.pth"), *OPTIONS]
    assert torch_import.main([*arguments, "--bgr", "--out", str(tmp_path / "run")]) == 0
    assert note in capsys.readouterr().out
    _, variables = checkpoint.load_variables(str(tmp_path / "run"))
    np.testing.assert_array_equal(variables["params"]["conv1"]["kernel"],
                                  np.moveaxis(turned["conv1.weight"], (0, 1), (3, 2)))


def test_command_starts_a_new_classifier(tmp_path, capsys):
    out = str(tmp_path / "run")
    code = torch_import.main(["--backbone", "resnet50", "--checkpoint",
                              str(FIXTURES / "torchvision_stream.pth"), "--classes", "7", "--skip",
                              "fc/.*", "--out", out, *OPTIONS])
    assert code == 0 and "kept at initial values (2)" in capsys.readouterr().out
    _, variables = checkpoint.load_variables(out)
    assert variables["params"]["fc"]["kernel"].shape == (16, 7)


@pytest.mark.parametrize("arguments, message", [
    (["--checkpoint", "nothing.pth"], "nothing.pth: cannot be read"),
    (["--checkpoint", "module_zip.pth"], "'torch.nn.modules.linear.Linear'"),
    (["--checkpoint", "mmaction2_zip.pth", "--classes", "7"], "--skip 'fc/.*' starts a new one"),
    (["--checkpoint", "mmaction2_zip.pth", "--part", "teacher"], "no ResKD student"),
    (["--checkpoint", "tar.pth"], "has no classifier that is known"),
    (["--checkpoint", "mmaction2_zip.pth", "--class_names", os.devnull], "0 names for 4 classes"),
    (["--checkpoint", "mmaction2_zip.pth", "--backbone", "resnet51"], "unknown backbone"),
    (["--checkpoint", "mmaction2_zip.pth", "--weights", "ema"], "no weights called 'ema'"),
    (["--checkpoint", "mmaction2_zip.pth", "--options", "[1]"], "--options [1]: expected fields by name"),
    (["--checkpoint", "mmaction2_zip.pth", "--classes", "0"], "--classes 0: expected at least 1"),
    (["--checkpoint", "mmaction2_zip.pth", "--frames", "-8"], "--frames -8: expected at least 1"),
    (["--checkpoint", "mmaction2_zip.pth", "--resolution", "0"], "--resolution 0: expected at least 1"),
    (["--checkpoint", "mmaction2_zip.pth", "--bn_groups", "-1"], "--bn_groups -1: expected at least 0"),
])
def test_command_fails_in_one_message(tmp_path, capsys, arguments, message):
    arguments[1] = str(FIXTURES / arguments[1])
    out = tmp_path / "run"
    code = torch_import.main(["--backbone", "resnet50", "--out", str(out), *OPTIONS, *arguments])
    assert code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and not out.exists()
