"""The report of a run: files, figures, and the numbers in them."""

import base64
import csv
import json
import os
import pathlib
import re
import shutil
import string
import warnings
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from configs.recipes import base
from effvid_jax import cli, plots
from effvid_jax.reports import report
from effvid_jax.start import runs
from effvid_jax.tasks import classification


def read_csv(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


class Page(HTMLParser):
    """A page as a browser reads it: its tags, its texts by tag, and {heading: (alternative text, image)}."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.pictures, self.texts = [], {}, {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "img":
            data = np.frombuffer(base64.b64decode(dict(attributes)["src"].partition("base64,")[2]), np.uint8)
            self.pictures[self.texts["h2"][-1]] = (
                dict(attributes)["alt"], cv2.imdecode(data, cv2.IMREAD_COLOR))

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self.tags[-1][0] if self.tags else "", []).append(data)


def pictures(html: str) -> dict[str, np.ndarray]:
    return {title: image for title, (_, image) in Page(html).pictures.items()}


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
    told = {title: alt for title, (alt, _) in Page(html).pictures.items()}
    accuracy = 100 * json.loads((pathlib.Path(tiny_run) / "teacher/metrics.json").read_text())["val/top1"]
    assert f"teacher {accuracy:.1f} top-1 (%) at" in told["Accuracy against cost"]
    assert re.search(r"loss of student (from )?[\d.]+ at step \d", told["Training"])
    assert "student gets right: " in told["Accuracy per class"]
    assert "of 16 videos are on its diagonal" in told["Confusion of student"]
    assert re.match(r"Frames of \d clips: true \w+, teacher says ", told["Examples"])


def test_a_detector_that_finds_nothing_has_a_picture_too():
    curves = {"nothing": (np.empty(0), np.empty(0)), "one": (np.array([0.5]), np.array([1.0]))}
    assert plots.precision_recall(curves).startswith(b"\x89PNG")


def test_phones_and_dark_screens():
    html = report._PAGE.substitute(title="t", body="b")
    meta = {tag["name"]: tag["content"] for _, tag in Page(html).tags if "content" in tag}
    assert meta == {"viewport": "width=device-width, initial-scale=1", "color-scheme": "light dark"}
    dark = html[html.index("prefers-color-scheme: dark"):]
    light = html[:html.index("prefers-color-scheme: dark")]
    for text in ("--text", "--small"):  # readable in both: WCAG AA asks for 4.5
        for style in (light, dark):
            colours = dict(re.findall(r"(--\w+): #(\w+)", style))
            assert contrast(colours[text], colours["--page"]) > 4.5, (text, style)
            assert contrast(colours["--text"], colours["--box"]) > 4.5
    used = set(re.findall(r"var\((--\w+)\)", html))
    assert used <= set(re.findall(r"(--\w+): ", light)), "a colour without a value"


def contrast(*colours):
    def luminance(colour):
        colour = "".join(2 * c for c in colour) if len(colour) == 3 else colour
        x = np.array([int(colour[i:i + 2], 16) for i in (0, 2, 4)]) / 255
        return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


HOSTILE = ["$x", "$x$ $y$", r"$\frac{", r"a\$b$", "two\nlines", 'quo"te\'s', "<script>alert(1)</script>",
           "a&amp;b", "_hidden", "", " ", "tab\tbell\a", "\u2028\x85", "\udcff", "x" * 400, "動画 🎬", "a|b",
           "{x}", "%s%", "1e5", "007", "nan", "BODY", "TITLE", "$body", "${title}", "--", "\\", "</title>"]


def pixels(png):
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image.std() > 2, "nothing is drawn"
    return image


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_name_breaks_a_picture(name):
    """Every function of plots.py that takes names: formulas, line breaks, what legends leave out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.accuracy_against_cost({name: (1.0, 50.0), "b": (9.0, 60.0)}, "top-1 (%)")
        plots.confusion([name, "b"], np.eye(2, dtype=int))
    said = {name: (f"{name} 93%", True), "b": (name, False)}
    pixels(plots.examples([(np.zeros((2, 8, 8, 3), np.uint8), name, said)]))
    if HOSTILE.index(name) % 4 == 0:  # the others draw the same kinds of text
        rows = [{"step": 1.0, "train/loss": 2.0, "train/top1": 0.5, "val/top1": 0.1}, {"step": 2.0}]
        plots.curves({name: rows}, "top1", "top-1 (%)", 100.0, "loss")
        plots.per_class([name, "b"], {name: np.array([0.5, 1.0])})
        plots.heat_map(np.eye(2), [name, "b"], ["b", name], "share")
        plots.two_prices({name: (1.0, 2.0, 50.0), "b": (9.0, 3.0, 60.0)}, ("cost", "time"), "top-1 (%)")
        plots.forms(plots.exit_curve({name: []}, {name: []}, "top-1 (%)"))


def test_costs_are_numbers_on_both_axes_and_accuracy_ends_at_all():
    points = {f"network {i}": (3.0 + 9 * i, 0.6 + 0.4 * i, 99.0 - 10 * i) for i in range(5)}
    figure = plots.two_prices(points, ("GMACs", "ms"), "top-1 (%)")
    plots.forms(figure)
    for axes in figure.axes:
        labels = [tick.get_text() for tick in axes.get_xticklabels(minor=True) + axes.get_xticklabels()]
        print(labels)
        assert {"1", "10"} & set(labels) and not any("times" in label for label in labels)
    assert figure.axes[0].get_ylim()[1] <= 101


def test_names_are_drawn_as_they_are():
    from matplotlib.text import Text

    for name, drawn in (("$x$", "$x$"), (r"a\$b", r"a\$b"), ("_hidden", " _hidden"), ("", "(no name)"),
                        ("two\nlines", "two lines"), ("\udcff", r"\udcff")):
        assert Text(text=plots._name(name))._preprocess_math(plots._name(name)) == (drawn, False)
    assert len(plots._name("x" * 400)) == plots.LONGEST_NAME
    assert plots._name("a" * 200 + "/tail").endswith("/tail"), "the end tells layers and files apart"


def test_classes_of_any_name_are_those_of_the_predictions(tmp_path):
    """classes.txt has a line a class whatever its name holds; one that is not there is still found out."""
    one = network("a", 0.5)
    one.directory = str(tmp_path)
    names = [name for name in HOSTILE if name] + ["a\rb", "a\r\nb"]
    with open(tmp_path / "classes.txt", "w", newline="", errors="surrogateescape") as f:
        f.write(report.writers.lines(names))
    assert len(one.class_names()) == len(names)
    for more in ([], ["gone"]):
        with open(tmp_path / "predictions_val.csv", "w", newline="", errors="surrogateescape") as f:
            table = csv.writer(f)
            table.writerow(["video", "label", "predicted", "prob", "gmacs"])
            table.writerows([f"{k}.mp4", k, names[0], "0.5", "1"] for k in [*names, *more])
        if not more:
            one.check()
    with pytest.raises(runs.UserError, match="none is 'gone'"):
        one.check()


def test_no_name_breaks_the_page(tmp_path, monkeypatch):
    """Stages, classes, videos, folders and notes of any name, as text and in attributes."""
    monkeypatch.setattr(report.writers, "environment", dict)
    workdir = tmp_path / "BODY $title <b>\"'"
    networks = []
    for i, name in enumerate(HOSTILE):
        folder = workdir / str(i)
        folder.mkdir(parents=True)
        one = network(name, 0.5)
        one.directory, one.config.note, one.config.data.root = str(folder), name, str(tmp_path / "gone")
        one.config.data.source = "folder"
        text = "".join(f"{k}\n" for k in HOSTILE)
        (folder / "classes.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
        with open(folder / "predictions_val.csv", "w", newline="", errors="surrogateescape") as f:
            table = csv.writer(f)
            table.writerow(["video", "label", "predicted", "prob", "gmacs"])
            table.writerows([f"{k}.mp4", k, HOSTILE[0], "0.5", "1"] for k in HOSTILE)
        networks.append(one)
    monkeypatch.setattr(report, "find_networks", lambda workdir: networks)
    result = report.report(str(workdir), timed=False)
    page = Page((workdir / "report.html").read_text("utf-8"))
    wanted = " ".join(workdir.name.split())
    assert page.texts["title"] == [wanted] and page.texts["h1"][0] == wanted
    assert {name for name, _ in page.tags} <= set(
        "html head meta title style body h1 h2 p div table thead tbody tr th td strong sup code img pre"
        .split())
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    cells = [text.strip() for text in page.texts["td"]]
    assert "1e5" in cells and "007" in cells, "a name is no number"
    assert "<script>alert(1)</script>" in cells
    assert list(page.pictures) == ["Accuracy against cost", "Accuracy per class", "Confusion of </title>"]
    lines = (workdir / "report.md").read_text("utf-8").splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}) == 1
    assert [row["model"] for row in read_csv(workdir / "report.csv")][:5] == HOSTILE[:5]
    assert set(string.printable) >= set(json.dumps(result))


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
    np.testing.assert_equal(classification.class_accuracy(["x", "y", "z"], rows), [0.5, 1.0, np.nan])


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


