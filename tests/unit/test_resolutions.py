"""Training x testing resolution: a grid that trains what is missing and goes on."""

import csv
import json
import os

import cv2
import pytest

from data_pipelines import DataError
from effvid_jax import cli
from effvid_jax.analysis import __main__ as commands
from effvid_jax.analysis import resolutions, variants
from effvid_jax.errors import UserError

CONFIG = "configs/supervised_minik.py:tiny"


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def test_conditions():
    """Resolutions of a config's argument, and clips with the detail of a lower one."""
    plain, low = resolutions.condition("224", CONFIG), resolutions.condition("112to224", CONFIG)
    assert (plain.side, low.side, low.config.data.quality) == (64, 64, 32), "pixels of the embedded benchmark"
    student = resolutions.condition("112", "configs/reskd_minik.py:tiny")
    assert (student.side, student.config.data.crop) == (32, 64)
    full = resolutions.condition("112to224", "configs/supervised_actnet.py")
    assert (full.side, full.config.data.quality, full.config.data.short_side) == (224, 112, 256)
    for label, config, message in (
            ("112p", CONFIG, "'112p' is no condition: expected pixels such as 112, or 112to224"),
            ("112", "configs/supervised_minik.py:resolution=96", "leave the argument resolution out"),
            ("112", "configs/dynamic_k400.py:tiny", "unknown.*resolution"), ("112", "", "--config=FILE")):
        with pytest.raises(UserError, match=message):
            resolutions.condition(label, config)
    with pytest.raises(DataError, match="data.quality=64 .*expected less"):
        resolutions.condition("224to112", CONFIG)


def test_a_grid_goes_on(tmp_path, benchmark_root, capsys, monkeypatch):
    command = ["resolutions", f"--config={CONFIG}", f"--workdir={tmp_path}", "--train=224,112",
               f"--config.data.root={benchmark_root}", "--config.train.num_steps=2"]
    assert commands.main([*command, "--test=224,112", "--seconds=0.5", "--batch=2"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = rows_of(tmp_path / "resolutions.csv")
    assert [(row["train"], row["test"], row["side"]) for row in rows] == [
        ("224", "224", "64"), ("224", "112", "32"), ("112", "224", "64"), ("112", "112", "32")]
    for label, row in (("224", rows[0]), ("112", rows[3])):  # what the run itself found at its end
        with open(tmp_path / label / "metrics.json") as f:
            metrics = json.load(f)
        assert float(row["top1"]) == pytest.approx(metrics["val/top1"])
        assert float(row["gmacs"]) == pytest.approx(metrics["val/gmacs"], rel=1e-5)
        assert told[f"{label}/{label}/top1"] == pytest.approx(metrics["val/top1"])
    assert all(float(row["gmacs_mmcv"]) > float(row["gmacs"]) for row in rows)
    assert rows[0]["clips_per_second"] == rows[2]["clips_per_second"] != rows[1]["clips_per_second"]
    assert cv2.imread(str(tmp_path / "resolutions.png")).std() > 5
    assert os.path.getsize(tmp_path / "resolutions.svg") > 2000

    made = []
    original = resolutions.cell
    monkeypatch.setattr(cli, "train", None)  # is not called again
    monkeypatch.setattr(resolutions, "cell", lambda folder, tested, split: made.append(
        tested.label) or original(folder, tested, split))
    assert commands.main([*command, "--test=224,112,112to224", "--seconds=0"]) == 0
    assert made == ["112to224", "112to224"], "one more column"
    assert len(rows_of(tmp_path / "resolutions.csv")) == 6


def test_a_teacher_is_trained_once(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(cli, "train", lambda config, folder: trained.append(
        (config, os.path.basename(folder))))
    runs = variants.Variants(str(tmp_path))
    for label in ("112", "96"):
        runs.train(resolutions.condition(label, "configs/reskd_minik.py:tiny").config, label)
    assert [name for _, name in trained] == ["teacher", "112", "96"]
    assert trained[0][0].method.name == "supervised" and trained[0][0].data.crop == 64
    students = [config for config, _ in trained[1:]]
    assert {config.method.teacher for config in students} == {str(tmp_path / "teacher")}
    assert [config.model.resolution for config in students] == [32, 28] and not students[0].run
    assert {config.data.root for config, _ in trained} == {str(tmp_path / "benchmark")}
