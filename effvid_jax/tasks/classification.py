"""Which of K classes a video shows; with `config.data.multi_label` a video may show several of them.

Training takes one label (with several, one drawn at random: ResKD's ActivityNet and FCVID), evaluation all of
them. Accuracies are shares in [0, 1]; metrics are mmaction2's, see `effvid_jax/metrics.py`.
"""

from __future__ import annotations

import csv
import json

import jax
import numpy as np

from data_pipelines import ClassLabels
from effvid_jax import metrics, mixing, plots
from effvid_jax.backbones import blocks
from effvid_jax.errors import UserError
from effvid_jax.losses import cross_entropy, weighted_mean
from effvid_jax.tasks.task import Task


class Classification(Task):
    """Softmax over K classes; see `Task`.

    Attributes:
        multi_label: a video may have several labels; mAP is the headline then.
    """

    watched, watched_title, unit, scale = "top1", "top-1", "%", 100.0
    loss_title, class_scores, output_title = "cross-entropy", True, "probabilities (batch, classes)"
    mixes = True

    def __init__(self, config, class_names):
        super().__init__(config, class_names)
        self.multi_label = bool(config.data.multi_label)
        self.headline, self.title = ("map", "mAP") if self.multi_label else ("top1", "top-1")
        self.chance = 1 / max(1, len(self.class_names))
        self._smoothing = config.get("train", {}).get("label_smoothing", 0.0)

    # ------------------------------------------------------------------------------------- training
    @property
    def targets(self):
        """Batches hold `label`, and in evaluation `labels` (K,) where there are several."""
        return ClassLabels(len(self.class_names), self.multi_label)

    def loss(self, logits, batch):
        """Cross-entropy with the one label of training; of mixed clips with both, by their shares."""
        found = cross_entropy(logits, batch["label"], self._smoothing)
        if mixing.OTHER not in batch:
            return found
        other, share = cross_entropy(logits, batch[mixing.OTHER], self._smoothing), batch[mixing.SHARE]
        return share * found + (1 - share) * other

    def batch_scalars(self, logits, batch):
        """Top-1 of a training batch, as the reference logs it; of mixed clips for the larger share."""
        hit = self.right(self.answers(logits), batch).astype("float32")
        return {"top1": weighted_mean(hit, batch["mask"])}

    # ------------------------------------------------------------------------------------ inference
    def mean_of_views(self, logits_BV):
        """Logarithm of the mean probability (mmaction2's `average_clips='prob'`); logits of one view."""
        return logits_BV[:, 0] if logits_BV.shape[1] == 1 else blocks.log_mean_softmax(logits_BV, axis=1)

    def answers(self, logits):
        """The most probable class."""
        return logits.argmax(axis=-1)

    def right(self, answers, targets):
        """Whether it is the label, of several labels (which evaluation knows) one of them."""
        if self.multi_label and "labels" in targets:
            rows = np.arange(len(answers)).reshape((-1,) + (1,) * (answers.ndim - 1))
            return targets["labels"][rows, answers] > 0
        labels = targets["label"]
        return answers == labels.reshape(labels.shape + (1,) * (answers.ndim - 1))

    def output(self, logits):
        """Probabilities."""
        return jax.nn.softmax(logits)

    # ----------------------------------------------------------------------------------- evaluation
    def scores(self, logits):
        """Probabilities (N, K) in float64; all NaN for a row with a logit that is not finite."""
        z = np.asarray(logits, np.float64)
        z = np.where(np.isfinite(z).all(axis=-1, keepdims=True), z, np.nan)
        z = np.exp(z - z.max(axis=-1, keepdims=True))
        return z / z.sum(axis=-1, keepdims=True)

    @classmethod
    def metric_names(cls, config):
        """See `metrics`."""
        return ("top1", "top5", "mean_class_accuracy") + (("map",) if config.data.multi_label else ())

    def metrics(self, rows):
        """`top1`, `top5`, `mean_class_accuracy`; `clip_top1` of single views.

        With several labels also `map`; then each of them is right, and none comes first. `top1_any` is
        `top1`, which counted the lowest label alone once.
        """
        scores, labels = rows["scores"], rows["labels" if self.multi_label else "label"]
        top_k, per_class = ((metrics.any_label_accuracy, metrics.mean_any_label_accuracy) if self.multi_label
                            else (metrics.top_k_accuracy, metrics.mean_class_accuracy))
        found = {
            "top1": top_k(scores, labels, 1),
            "top5": top_k(scores, labels, min(5, len(self.class_names))),
            "mean_class_accuracy": per_class(scores, labels),
        }
        if "clip_answers" in rows:
            found["clip_top1"] = float(self.right(rows["clip_answers"], rows).mean(dtype=np.float64))
        if self.multi_label:
            found["map"] = metrics.mean_average_precision(scores, labels)
            found["top1_any"] = found["top1"]
        return found

    def write_rows(self, path, rows):
        """A line a video: name, label, predicted class, its probability, cost of all views.

        With several labels also `labels`, all of them as a json list; with several views `gmacs_per_clip`; of
        a network with early exits `exit`, the number of the checkpoint that answered, from 1.
        """
        views = rows["clip_answers"].shape[1] if "clip_answers" in rows else 1
        several = rows.get("labels") if self.multi_label else None
        with open(path, "w", newline="", errors="backslashreplace") as f:  # whatever the names hold
            table = csv.writer(f)
            more = ([] if several is None else ["labels"]) + (["gmacs_per_clip"] if views > 1 else [])
            more += ["exit"] if "exit" in rows else []
            table.writerow(["video", "label", "predicted", "prob", "gmacs", *more])
            for i, (name, label, scores, gmacs) in enumerate(zip(
                    rows["name"], rows["label"], rows["scores"], rows["gmacs"])):
                best = int(scores.argmax())
                line = [name, self.class_names[int(label)], self.class_names[best], f"{scores[best]:.4f}",
                        f"{gmacs:.6g}"]
                if several is not None:
                    line.append(json.dumps([self.class_names[k] for k in np.flatnonzero(several[i])]))
                if views > 1:
                    line.append(f"{gmacs / views:.6g}")
                if "exit" in rows:
                    line.append(int(rows["exit"][i]) + 1)
                table.writerow(line)

    def groups(self, rows):
        """Videos by class; one with several labels is in each of their groups."""
        several = rows["labels"] if self.multi_label and "labels" in rows else None
        found = ((name, np.flatnonzero(rows["label"] == k if several is None else several[:, k]))
                 for k, name in enumerate(self.class_names))
        return [(name, mine) for name, mine in found if len(mine)]

    # --------------------------------------------------------------------------------- to be read
    def answer(self, scores):
        """`{"top5": [{"label": ..., "prob": ...}, ...]}`, most probable class first."""
        return top5(self.class_names, scores)

    def words(self, answer):
        """'waving 93.0%, ...'."""
        return in_words(answer)

    def said(self, row):
        """The class, and how sure the network is of its own; with several, whether it is one of them.

        Of a network with early exits also the checkpoint that answered.
        """
        words = f"{row['predicted']} {float(row['prob']):.0%}"
        if row.get("exit"):
            words += f", exit {row['exit']}"
        labels = labels_of(row)
        return ", ".join(labels), words, row["predicted"] in labels

    def pictures(self, predictions):
        """Accuracy per class of all networks, confusion of the last one."""
        subject = list(predictions)[-1]
        said = (name for rows in predictions.values() for row in rows
                for name in (*labels_of(row), row["predicted"]))
        names = list(dict.fromkeys([*self.class_names, *said]))
        counts = {name: count_confusions(names, rows) for name, rows in predictions.items()}
        shown = (f"The {plots.MAX_CLASSES} classes that {subject} gets wrong most. "
                 if len(names) > plots.MAX_CLASSES else f"Sorted by {subject}. ")
        each, either, unit = "", "", "videos"
        if self.multi_label:
            each = " A video counts for each of its labels, as right where the answer is one of them."
            either = (" A video is on the diagonal where the answer is one of its labels, otherwise in the "
                      "row of each of them.")
            unit = "entries"
        accuracies = {name: class_accuracy(names, rows) for name, rows in predictions.items()}
        return [
            ("Accuracy per class", plots.per_class(names, accuracies), shown + each,
             _extremes(subject, names, accuracies[subject])),
            (f"Confusion of {subject}", plots.confusion(names, counts[subject]),
             "Percent of the true class." + either, _mistakes(subject, names, counts[subject], unit)),
        ]


