"""A fourth method is one file and one config, a second task one file; nothing else knows them."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest

from configs import supervised_minik
from effvid_jax import cli, lookup
from effvid_jax.methods import Method, make_method
from effvid_jax.predict import Predictor
from effvid_jax.reports import report
from effvid_jax.tasks import make_task
from tests.toys import toy_config, toy_method, toy_task

ROOT = pathlib.Path(__file__).parents[1]


def test_a_fourth_method_is_one_file_and_one_config(tmp_path, benchmark_root, rng):
    config = toy_config.get_config()
    config.data.root = benchmark_root
    metrics = cli.train(config, str(tmp_path))
    assert metrics["step"] == 2 and 0 <= metrics["val/top1"] <= 1 and metrics["val/gmacs"] > 0
    with open(tmp_path / "metrics.jsonl") as f:
        logged = [json.loads(line) for line in f]
    assert any("train/difference" in line for line in logged)
    assert cli.eval(None, str(tmp_path)) == metrics
    assert len(Predictor(str(tmp_path))(rng.integers(0, 256, (9, 48, 64, 3), np.uint8))["top5"]) == 5


def test_a_second_task_is_one_file(tmp_path, benchmark_root, rng):
    config = supervised_minik.get_config("tiny")
    config.data.root = benchmark_root
    config.task = toy_task.__name__
    config.model.options.update(dict(width=8, stage_sizes=(1,), stage_strides=(2,)))
    config.train.update(dict(num_steps=2, checkpoint_every_steps=2, log_every_steps=1))
    metrics = cli.train(config, str(tmp_path))
    assert metrics["val/mean_error"] > 0 and "val/top1" not in metrics
    assert cli.eval(None, str(tmp_path)) == metrics
    with open(tmp_path / "predictions_val.csv") as f:
        rows = list(csv.DictReader(f))
    error = np.mean([abs(float(row["said"]) - float(row["value"])) for row in rows])
    assert len(rows) == 16 and error == pytest.approx(metrics["val/mean_error"], rel=1e-5)
    answer = Predictor(str(tmp_path))(rng.integers(0, 256, (9, 48, 64, 3), np.uint8))
    assert set(answer) == {"number", "gmacs"}
    report.TIMING_SECONDS = 0.1
    found = cli.report(None, str(tmp_path))
    assert found["supervised/mean_error"] == metrics["val/mean_error"]


@pytest.mark.parametrize("name", ["toy_method", "toy_config", "toy_task"])
def test_the_page_shows_them_as_they_are(name):
    page = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert (ROOT / "tests" / "toys" / f"{name}.py").read_text(encoding="utf-8") in shown


def test_nobody_knows_the_toys():
    for folder in ("effvid_jax", "configs", "data_pipelines", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "toy_" not in path.read_text(encoding="utf-8"), path


def test_settings_are_read_with_what_they_lack_and_no_more():
    settings = toy_method.Agreement.Settings
    assert settings.read({"name": "anything"}).weight == 0.1
    assert settings(weight=2.0).to_config().to_dict() == {"name": "tests.toys.toy_method", "weight": 2.0}
    with pytest.raises(ValueError, match=r"config.method.wieght is no setting of method "
                                         r"'tests.toys.toy_method'. Close matches: \['weight'\]"):
        settings.read({"name": "anything", "wieght": 1.0})


def test_names_that_are_not_there():
    config = supervised_minik.get_config("tiny")
    task = make_task(config, ["a", "b"])
    for name, message in [("reskt", "config.method.name='reskt' is unknown. Close matches: \\['reskd'\\]"),
                          ("settings", "config.method.name='settings' is unknown"),
                          ("tests.toys.no_method", "no module 'tests.toys.no_method'"),
                          ("tests.toys.toy_config", "one class derived from Method .* found \\[\\]")]:
        config.method.name = name
        with pytest.raises(ValueError, match=message):
            make_method(config, task)
    config.task = "clasification"
    with pytest.raises(ValueError, match="config.task='clasification' is unknown. .*'classification'"):
        make_task(config, ["a", "b"])
    assert lookup.known_names("effvid_jax.tasks", ("task",)) == [
        "classification", "localisation", "segmentation"]
    assert issubclass(toy_method.Agreement, Method)
