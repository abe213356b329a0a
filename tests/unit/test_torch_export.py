"""Weights written under PyTorch's names: the inverse of the import, for every table that it has."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from effvid_jax import checkpoint, torch_export, torch_import
from effvid_jax.backbones import BACKBONES, make_backbone
from effvid_jax.errors import UserError
from effvid_jax.torch_import import convert, convert_with_report, load_torch_state
from effvid_jax.torch_import.naming import DROPPED, NAMING, best_naming, select_part
from tests.parity import forward, golden, run
from tests.unit.test_torch_import import (
    FILES,
    FIXTURES,
    OPTIONS,
    SMALL,
    mobilenet_state,
    small_state,
    template,
)


def kept(state):
    """Without the buffers that have no counterpart here."""
    return {key: x for key, x in state.items() if not re.fullmatch(DROPPED, key)}


def assert_same(got, want):
    assert sorted(got) == sorted(want)
    for key, x in want.items():
        assert got[key].shape == x.shape and got[key].dtype == x.dtype, key
        assert got[key].tobytes() == np.ascontiguousarray(x).tobytes(), key


# ------------------------------------------------------------------------------------------ the tables
def test_rules_can_be_turned_around():
    """A group that a replacement leaves out, or names twice, could not be found again."""
    of_methods = {"AR-Net", "AR-Net SCSampler", "AdaFuse", "LiteEval"}  # several networks: import only
    assert of_methods < set(NAMING)
    for name, rules in NAMING.items():
        for pattern, replacement in rules if name not in of_methods else ():
            groups = sorted(int(a or b) for a, b in torch_export._NAMED.findall(replacement) if b != "0")
            assert groups == list(range(1, re.compile(pattern).groups + 1)), (name, pattern)
            rest = torch_export._GROUP.sub("", pattern).replace(r"(?:\.net)?", "").replace(
                r"(?:backbone\.)?", "")
            assert replacement == torch_export._SAME or not re.search(r"[()\[\]*+?]|\\[^.]", rest), (
                f"{name}: {pattern} says what may be there in a form that torch_export does not know")


def test_every_backbone_has_a_layout():
    for name in BACKBONES:
        names = [names for pattern, names in torch_export.LAYOUTS.items() if re.fullmatch(pattern, name)]
        assert len(names) == 1 or name == "r2plus1d_18_vared", name
        assert all(set(found) <= set(NAMING) for found in names)


CASES = {path.stem: path for path in sorted(run.CASES.glob("*.json"))
         if golden.load_case(path)["kind"] == "forward"}
SMALL_CASES = ("artnet_r18_16x64_c174", "corrnet26_8x112", "eco_lite_4x224", "el_lite0_2x90", "el_lite1_240",
               "i3d_inception_16x224", "mfnet3d_16x200_c101", "mm_i3d_r50_32x112",
               "mm_r2plus1d_r34_8x112", "mm_swin3d_s_8x112", "mm_tpn_slowonly_r50_8x112",
               "mm_tsn_r18_8x112", "mm_x3d_m_16x112", "msdnet_b4_s4_224",
               "sf_i3d_nln_r50_8x96", "sf_slowfast_r50_4x16_16x64_c174", "sf_x3d_m_16x112",
               "stnet_se_resnext50_12x128_c174", "timm_ghostnet_050_128_c174",
               "timm_mobilenetv3_small_100_128_c174", "timm_mobilenetv3_large_100_160",
               "timm_mobilenetv4_conv_small_160", "movinet_a0_8x112",
               "movinet_a0_stream_8x112", "mm_ircsn_r50_8x64", "mm_ipcsn_r50_8x48_c174",
               "uniformer_s_8x64", "hf_videomae_s_8x64_c174", "hf_vjepa2_s_8x64_c174",
               "trn_multiscale_bninception_3x224", "tsmrepo_tsn_bninception_2x224",
               "tv_mc3_18_16x112", "tv_mvit_v2_s_16x224", "tv_r2plus1d_18_16x112",
               "tv_resnet50_224", "tv_s3d_16x224", "tv_swin3d_t_16x112")


def numbered(case):
    """The state of a case with a number in place of every tensor's values, and without a teacher's."""
    state = {key: np.broadcast_to(np.float32(i), shape) for i, (key, shape, kind) in enumerate(case["state"])
             if kind != "i"}
    return kept(select_part(state)[0])


@pytest.mark.parametrize("name", SMALL_CASES)
def test_names_of_every_family(name):
    """From the names of published files to ours and back; shapes as the import makes them."""
    state = numbered(golden.load_case(CASES[name]))
    layout, sources, unused = best_naming(state)
    assert not unused
    sources = {re.sub("kernel$", "scale", path) if state[key].ndim == 1 else path: key
               for path, key in sources.items()}
    ours = {}
    for path, key in sources.items():
        x = np.moveaxis(state[key], (0, 1), (-1, -2)) if path.endswith("kernel") else state[key]
        pattern, axes = torch_export._CONVOLUTIONS.get(layout, ("", 0))
        if path.endswith("kernel") and re.fullmatch(pattern, path.rpartition("/")[0]):
            x = x.reshape(x.shape[-2:] if axes > 3 else (len(x), 1, 1, *x.shape[1:]))
        ours["params", *path.split("/")] = x
    got, written = torch_export.torch_state(unflatten_dict(ours), layout=layout)
    assert_same(got, state)
    assert written.keys == sources and not written.left_out


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_family_with_its_network(name):
    """The same through the import, with the shapes and the shifted blocks of the network itself."""
    case = golden.load_case(CASES[name])
    reference, state = forward.build(case), numbered(case)
    shape = case["input"]["shape"]
    clip = (1, *(shape[1:] if len(shape) == 5 else (1, *shape[1:])))
    wanted = jax.eval_shape(reference.model.init, jax.random.key(0), np.zeros(clip, np.float32))
    variables, report = convert_with_report(reference.name, state, wanted)
    shifted = torch_export.shifted_blocks(reference.model, clip[1], clip[2])
    got, _ = torch_export.torch_state(variables, reference.name, layout=report.convention, shifted=shifted)
    assert_same(got, state)
    default, written = torch_export.torch_state(variables, reference.name, shifted=shifted)
    assert report.convention in (written.layout, *written.others)
    again = convert(reference.name, default, wanted)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


@pytest.mark.parametrize("layout", [
    "mmaction2 MobileNetV2", "torchvision MobileNetV2", "TSM repository MobileNetV2"])
def test_blocks_whose_input_is_shifted_are_wrapped(layout, mobilenet):
    wanted, shifted = mobilenet
    assert "layer2_1" in shifted and not {"layer1_0", "layer2_0"} & shifted
    state = mobilenet_state(layout)
    variables = convert("tsm_mobilenet_v2", state, wanted)
    assert_same(torch_export.torch_state(variables, "tsm_mobilenet_v2", layout=layout, shifted=shifted)[0],
                kept(state))


@pytest.fixture(scope="module")
def mobilenet():
    model = make_backbone("tsm_mobilenet_v2", num_classes=5)
    return template("tsm_mobilenet_v2", 5), torch_export.shifted_blocks(model, 2, 32)


def test_a_deep_network_shifts_every_second_block():
    model = make_backbone("tsm_resnet50", num_classes=4, stage_sizes=(1, 23), width=2)
    assert torch_export.shifted_blocks(model, 2, 32) == {
        "layer1_0", *(f"layer2_{b}" for b in range(0, 23, 2))}


# ------------------------------------------------------------------------------------------- the command
@pytest.mark.parametrize("name, layout", FILES.items())
def test_the_command_gives_the_file_back(tmp_path, capsys, name, layout):
    """A published file, imported and written again: the same tensors under the same names."""
    backbone = "tsm_resnet50" if "tsm" in name else "resnet50"
    run_, file = str(tmp_path / "run"), str(tmp_path / "new" / "weights.safetensors")
    (tmp_path / "new").mkdir()
    assert torch_import.main(["--backbone", backbone, "--checkpoint", str(FIXTURES / name), "--out", run_,
                              *OPTIONS]) == 0
    capsys.readouterr()
    command = ["--workdir", run_, "--out", file]
    assert torch_export.main([*command, "--layout", layout]) == 0
    told = capsys.readouterr().out
    print(told)
    assert f"written as {layout}: 47 tensors" in told and "read back, they are the same" in told
    assert_same(safetensors.numpy.load_file(file), kept(small_state(name)))
    if name != "mmaction2_zip.pth":
        return
    assert torch_export.main(command) == 0
    assert "further layouts (--layout): torchvision ResNet, TSM" in capsys.readouterr().out
    assert torch_export.main([*command, "--skip", "fc/.*"]) == 0
    assert "left out (2): fc/bias, fc/kernel" in capsys.readouterr().out
    assert len(load_torch_state(file)) == 45
    for more, message in ((["--layout", "Caffe"], "--layout 'Caffe' is not known. Known: mmaction2"),
                          (["--layout", "MSDNet-PyTorch"], "47 of 47 arrays of resnet50 have no name in"),
                          (["--out", "a.pth"], "--out a.pth: expected a name that ends in .safetensors"),
                          (["--skip", "("], "not a regular expression"),
                          (["--step", "7"], "no checkpoint of step 7")):
        assert torch_export.main([*command, *more]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_parts_of_larger_networks(tmp_path):
    """Exits and gates have no names there: they are listed, or left out when one says so."""
    variables = convert("resnet50", small_state(), template(**SMALL))
    flat = {(kind, "backbone", *names): x for (kind, *names), x in flatten_dict(variables).items()}
    flat["params", "head_0", "kernel"] = flat["params", "backbone", "layer1_0", "conv2", "gate"] = np.zeros(2)
    whole = unflatten_dict(flat)
    with pytest.raises(torch_export.NoNames, match="2 of 49 arrays of resnet50 have no name in 'mmaction2 "
                                                   "ResNet'.*: layer1_0/conv2/gate, head_0/kernel"):
        torch_export.torch_state(whole, "resnet50")
    state, written = torch_export.torch_state(whole, "resnet50", skip=["head_.*", ".*/gate"])
    assert_same(state, kept(small_state()))
    assert sorted(written.left_out) == ["head_0/kernel", "layer1_0/conv2/gate"]
    with pytest.raises(UserError, match="not a regular expression"):
        torch_export.torch_state(whole, "resnet50", skip=["("])


def test_a_trained_network_goes_out_and_comes_in(tmp_path, tiny_run, capsys):
    """What was trained here, bit for bit."""
    file, back = str(tmp_path / "student.safetensors"), str(tmp_path / "back")
    assert torch_export.main(["--workdir", tiny_run, "--out", file]) == 0
    saved, variables = checkpoint.load_variables(tiny_run)
    options = saved.model.options.to_json()
    assert torch_import.main(["--backbone", saved.model.backbone, "--checkpoint", file, "--out", back,
                              "--options", options, "--resolution", "32"]) == 0
    _, again = checkpoint.load_variables(back)
    assert_same(*({"/".join(path): x for path, x in flatten_dict(tree).items()}
                  for tree in (again, variables)))