def top5(class_names, scores) -> dict:
    """What probabilities (K,) say: `{"top5": [{"label": ..., "prob": ...}, ...]}`."""
    best = np.argsort(-scores, kind="stable")[:5]
    return {"top5": [{"label": class_names[k], "prob": round(float(scores[k]), 6)} for k in best]}


def in_words(answer) -> str:
    """'waving 93.0%, ...' of what `top5` gives."""
    return ", ".join(f"{guess['label']} {guess['prob']:.1%}" for guess in answer["top5"])


def _extremes(subject: str, names, accuracy_K) -> str:
    """The bars in words."""
    order = [k for k in np.argsort(accuracy_K, kind="stable") if not np.isnan(accuracy_K[k])]
    if not order:
        return ""
    told = [f"{names[k]} {accuracy_K[k]:.0%}" for k in order]
    if len(told) > 6:
        told = [*told[:3], "...", *told[-3:]]
    return f"A bar for each class, how many of its videos {subject} gets right: {', '.join(told)}."


def _mistakes(subject: str, names, counts_KK, unit: str) -> str:
    """The matrix in words."""
    wrong = counts_KK - np.diag(np.diag(counts_KK))
    worst = sorted(np.argwhere(wrong > 0).tolist(), key=lambda ij: -wrong[ij[0], ij[1]])[:5]
    told = ", ".join(f"{names[i]} for {names[j]} ({wrong[i, j]} of {counts_KK[i].sum()})" for i, j in worst)
    right, mistakes = np.trace(counts_KK), f"; {subject} mistakes most often {told}" if told else ""
    return (f"A matrix of true and predicted classes; {right} of {counts_KK.sum()} {unit} are on its "
            f"diagonal{mistakes}.")


