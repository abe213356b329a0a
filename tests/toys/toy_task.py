"""A second task in one file: one number a video, its class as a share of all classes, instead of a class."""

from __future__ import annotations

import csv

import jax.numpy as jnp
import numpy as np

from data_pipelines import Targets
from effvid_jax.losses import weighted_mean
from effvid_jax.tasks import Task


class Numbers(Targets):
    """`value` float32 (): the label over the number of classes."""

    train_fields = evaluate_fields = {"value": ((), np.float32)}

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def train(self, entry, rng):
        """Nothing is drawn."""
        del rng
        return self.evaluate(entry)

    def evaluate(self, entry):
        """The first label counts."""
        return {"value": np.float32(entry.labels[0] / self.num_classes)}


class Number(Task):
    """Regression with the squared error; how far off the mean video is, is the metric."""

    headline = watched = "mean_error"
    title = watched_title = "mean error"
    unit, scale, loss_title = "%", 100.0, "squared error"
    num_outputs = 1

    @property
    def targets(self):
        """One number."""
        return Numbers(len(self.class_names))

    def loss(self, logits, batch):
        """Squared error."""
        return jnp.square(logits[:, 0] - batch["value"])

    def batch_scalars(self, logits, batch):
        """Absolute error."""
        return {"mean_error": weighted_mean(jnp.abs(logits[:, 0] - batch["value"]), batch["mask"])}

    def scores(self, logits):
        """The numbers, (N,)."""
        return np.asarray(logits, np.float64)[:, 0]

    def metrics(self, rows):
        """Mean absolute error."""
        return {"mean_error": float(np.abs(rows["scores"] - rows["value"]).mean())}

    def write_rows(self, path, rows):
        """Video, number, what was said, cost."""
        with open(path, "w", newline="") as f:
            table = csv.writer(f)
            table.writerow(["video", "value", "said", "gmacs"])
            table.writerows(zip(rows["name"], rows["value"], rows["scores"], rows["gmacs"]))

    def answer(self, scores):
        """`{"number": ...}`."""
        return {"number": float(scores)}

    def words(self, answer):
        """'number 0.50'."""
        return f"number {answer['number']:.2f}"
