"""Accuracy of class scores as in ResKD's mmaction2 0.20 (mmaction/core/evaluation/accuracy.py).

Axes: N videos, K classes. Everything is float64 numpy. Scores need not be probabilities: only their
order matters. Leave padded rows out before calling.

Scores that are not finite have no order and so no accuracy: they are a UserError that names the first row.
"""

import numpy as np

from effvid_jax.errors import UserError

_NOTHING = 1e-10  # so that a class without pixels has an IoU of 0, as in mit_semseg


def check_finite(scores) -> np.ndarray:
    """Scores (N, ...) as an array.

    Raises:
        UserError: one is NaN or infinite.
    """
    scores = np.asarray(scores)
    sound = np.isfinite(scores.reshape(len(scores), -1)).all(axis=1)
    if not sound.all():
        raise UserError(f"scores of row {int(sound.argmin())} (from 0) are not finite ({int((~sound).sum())} "
                        f"of {len(scores)} rows): they have no order, and so no accuracy.")
    return scores


def top_k_accuracy(scores_NK, labels_N, k: int = 1) -> float:
    """Share of the videos whose label is among the k largest scores.

    Of equal scores the one with the larger class index counts as larger.
    """
    largest = np.argsort(check_finite(scores_NK), axis=1, kind="stable")[:, -k:]
    return float((largest == np.asarray(labels_N)[:, None]).any(axis=1).mean())


def any_label_accuracy(scores_NK, labels_NK, k: int = 1) -> float:
    """Share of the videos of which one label (multi-hot, (N, K)) is among the k largest scores."""
    largest = np.argsort(check_finite(scores_NK), axis=1, kind="stable")[:, -k:]
    return float(np.take_along_axis(np.asarray(labels_NK, bool), largest, axis=1).any(axis=1).mean())


def confusion_matrix(predicted_N, labels_N) -> np.ndarray:
    """Counts [label, prediction] over the sorted classes that occur in either, int64."""
    predicted, labels = np.asarray(predicted_N), np.asarray(labels_N)
    classes, flat = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    count = len(classes)
    rows, columns = flat[:len(labels)], flat[len(labels):]
    return np.bincount(rows * count + columns, minlength=count**2).reshape(count, count)


def mean_class_accuracy(scores_NK, labels_N) -> float:
    """Mean over classes of the share of their videos that are right.

    Classes that are only predicted, never a label, count as 0; classes that are neither do not
    count.
    """
    matrix = confusion_matrix(np.argmax(check_finite(scores_NK), axis=1), labels_N)
    return float(np.mean(np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)))


def mean_any_label_accuracy(scores_NK, labels_NK) -> float:
    """`mean_class_accuracy` of multi-hot labels.

    A video counts for each of its classes, and is right where the largest score is that of one of them.
    """
    labels = np.asarray(labels_NK, bool)
    best = np.argmax(check_finite(scores_NK), axis=1)
    hit = labels[np.arange(len(best)), best]
    occurs = labels.any(axis=0)
    occurs[best] = True
    share = (labels & hit[:, None]).sum(axis=0) / np.maximum(labels.sum(axis=0), 1)
    return float(share[occurs].mean())


def average_precision(scores_N, positive_N) -> float:
    """Area under the precision-recall steps: sum over distinct scores of (R_k - R_{k-1}) P_k.

    Videos with equal scores share one step; there is no interpolation; steps after recall 1 add
    nothing. NaN if there is no positive.
    """
    scores, positive = check_finite(np.asarray(scores_N, np.float64)), np.asarray(positive_N, bool)
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(scores_NK, labels_NK) -> float:
    """Mean of the average precisions of all classes that have a positive video.

    Args:
      scores_NK: class scores.
      labels_NK: multi-hot labels.

    Returns:
      mAP within 0 and 1; NaN if no class has a positive.
    """
    scores, labels = check_finite(scores_NK), np.asarray(labels_NK)
    values = np.array([average_precision(s, y) for s, y in zip(scores.T, labels.T, strict=True)])
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def mmit_mean_average_precision(scores_NK, labels_NK) -> float:
    """Mean over videos of the average precision of their classes (Multi-Moments in Time).

    NaN if a video has no positive class.
    """
    return float(np.mean([average_precision(scores, labels)
                          for scores, labels in zip(check_finite(scores_NK), labels_NK, strict=True)]))


def intersection_over_union(right_K, said_K, labelled_K) -> np.ndarray:
    """(K,) intersections over unions, from numbers of pixels: right, said and labelled ones of each class.

    0 for a class that neither occurs nor is said, as in CSAILVision/semantic-segmentation-pytorch
    (`eval.py`), whose pixels without a label count nowhere.
    """
    right, said, labelled = (np.asarray(x, np.float64) for x in (right_K, said_K, labelled_K))
    return right / (said + labelled - right + _NOTHING)
