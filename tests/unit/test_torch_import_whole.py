"""Published weights of a method's whole network, by the config that describes it."""

import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import adafocus_v2_folder
from effvid_jax import checkpoint
from effvid_jax.methods import make_method
from effvid_jax.tasks import make_task
from effvid_jax.torch_import import conversion

FILE = "configs/adafocus_v2_folder.py:tiny,glance=resnet50"
NAMES = [  # (pattern of our module, the release's module)
    (r"glance/fc", "global_CNN_fc.1"), (r"focus/fc", "local_CNN_fc.1"),
    (r"(glance|focus)/layer(\d)_(\d)/downsample_conv", r"\1.layer\2.\3.downsample.0"),
    (r"(glance|focus)/layer(\d)_(\d)/downsample_bn", r"\1.layer\2.\3.downsample.1"),
    (r"(glance|focus)/layer(\d)_(\d)/(\w+)", r"\1.layer\2.\3.\4"), (r"(glance|focus)/(\w+)", r"\1.\2"),
    (r"policy/reduce", "policy_stn.encoder.0"), (r"policy/reduce_bn", "policy_stn.encoder.1"),
    (r"policy/encode", "policy_stn.encoder.4"), (r"policy/encode_bn", "policy_stn.encoder.5"),
    (r"policy/out", "policy_stn.fc.0"), (r"policy/gru/input", "policy_stn.gru.{}_ih_l0"),
    (r"policy/gru/hidden", "policy_stn.gru.{}_hh_l0"),
    (r"head/lift", "classifier.mlp.layers.0"), (r"head/lift_bn", "classifier.mlp.layers.1"),
    *((rf"head/fc_{t + 1}", f"classifier.classifiers.{t}.1") for t in range(4))]
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def released_name(path):
    """'head/lift/kernel' -> 'module.classifier.mlp.layers.0.weight'."""
    module, _, leaf = path.rpartition("/")
    theirs = next(re.fullmatch(pattern, module).expand(name) for pattern, name in NAMES
                  if re.fullmatch(pattern, module))
    theirs = re.sub("^glance", "global_CNN", re.sub("^focus", "local_CNN", theirs))
    name = theirs.format(LEAVES[leaf]) if "{}" in theirs else f"{theirs}.{LEAVES[leaf]}"
    return f"module.{name}"  # of DataParallel


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(file, its tensors by our paths) of a network as the config has it, with the names of the release."""
    from safetensors.numpy import save_file

    config = adafocus_v2_folder.get_config("tiny,glance=resnet50")
    method = make_method(config, make_task(config, ["a", "b", "c"]))
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), (1, *method.clip_shape)))
    rng, ours, state = np.random.default_rng(0), {}, {}
    for tree in (shapes.params, shapes.stats):
        for path, leaf in flatten_dict(tree, sep="/").items():
            value = ours[path] = rng.random(leaf.shape, np.float32)
            value = np.moveaxis(value, (-1, -2), (0, 1)) if path.endswith("kernel") else value
            state[released_name(path)] = np.ascontiguousarray(value)
    for name in ("local_CNN.fc", "global_CNN.classifier"):  # of ImageNet, never run
        state[f"module.{name}.weight"] = np.zeros((1000, 16), np.float32)
    path = tmp_path_factory.mktemp("released") / "actnet_p128_res50.safetensors"
    save_file(state, path)
    return path, ours


def test_a_released_network_is_imported_by_its_config(released, tmp_path, capsys):
    path, ours = released
    asked = ["--config", FILE, "--checkpoint", str(path), "--out", str(tmp_path / "out")]
    assert conversion.main(asked) == 1
    assert "does not say how many classes" in capsys.readouterr().err
    assert conversion.main([*asked, "--classes", "3"]) == 0
    told = capsys.readouterr().out
    assert "read as AdaFocus V2" in told and f"--config={FILE}" in told
    saved, variables = checkpoint.load_variables(str(tmp_path / "out"))
    found = {path: x for tree in variables.values() for path, x in flatten_dict(tree, sep="/").items()}
    assert found.keys() == ours.keys() and saved.model.glance.backbone == "resnet18"
    for name, value in ours.items():
        np.testing.assert_array_equal(found[name], value, name)


def test_what_is_no_config_is_refused(tmp_path, capsys):
    (tmp_path / "none.py").write_text("x = 1\n")
    out = ["--checkpoint", "a.pth", "--out", str(tmp_path / "out")]
    for file, words in (("configs/none.py", "there is no file"), (str(tmp_path / "none.py"), "get_config")):
        assert conversion.main(["--config", file, *out]) == 1
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        conversion.main(["--config", FILE, "--backbone", "resnet50", *out])
