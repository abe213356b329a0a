"""Every config that is shipped: it loads, and `:tiny` goes through training, checkpoint and evaluation."""

import glob
import importlib
import json
import os

import pytest
from flax import traverse_util

from configs.recipes import base
from effvid_jax import cli
from effvid_jax.reports import report
from effvid_jax.start import runs
from effvid_jax.tasks import find_task

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = sorted(os.path.basename(path)[:-3] for path in glob.glob(f"{ROOT}/configs/*_*.py")
               if not os.path.basename(path).startswith("__"))
# Systems of the papers' tables: their configs differ in data and numbers, so one of each trains here always.
PEERS = ("adafocus_v2", "adafuse", "arnet", "combined", "frameexit", "liteeval", "ocsampler", "scsampler",
         "uni_adafocus")
# Several networks, in stages or beside each other, take long; steps of them are in tests/methods.
STAGED = ("arnet", "liteeval", "ocsampler", "scsampler", "uni_adafocus")
# Their `:tiny` is trained on miniatures of the real formats by tests of their own.
ELSEWHERE = ("localise_jhmdb", "segment_ade20k")


def load(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


def words(name):
    """What is no number in `:tiny` of a config, name and note apart: equal ones run the same code."""
    fields = traverse_util.flatten_dict(load(name, "tiny").to_dict(), sep=".")
    return tuple(sorted((path, str(value)) for path, value in fields.items()
                        if isinstance(value, bool | str) and value != "" and path not in ("name", "note")))


FIRST = {words(name): name for name in reversed(NAMES)}


def some_slow(name):
    """A parameter with the marker of the slow ones, if another test trains the same, or it takes long."""
    peer, _, dataset = name.rpartition("_")
    if peer in PEERS:
        slow = dataset != "minik" or peer in STAGED
    else:
        slow = name in ELSEWHERE or FIRST[words(name)] != name
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


@pytest.mark.parametrize("name", NAMES)
def test_loads_in_every_form(name):
    full, tiny, demo = load(name), load(name, "tiny"), load(name, "demo")
    own = {"task", full.task} if "task" in full else set()  # the task's fields
    assert set(full) == set(tiny) == set(demo) == set(base.defaults()) | own
    assert tiny.train.num_steps == 20 and tiny.data.source == demo.data.source
    assert tiny.data.source.startswith("synthetic")
    assert "tiny" in tiny.note and "demo" in demo.note and not full.note
    docstring = importlib.import_module(f"configs.{name}").__doc__
    assert f"--config=configs/{name}.py" in docstring, "the docstring is the command line"
    with pytest.raises(ValueError, match="unknown config argument 'dmo'.*Did you mean 'demo'.*Known: tiny"):
        load(name, "dmo")


def is_minik(name):
    """Whether `:tiny` of a folder's config does what that of Mini-Kinetics does, as a test says."""
    peer, _, dataset = name.rpartition("_")
    return dataset == "folder" and peer in PEERS and peer != "combined"


@pytest.mark.parametrize("name", [name for name in NAMES if is_minik(name)])
def test_tiny_of_a_folder_differs_in_numbers(name):
    ours, theirs = ({path: value for path, value in traverse_util.flatten_dict(
        load(config, "tiny").to_dict(), sep=".").items() if path != "name"}
        for config in (name, name.replace("_folder", "_minik")))
    changed = {path: (ours.get(path), theirs.get(path)) for path in ours.keys() | theirs.keys()
               if ours.get(path) != theirs.get(path)}
    assert all(isinstance(value, float | None) for pair in changed.values() for value in pair), changed


# The combination on Mini-Kinetics is trained in `tests/methods/test_combined.py`.
TRAINED = [some_slow(name) for name in NAMES if name != "combined_minik" and not is_minik(name)]


@pytest.mark.parametrize("name", TRAINED)
def test_tiny_trains_and_evaluates(name, tmp_path, benchmark_root, monkeypatch):
    monkeypatch.setattr(report, "TIMING_SECONDS", 0.1)
    config = load(name, "tiny")
    config.data.root = benchmark_root
    config.train.update(dict(num_steps=2, checkpoint_every_steps=1))
    if "baseline" in config.run:
        config.run = "teacher,student"
    config.lock()
    metrics = cli.train(config, str(tmp_path))
    headline = f"val/{find_task(config).headline}" if "task" in config else "val/top1"
    assert metrics["step"] == 2 and 0 <= metrics[headline] <= 1 and metrics["val/gmacs"] > 0
    with open(tmp_path / "metrics.json") as f:
        assert json.load(f)[headline] == metrics[headline]
    for file in ("metrics.csv", "classes.txt", "config.json"):
        assert (tmp_path / file).exists(), file
    again = cli.eval(None, str(tmp_path))
    assert again[headline] == metrics[headline] and again["step"] == 2


def test_recipes_are_the_released_ones():
    """reskd.md's table of recipes: the numbers that decide results."""
    def row(c):
        return (c.data.num_frames, c.data.batch_size, c.optim.lr, c.optim.weight_decay, c.optim.clip_norm,
                c.optim.groups, c.train.num_epochs, c.data.short_side, c.data.crop, c.data.flip)

    assert row(load("supervised_actnet")) == (16, 64, 0.01, 1e-4, 20, "tsm", 50, 256, 224, True)
    assert row(load("supervised_actnet", "backbone=resnet152,resolution=112"))[4:9] == (
        20, "tsm", 50, 128, 112)
    assert row(load("supervised_actnet", "resolution=96"))[4:9] == (40, "single", 50, 108, 96)
    assert row(load("supervised_actnet", "resolution=160"))[7:9] == (180, 160)
    assert row(load("supervised_minik", "backbone=resnet152")) == (
        8, 64, 0.01, 1e-4, 20, "tsm", 50, 256, 224, True)
    assert row(load("supervised_sthv2")) == (8, 96, 0.0075, 5e-4, 20, "tsm", 50, 256, 224, False)
    assert row(load("reskd_minik")) == (8, 64, 0.01, 1e-4, 20, "single", 100, 256, 224, True)
    assert row(load("reskd_actnet"))[:7] == (16, 64, 0.01, 1e-4, 20, "single", 200)
    assert row(load("reskd_sthv2")) == (8, 64, 0.01, 1e-4, 20, "single", 100, 256, 224, False)
    assert load("reskd_fcvid").data.num_classes == 239
    assert load("reskd_minik").model.resolution == 112 and load("reskd_minik").method.weight == 100
    teacher = load("supervised_sthv2").data
    assert (teacher.test_crop, teacher.test_crop_size, teacher.twice_sample) == ("three", 256, True)
    assert load("reskd_actnet").data.multi_label


def test_table_5_is_an_argument():
    """What is compared, with the weight, temperature and length that are ours."""
    for arg, loss, weight in (("clip", "clip_kl", 1), ("frame", "frame_kl", 1), ("pixel", "feature", 100)):
        for name in ("reskd_actnet", "reskd_minik", "reskd_fcvid", "reskd_sthv2"):
            config = load(name, f"ablation={arg}")
            method = config.method
            assert (method.loss, method.weight, method.temperature) == (loss, weight, 2)
            assert config.train.num_epochs == 50 and method.teacher_resolution == 224
            assert arg == "pixel" or method.kl_mean == "row"
            assert load(name, f"demo,ablation={arg}").method.loss == loss
    pixel, plain = load("reskd_actnet", "ablation=pixel"), load("reskd_actnet")
    assert pixel.method == plain.method and pixel.optim == plain.optim, "the released loss, trained shorter"
    for config in (pixel, plain):
        assert runs.stage_config(config, "teacher", "w").train.num_epochs == 50


@pytest.mark.parametrize("name", ["supervised_actnet", "supervised_sthv2", "reskd_minik", "reskd_sthv2"])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_fewer_devices_keep_what_an_update_and_a_statistic_are_made_of(name, devices):
    whole = load(name)
    config = load(name, f"devices={devices}")
    stages = ["student", *config.stages]
    for ours, theirs in ((runs.stage_config(c, stage, "w") for c in (config, whole)) for stage in stages):
        assert ours.data.batch_size * ours.optim.accumulate == theirs.data.batch_size, "clips of an update"
        assert ours.data.batch_size / ours.model.bn_groups == theirs.data.batch_size / 8, "of a statistic"
        assert ours.data.batch_size // devices == (12 if theirs.data.batch_size == 96 else 8)
        assert not ours.data.eval_batch_size % devices
        assert ours.train.checkpoint_every_steps == theirs.train.checkpoint_every_steps * 8 / devices
        for same in ("lr", "weight_decay", "clip_norm", "schedule"):
            assert ours.optim[same] == theirs.optim[same]
        if ours.method.name == "reskd":
            assert ours.method.teacher_clips == 8 and not ours.data.batch_size % 8


def test_stages_are_the_supervised_configs():
    """A stage must equal the supervised config it stands for, field by field."""
    for name, arg, stage, other in [
        ("reskd_minik", "", "teacher", ("supervised_minik", "backbone=resnet152")),
        ("reskd_minik", "", "baseline", ("supervised_minik", "resolution=112")),
        ("reskd_minik", "distill=model", "teacher",
         ("supervised_minik", "backbone=resnet152,resolution=112")),
        ("reskd_sthv2", "demo", "teacher", ("supervised_sthv2", "demo")),
        ("reskd_sthv2", "", "teacher", ("supervised_sthv2", "")),
    ]:
        got = runs.stage_config(load(name, arg), stage, "w")
        wanted = load(*other)
        for config in (got, wanted):
            config.name = config.note = ""
        assert got.to_json_best_effort(sort_keys=True) == wanted.to_json_best_effort(sort_keys=True)


def test_overrides_reach_every_stage():
    config = load("reskd_folder")
    config.data.root = "elsewhere"
    assert runs.stage_config(config, "teacher", "w").data.root == "elsewhere"
    assert runs.stage_config(config, "student", "w").method.teacher == "w/teacher"
