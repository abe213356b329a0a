import json
import pathlib

import numpy as np

from effvid_jax import metrics
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
