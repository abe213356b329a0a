"""Classification as an object: what methods, evaluation, report and predict ask of it; settings and facts."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest

from configs import dynamic_k400
from configs.recipes import base
from effvid_jax import lookup, metrics
from effvid_jax.backbones import BACKBONES
from effvid_jax.backbones.facts import FACTS, facts
from effvid_jax.errors import UserError
from effvid_jax.methods import SHARED, dynamic_inference, find_method
from effvid_jax.methods.settings import PACKAGE
from effvid_jax.tasks import make_task
from effvid_jax.tasks.classification import class_accuracy, count_confusions
from tests.toys.toy_task import Number


def classification(multi_label=False):
    config = base.defaults()
    config.data.multi_label = multi_label
    return make_task(config, ["a", "b", "c"])


def rows(**more):
    return {"name": np.array(["v0", "v1", "v2"]), "id": np.arange(3), "label": np.array([0, 2, 2]),
            "scores": np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]),
            "gmacs": np.array([1.0, 2.0, 1.5]), **more}


def test_headline_and_metrics():
    one, several = classification(), classification(multi_label=True)
    assert (one.headline, one.label, one.chance) == ("top1", "top-1 (%)", 1 / 3)
    assert (several.headline, several.label, several.watched) == ("map", "mAP (%)", "top1")
    found = one.metrics(rows(clip_answers=np.array([[0, 0], [1, 2], [1, 1]])))
    assert found == {"top1": pytest.approx(2 / 3), "top5": 1.0, "mean_class_accuracy": pytest.approx(0.5),
                     "clip_top1": pytest.approx(0.5)}
    labels = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]])
    found = several.metrics(rows(labels=labels))
    assert found["map"] == 1.0
    assert found["top1"] == found["top1_any"] == 1.0, "b is right too, for the second"
    assert "top1_any" not in one.metrics(rows(labels=labels))
    assert set(several.targets.evaluate_fields) == {"label", "labels"}


def test_answers_of_any_shape_are_held_against_the_label():
    task, logits = classification(), np.zeros((3, 4, 3))
    logits[:, 1:, 2] = 1
    answers = task.answers(jnp.asarray(logits))
    np.testing.assert_array_equal(task.right(answers, rows()), [[1, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(task.right(answers[:, 0], rows()), [1, 0, 0])
    batch = {"label": jnp.array([0, 2, 2]), "mask": jnp.array([1.0, 1.0, 0.0])}
    assert task.batch_scalars(jnp.asarray(logits)[:, 1], batch)["top1"] == 0.5


def test_views_are_averaged_as_probabilities_and_numbers_as_numbers():
    logits = np.log(np.array([[[0.8, 0.2], [0.4, 0.6]]]))
    np.testing.assert_allclose(np.exp(classification().mean_of_views(jnp.asarray(logits))), [[0.6, 0.4]],
                               rtol=1e-6)
    task = Number(base.defaults(), ["a", "b"])
    np.testing.assert_allclose(task.mean_of_views(jnp.array([[[1.0], [3.0]]])), [[2.0]])


def test_what_is_written_is_what_is_shown(tmp_path):
    task = classification()
    task.write_rows(str(tmp_path / "rows.csv"), rows())
    with open(tmp_path / "rows.csv", newline="") as f:
        lines = list(csv.DictReader(f))
    assert lines[1] == {"video": "v1", "label": "c", "predicted": "b", "prob": "0.6000", "gmacs": "2"}
    assert task.said(lines[1]) == ("c", "b 60%", False)
    bars, matrix = task.pictures({"one": lines, "two": lines})
    assert (bars[0], matrix[0]) == ("Accuracy per class", "Confusion of two")
    assert "two gets right: c 50%, a 100%." in bars[3]
    assert "2 of 3 videos are on its diagonal; two mistakes most often c for b (1 of 2)." in matrix[3]
    answer = task.answer(rows()["scores"][0])
    assert answer["top5"][0] == {"label": "a", "prob": 0.7}
    assert task.words(answer) == "a 70.0%, b 20.0%, c 10.0%"
    groups = task.groups(rows())
    assert [(name, mine.tolist()) for name, mine in groups] == [("a", [0]), ("c", [1, 2])]


def test_costs_of_single_views_have_a_column_of_their_own(tmp_path):
    classification().write_rows(str(tmp_path / "rows.csv"), rows(clip_answers=np.zeros((3, 2), int)))
    with open(tmp_path / "rows.csv", newline="") as f:
        lines = list(csv.DictReader(f))
    assert [line["gmacs"] for line in lines] == ["1", "2", "1.5"]
    assert [line["gmacs_per_clip"] for line in lines] == ["0.5", "1", "0.75"]


def test_of_several_labels_all_are_written_and_right(tmp_path):
    task = classification(multi_label=True)
    task.write_rows(str(tmp_path / "rows.csv"), rows(labels=np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]])))
    with open(tmp_path / "rows.csv", newline="") as f:
        lines = list(csv.DictReader(f))
    assert [task.said(line) for line in lines] == [
        ("a", "a 70%", True), ("b, c", "b 60%", True), ("a, b", "c 60%", False)]
    del lines[1]["labels"]  # of an older run
    assert task.said(lines[1]) == ("c", "b 60%", False)


def test_no_label_of_several_comes_first(tmp_path):
    """Whatever is counted: metrics, answers held against labels, groups, pictures of the report."""
    task, labels = classification(multi_label=True), np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]])
    seen = rows(labels=labels, label=labels.argmax(axis=1), clip_answers=np.array([[0, 2], [2, 2], [1, 2]]))
    found = task.metrics(seen)
    assert found["top1"] == found["top1_any"] == pytest.approx(2 / 3) and found["top5"] == 1.0
    assert found["mean_class_accuracy"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3), "of 2, 2 and 1 videos"
    assert found["clip_top1"] == pytest.approx(4 / 6)
    only = metrics.mean_any_label_accuracy(np.eye(3)[[0, 2]], np.array([[1, 0, 0], [1, 0, 0]]))
    assert only == pytest.approx((1 / 2 + 0) / 2), "a class that is only predicted counts as wrong"
    one = np.eye(3)[seen["label"]]  # with one label each they are the metrics of one label
    assert metrics.any_label_accuracy(seen["scores"], one, 2) == metrics.top_k_accuracy(
        seen["scores"], seen["label"], 2)
    assert metrics.mean_any_label_accuracy(seen["scores"], one) == metrics.mean_class_accuracy(
        seen["scores"], seen["label"])
    np.testing.assert_array_equal(task.right(np.array([0, 2, 2]), seen), [True, True, False])
    traced = {"labels": jnp.asarray(labels)}
    np.testing.assert_array_equal(task.right(jnp.array([0, 2, 2]), traced), [True, True, False])
    groups = [(name, mine.tolist()) for name, mine in task.groups(seen)]
    assert groups == [("a", [0, 2]), ("b", [1, 2]), ("c", [1])]
    task.write_rows(str(tmp_path / "rows.csv"), seen)
    with open(tmp_path / "rows.csv", newline="") as f:
        lines = list(csv.DictReader(f))
    names = ["a", "b", "c"]
    np.testing.assert_array_equal(count_confusions(names, lines), [[1, 0, 1], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(class_accuracy(names, lines), [0.5, 0.5, 1.0])
    bars, matrix = task.pictures({"net": lines})
    assert "net gets right: a 50%, b 50%, c 100%." in bars[3] and "counts for each of its labels" in bars[2]
    assert "2 of 4 entries are on its diagonal" in matrix[3] and "one of its labels" in matrix[2]
    lines[0]["labels"] = "[a"
    with pytest.raises(UserError, match="the labels of 'v0' are '.a': expected a json list"):
        task.pictures({"net": lines})


def test_a_task_that_lacks_what_a_method_needs_is_named():
    task = Number(base.defaults(), ["a", "b"])
    with pytest.raises(UserError, match="config.task: task Number does not say which answers are right"):
        task.right(np.zeros(2), {})
    with pytest.raises(ValueError, match="config.task: .*no scores of classes"):
        dynamic_inference.DynamicInference(dynamic_k400.get_config("tiny"), task)
    assert task.said({}) is None and task.pictures({}) == []
    assert [mine.tolist() for _, mine in task.groups({"id": np.arange(2)})] == [[0, 1]]


@pytest.mark.parametrize("name", lookup.known_names(PACKAGE, SHARED))
def test_settings_come_back_from_a_config(name):
    settings = find_method(name).Settings
    config = settings().to_config()
    assert config.name == name and settings.read(config) == settings()
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    assert settings.read(plain) == settings(), "as it comes back from json"
    assert settings.read({"name": name}) == settings(), "an old file may lack all of it"


def test_facts_are_of_backbones():
    assert set(FACTS) <= set(BACKBONES)
    for name in BACKBONES:
        small, options = facts(name).small
        assert bool(small) == bool(options) and small in {"", *BACKBONES}
