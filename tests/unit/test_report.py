"""The report of a run: files, figures, and the numbers in them."""

import base64
import csv
import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest

from configs.recipes import base
from effvid_jax import cli, plots, runs
from effvid_jax.reports import report
from effvid_jax.tasks import classification


def read_csv(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def pictures(html: str) -> dict[str, np.ndarray]:
    found = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', html)
    return {title: cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
            for title, data in found}


def test_report_of_a_run_with_stages(tiny_run, capsys):
    result = cli.report(None, tiny_run)
    out = capsys.readouterr().out
    print(out)
    rows = read_csv(os.path.join(tiny_run, "report.csv"))
    assert [row["model"] for row in rows] == ["teacher", "baseline", "student"]
    assert [row["resolution"] for row in rows] == ["64", "32", "32"]
    assert list(rows[0]) == ["model", "backbone", "resolution", "frames x views", "GMACs", "params (M)",
                             "top-1 (%)", "clips/s"]
    assert all(float(row["clips/s"]) > 0 for row in rows)
    for row in rows:
        with open(os.path.join(tiny_run, row["model"], "metrics.json")) as f:
            metrics = json.load(f)
        assert float(row["GMACs"]) == metrics["val/gmacs"]
        assert float(row["top-1 (%)"]) == pytest.approx(100 * metrics["val/top1"])
        assert result[f"{row['model']}/top1"] == metrics["val/top1"]
    with open(os.path.join(tiny_run, "report.md")) as f:
        assert "The baseline is" in out and "| model" in f.read()
    with open(result["report"]) as f:
        html = f.read()
    found = pictures(html)
    assert list(found) == ["Accuracy against cost", "Training", "Accuracy per class",
                           "Confusion of student", "Examples"]
    assert all(image.std() > 5 for image in found.values()), "nothing is drawn"
    assert "http" not in re.sub(r"base64,[^\"]+", "", html), "refers to something outside"


def test_report_of_a_single_run_without_its_videos(tiny_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(os.path.join(tiny_run, "baseline"), run)
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"source": "folder", "root": str(tmp_path / "gone")}
    (run / "config.json").write_text(json.dumps(config))
    result = report.report(str(run))
    assert set(result) == {"report", "supervised/top1", "supervised/gmacs",
                           "supervised/clips_per_second"}
    html = (run / "report.html").read_text()
    assert "The videos are not there any more" in html and "Confusion of supervised" in pictures(html)
    assert "baseline is" not in capsys.readouterr().out


def test_nothing_to_report(tmp_path):
    with pytest.raises(runs.UserError, match="nothing to report"):
        report.report(str(tmp_path))


def test_confusions_and_accuracy_per_class():
    rows = [dict(label=a, predicted=b) for a, b in ("xx", "xy", "yy", "yy")]
    counts = classification.count_confusions(["x", "y", "z"], rows)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    np.testing.assert_equal(classification.class_accuracy(counts), [0.5, 1.0, np.nan])


def test_many_classes(rng):
    names = [f"class {k}" for k in range(200)]
    accuracies = rng.uniform(size=200)
    accuracies[3] = np.nan
    image = plots.per_class(names, {"a": accuracies, "b": accuracies})
    assert image.startswith(b"\x89PNG") and len(image) > 5000
    assert plots.confusion(names, rng.integers(0, 3, (200, 200))).startswith(b"\x89PNG")


def network(name, accuracy, multi_label=False):
    config = base.defaults()
    config.data.multi_label = multi_label
    return report.Network(name, "", config, {
        "val/top1": accuracy, "val/map": accuracy / 2, "val/frames": 8, "val/views": 3, "val/gmacs": 2.0,
        "params": 3e6})


def test_several_labels_are_scored_by_map():
    row = network("a", 0.5, multi_label=True).row(False)
    assert row["mAP (%)"] == 25 and "top-1 (%)" not in row
    assert network("a", 0.5).row(False)["top-1 (%)"] == 50 and row["frames x views"] == "8 x 3"
    one = network("a", 0.5)
    one.metrics |= {"val/gmacs_min": 1.0, "val/gmacs_max": 3.0}
    assert {k: one.row(True)[k] for k in ("min", "max")} == {"min": 1.0, "max": 3.0}
    assert network("a", 0.5).row(True)["min"] == network("a", 0.5).row(True)["GMACs"], "the same for all"


def test_gap():
    three = [network(*x) for x in (("teacher", 0.97), ("baseline", 0.82), ("student", 0.92))]
    assert report.gap(three) == ("The baseline is 15.0 points below the teacher, the student 10.0 points "
                                 "above the baseline: it regains 67%.")
    assert report.gap(three[:2]) == ""
    three[2].metrics["val/top1"] = 0.8
    assert report.gap(three).endswith("the student 2.0 points below the baseline.")