def test_cost_of_a_clip_and_of_a_video():
    row = network("a", 0.5).row(False, per_clip=True)
    assert row["GMACs"] == 2.0 and row["GMACs/clip"] == pytest.approx(2 / 3), "three views"
    assert not {"min/clip", "max/clip"} & set(row)
    alike, exits, gated = (network(name, 0.5) for name in ("alike", "exits", "gated"))
    exits.metrics |= {"val/gmacs_min": 1.0, "val/gmacs_max": 3.0}
    gated.metrics |= exits.metrics | {"val/gmacs_per_clip_min": 0.25, "val/gmacs_per_clip_max": 1.25}
    rows = [n.row(True, per_clip=True) for n in (alike, exits, gated)]
    assert [(row["min/clip"], row["max/clip"]) for row in rows] == [
        (pytest.approx(2 / 3), pytest.approx(2 / 3)), (None, None), (0.25, 1.25)]
    assert "min/clip" in report.table(rows, "simple") and "1.25" in report.table(rows, "simple")


def test_several_labels_are_scored_by_map():
    row = network("a", 0.5, multi_label=True).row(False)
    assert row["mAP (%)"] == 25 and "top-1 (%)" not in row
    assert network("a", 0.5).row(False)["top-1 (%)"] == 50 and row["frames x views"] == "8 x 3"
    one = network("a", 0.5)
    one.metrics |= {"val/gmacs_min": 1.0, "val/gmacs_max": 3.0}
    assert {k: one.row(True)[k] for k in ("min", "max")} == {"min": 1.0, "max": 3.0}
    assert network("a", 0.5).row(True)["min"] == network("a", 0.5).row(True)["GMACs"], "the same for all"


def test_whose_speed_includes_shrinking_is_said():
    plain, student = network("plain", 0.5), network("student", 0.5)
    for one, side in ((plain, 32), (student, 64)):
        one.config.data.test_crop_size = side
        one.metrics["val/resolution"] = 32
    assert report.shrinking([plain]) == ""
    assert report.shrinking([plain, student]) == (
        "The clips/s of student (from 64 to 32 pixels) include shrinking the clips.")


def test_gap():
    three = [network(*x) for x in (("teacher", 0.97), ("baseline", 0.82), ("student", 0.92))]
    assert report.gap(three) == ("The baseline is 15.0 points below the teacher, the student 10.0 points "
                                 "above the baseline: it regains 67%.")
    assert report.gap(three[:2]) == ""
    three[2].metrics["val/top1"] = 0.8
    assert report.gap(three).endswith("the student 2.0 points below the baseline.")
