import json
import pathlib

import numpy as np
import pytest

from effvid_jax import metrics
from effvid_jax.errors import UserError
from tests.parity import pipelines

CASE = pathlib.Path(__file__).parents[1] / "parity" / "cases" / "pipe_metrics.json"


def test_reference_values():
    case = json.loads(CASE.read_text())
    error, message = pipelines.check_metrics(case)
    print(f"{len(case['cases'])} cases, largest difference {error:.1e}")
    assert len(case["cases"]) == 6 and message == "" and error < 1e-11
    case["cases"][3]["map"] += 1e-9
    assert "seed 5004 map: got" in pipelines.check_metrics(case)[1]


def test_worked_example():
    scores = np.array([[.7, .2, .1], [.3, .4, .3], [.3, .1, .6], [.1, .8, .1], [.5, .25, .25]])
    labels = np.array([0, 1, 0, 1, 1])
    assert metrics.top_k_accuracy(scores, labels) == 0.6
    assert metrics.top_k_accuracy(scores, labels, 3) == 1.0
    # Class 2 is predicted once and never a label: it counts as 0.
    assert abs(metrics.mean_class_accuracy(scores, labels) - (1 / 2 + 2 / 3 + 0) / 3) < 1e-12
    np.testing.assert_array_equal(metrics.confusion_matrix(scores.argmax(1), labels),
                                  [[1, 0, 1], [1, 2, 0], [0, 0, 0]])
    # Class 2 has no positive: it is dropped.
    assert abs(metrics.mean_average_precision(scores, np.eye(3)[labels]) - 0.875) < 1e-12


def test_equal_scores_share_a_threshold():
    scores = [[.5, .5], [.5, .5], [.2, .8]]
    value = metrics.mean_average_precision(scores, [[1, 0], [0, 1], [1, 1]])
    assert abs(value - 0.7083333333333333) < 1e-12


def test_nothing_to_average():
    assert np.isnan(metrics.mean_average_precision([[.5, .5]], [[0, 0]]))
    assert np.isnan(metrics.mmit_mean_average_precision([[.5, .5], [.1, .2]], [[0, 0], [1, 0]]))
    assert metrics.mmit_mean_average_precision([[.1, .2]], [[1, 0]]) == 0.5


def test_top_k_prefers_the_larger_index_of_equal_scores():
    assert metrics.top_k_accuracy(np.zeros((2, 4)), [3, 0], 1) == 0.5
    assert metrics.top_k_accuracy(np.zeros((2, 4)), [3, 0], 9) == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("measure", [
    lambda s, y: metrics.top_k_accuracy(s, y.argmax(axis=1)),
    lambda s, y: metrics.top_k_accuracy(s, y.argmax(axis=1), 9),
    lambda s, y: metrics.mean_class_accuracy(s, y.argmax(axis=1)), metrics.mean_average_precision,
    metrics.mmit_mean_average_precision, lambda s, y: metrics.average_precision(s[:, 1], y[:, 1])])
def test_scores_that_are_not_finite_have_no_accuracy(measure, value):
    """All NaN had a mean average precision of 0.52, and the last class was right."""
    scores, labels = np.random.default_rng(0).uniform(size=(6, 4)), np.eye(4, dtype=int)[[0, 1, 2, 3, 0, 3]]
    assert np.isfinite(measure(scores, labels))
    scores[2, 1] = value
    with pytest.raises(UserError, match=r"row 2 \(from 0\) are not finite \(1 of 6 rows\)"):
        measure(scores, labels)
    with pytest.raises(UserError, match=r"row 0 .*6 of 6"):
        measure(np.full((6, 4), value), labels)