def labels_of(row) -> list[str]:
    """All labels of a line of `Classification.write_rows`; lines of older runs have the first one alone."""
    if not row.get("labels"):
        return [row["label"]]
    try:
        return [str(name) for name in json.loads(row["labels"])]
    except (ValueError, TypeError) as error:
        raise UserError(f"predictions: the labels of {row['video']!r} are {row['labels']!r}: expected a json "
                        f"list of names; evaluate again.") from error


def count_confusions(class_names, rows) -> np.ndarray:
    """(K, K) numbers of videos by true (row) and predicted class, of lines of `Classification.write_rows`.

    A video with several labels is counted once where the answer is one of them, as that one; otherwise in the
    row of each of them.
    """
    index = {name: k for k, name in enumerate(class_names)}
    counts = np.zeros((len(class_names), len(class_names)), int)
    for row in rows:
        labels, predicted = labels_of(row), row["predicted"]
        for label in [predicted] if predicted in labels else labels:
            counts[index[label], index[predicted]] += 1
    return counts


def class_accuracy(class_names, rows) -> np.ndarray:
    """(K,) shares of the classes' videos whose answer is one of their labels; NaN: a class without videos."""
    index = {name: k for k, name in enumerate(class_names)}
    right, total = (np.zeros(len(class_names), int) for _ in range(2))
    for row in rows:
        labels = labels_of(row)
        for label in labels:
            total[index[label]] += 1
            right[index[label]] += row["predicted"] in labels
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)
