"""Where in a key frame something of which class is: boxes, from a clip around the frame.

VA-RED2's Table 8 (J-HMDB) as YOWO (arXiv 1911.06644; wei-tim/YOWO) does it: a grid of anchors over the maps
of the backbone (`heads/boxes.py`), its region loss, frame-mAP, recall and classification accuracy as that
code counts them (`core/optimization.py` as of the paper):

    frame-mAP   Pascal VOC's at IoU 0.5 over the detections with confidence x probability > 0.005 that are
                left by non-maximum suppression at 0.4, whatever the class; every class of a box counts
    recall      share of the boxes that one of confidence > 0.25 overlaps by more than 0.5
    classification   of those, the share whose best box has the right class

Anchors are k-means of the boxes of the training split, found once, when training begins; they are part of the
network, which is all that an evaluation needs. Boxes are in shares of the frame, 0 to 1.
"""

from __future__ import annotations

import csv
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import BoxTargets, DataError, Field
from effvid_jax import console
from effvid_jax.detection import anchors as anchoring
from effvid_jax.detection import listed, scoring
from effvid_jax.detection.boxes import iou, nms
from effvid_jax.detection.region_loss import Scales, region_loss
from effvid_jax.drawn import boxes as drawing
from effvid_jax.errors import UserError
from effvid_jax.heads.boxes import BoxHead
from effvid_jax.losses import weighted_mean
from effvid_jax.model_fields import module_fields
from effvid_jax.tasks.task import Task

# Fields of `config.localisation`; YOWO's figures (cfg/jhmdb.yaml, core/optimization.py), or marked as ours.
DEFAULTS: dict[str, Any] = dict(
    anchors=(),  # width, height, width, ... in shares of the clip; (): k-means of the training boxes
    num_anchors=5, max_boxes=50,  # of a frame
    head_width=1024,
    object_scale=5.0, no_object_scale=1.0, coordinate_scale=1.0, class_scale=1.0, gamma=2.0, ignore_iou=0.6,
    correct="any_box",  # on which clips gates are to save: any_box (one is found with its class) | all_boxes
    # | always; ours, the paper says nothing
    least_score=0.005, nms_iou=0.4, confidence=0.25, iou=0.5,
    detections=100,  # boxes of a frame that are kept, surest first; ours
    every=8,  # predict: frames from one key frame to the next; ours
)
_SHARE = Field.number(0, 1)
_CORRECT = ("any_box", "all_boxes", "always")


class Localisation(Task):
    """Boxes in a key frame; see `Task` and the module docstring. The fields are `DEFAULTS`."""

    headline, title, watched, watched_title = "map", "frame-mAP", "recall", "recall"
    unit, scale, loss_title = "%", 100.0, "region loss"
    output_title = "boxes (batch, boxes, 5 + classes: x1, y1, x2, y2, confidence, probabilities)"
    training_only = ("anchors", "num_anchors", "head_width", "object_scale", "no_object_scale", "class_scale",
                     "coordinate_scale", "gamma", "ignore_iou", "correct")
    bounds: ClassVar = {
        "anchors": Field.many(Field.number(above=0, most=1)), "num_anchors": Field.integer(1, 64),
        "max_boxes": Field.integer(1, 1000), "head_width": Field.integer(1, 2**14),
        **dict.fromkeys(("object_scale", "no_object_scale", "coordinate_scale", "class_scale"),
                        Field.number(0, 1e6)),
        "gamma": Field.number(0, 100), "ignore_iou": _SHARE, "correct": Field.choice(*_CORRECT),
        "least_score": _SHARE, "nms_iou": _SHARE, "confidence": _SHARE, "iou": _SHARE,
        "detections": Field.integer(1, 10**4), "every": Field.integer(1, 10**6)}

    def __init__(self, config, class_names):
        super().__init__(config, class_names)
        self.fields = {**DEFAULTS, **dict(config.get("localisation", {}).items())}
        given = np.array(self.fields["anchors"], float)
        if len(given) % 2:
            raise UserError(f"config.localisation.anchors={tuple(given.tolist())}: expected pairs of a width "
                            f"and a height, in shares of the clip.")
        if config.data.sampling != "around" or config.data.test_crop != "whole":
            raise UserError(f"config.data.sampling={config.data.sampling!r}, config.data.test_crop="
                            f"{config.data.test_crop!r}: boxes are told of a whole frame, with a clip around "
                            f"it: expected 'around' and 'whole'.")
        self.every = self.fields["every"]
        self._given = given.reshape(-1, 2)
        self.anchors = self._given if len(given) else np.full((self.fields["num_anchors"], 2), 0.5)
        self.scales = Scales(*(float(self.fields[name]) for name in (
            "object_scale", "no_object_scale", "coordinate_scale", "class_scale", "gamma", "ignore_iou")))

    def prepare(self, split):
        """Finds the anchors, unless the config names them."""
        sizes = np.array([(box.x2 - box.x1, box.y2 - box.y1) for i in range(len(split))
                          for box in split.entry(i).boxes], float).reshape(-1, 2)
        if not len(sizes):
            raise DataError(f"split {split.name!r} ({split.description}) has no boxes to find anchors of.")
        if not len(self._given):
            self.anchors = anchoring.find(sizes, self.fields["num_anchors"])
        told = ", ".join(f"{w:.3f} x {h:.3f}" for w, h in self.anchors)
        console.say(f"anchors: {told} of the frame; they overlap the {len(sizes)} training boxes by "
                    f"{anchoring.fit(sizes, self.anchors):.2f} (mean IoU with the best one)")

    def head(self, model):
        """`heads/boxes.py` with these anchors."""
        anchors = tuple(map(tuple, self.anchors.tolist()))
        return BoxHead(len(self.class_names), anchors, self.fields["head_width"], **module_fields(model))

    # ------------------------------------------------------------------------------------- training
    @property
    def targets(self):
        """Batches hold `boxes`, `box_labels` and `box_count`."""
        return BoxTargets(len(self.class_names), self.fields["max_boxes"])

    def loss(self, logits, batch):
        """See `detection/region_loss.py`."""
        found, raw, anchors = logits
        return region_loss(raw, found[..., :4], anchors, batch["boxes"], batch["box_labels"],
                           batch["box_count"], self.scales)

    def batch_scalars(self, logits, batch):
        """Recall and classification accuracy of a training batch, without suppression."""
        there, seen, right = self._seen(self.answers(logits), batch)
        number = (there * batch["mask"][:, None]).sum()
        seen, right = ((x * batch["mask"][:, None]).sum() for x in (seen, right))
        return {"recall": seen / jnp.maximum(number, 1), "classification": right / jnp.maximum(seen, 1),
                "boxes": weighted_mean((self.answers(logits)[..., 4] > self.fields["confidence"]).sum(axis=1),
                                       batch["mask"])}

    def answers(self, logits):
        """The boxes (B, P, 5 + K), in training too."""
        return logits[0] if isinstance(logits, tuple) else logits

    def right(self, answers, targets):
        """As `config.localisation.correct` says; a frame without boxes is right where none is found."""
        there, _, right = self._seen(answers, targets)
        if self.fields["correct"] == "always":
            return there[:, 0] | True
        empty = ~(answers[..., 4] > self.fields["confidence"]).any(axis=1)
        some = right.any(axis=1) if self.fields["correct"] == "any_box" else (right | ~there).all(axis=1)
        none = targets["box_count"] == 0
        return (some & ~none) | (empty & none)

    def _seen(self, answers, targets):
        """(which of the M places have a box, which of these are found, with the right class), (B, M) each."""
        xp = jnp if isinstance(answers, jax.Array) else np
        there = xp.arange(targets["boxes"].shape[1]) < targets["box_count"][:, None]
        sure = (answers[..., 4] > self.fields["confidence"])[:, None]
        overlaps = iou(targets["boxes"], answers[..., :4]) * sure
        best, value = overlaps.argmax(axis=-1), overlaps.max(axis=-1)
        kind = xp.take_along_axis(answers[..., 5:].argmax(axis=-1), best, axis=1)
        seen = there & (value > self.fields["iou"])
        return there, seen, seen & (kind == targets["box_labels"])

    # ----------------------------------------------------------------------------------- evaluation
    def scores(self, logits):
        """Boxes that are left after suppression, surest first, (N, detections, 5 + K); the rest is zero.

        All NaN where an output is not finite.
        """
        logits = np.asarray(logits, np.float32)
        found = np.zeros((len(logits), self.fields["detections"], logits.shape[-1]), np.float32)
        for said, mine in zip(logits, found):
            if not np.isfinite(said).all():
                mine[:] = np.nan
                continue
            likely = said[said[:, 4] * said[:, 5:].max(axis=1) > self.fields["least_score"]]
            kept = likely[nms(likely[:, :4], likely[:, 4], self.fields["nms_iou"])][:len(mine)]
            mine[:len(kept)] = kept
        return found

    @classmethod
    def metric_names(cls, config):
        """See `metrics`."""
        return "map", "map_11_points", "recall", "classification"

    def metrics(self, rows):
        """`map` (VOC's, at IoU `iou`), `map_11_points`, `recall`, `classification`."""
        truth = _boxes_of((rows["boxes"][i, :n], rows["box_labels"][i, :n], np.ones(n))
                          for i, n in enumerate(rows["box_count"]))
        every = _boxes_of(self._every_class(scores) for scores in rows["scores"])
        sure = _boxes_of(self._sure(scores) for scores in rows["scores"])
        k, least = len(self.class_names), self.fields["iou"]
        found, right = scoring.recall(sure, truth, least)
        return {"map": scoring.frame_map(every, truth, k, least)[0],
                "map_11_points": scoring.frame_map(every, truth, k, least, 11)[0],
                "recall": found, "classification": right, "boxes": len(truth.frame)}

    def _every_class(self, scores):
        """Every class of every box that is likely enough: (boxes, labels, scores)."""
        score = scores[:, 4:5] * scores[:, 5:]
        at, label = np.nonzero(score > self.fields["least_score"])
        return scores[at, :4], label, score[at, label]

    def _sure(self, scores):
        """The boxes of enough confidence, each with its best class."""
        sure = scores[scores[:, 4] > self.fields["confidence"]]
        return sure[:, :4], sure[:, 5:].argmax(axis=1), sure[:, 4] * sure[:, 5:].max(axis=1, initial=0)

    def groups(self, rows):
        """Frames by the class of their boxes; one with several classes is in each of their groups."""
        there = np.arange(rows["boxes"].shape[1]) < rows["box_count"][:, None]
        found = ((name, np.flatnonzero((there & (rows["box_labels"] == k)).any(axis=1)))
                 for k, name in enumerate(self.class_names))
        found = [*found, ("(no box)", np.flatnonzero(rows["box_count"] == 0))]
        return [(name, mine) for name, mine in found if len(mine)]

    def write_rows(self, path, rows):
        """A line a frame: its name, its boxes, those that are found with enough confidence, all that counts
        for frame-mAP, cost. Boxes are json lists of [class, score, x1, y1, x2, y2].
        """
        with open(path, "w", newline="", errors="backslashreplace") as f:
            table = csv.writer(f)
            table.writerow(["video", "boxes", "sure", "found", "gmacs"])
            for i, (name, gmacs) in enumerate(zip(rows["name"], rows["gmacs"])):
                n, scores = rows["box_count"][i], rows["scores"][i]
                lists = ((rows["boxes"][i, :n], rows["box_labels"][i, :n], np.ones(n)), self._sure(scores),
                         self._every_class(scores))
                table.writerow([name, *(listed.text(self.class_names, *x) for x in lists), f"{gmacs:.6g}"])

    # --------------------------------------------------------------------------------- to be read
    def answer(self, scores):
        """`{"boxes": [{"label": ..., "score": ..., "box": [x1, y1, x2, y2]}, ...]}`, surest first."""
        return {"boxes": [{"label": self.class_names[k], "score": round(float(p), 6),
                           "box": [round(float(x), 4) for x in np.clip(box, 0, 1)]}
                          for box, k, p in zip(*self._sure(scores))]}

    def words(self, answer):
        """'walk 93 %, run 41 %', or 'nothing'."""
        return ", ".join(f"{box['label']} {box['score']:.1%}" for box in answer["boxes"]) or "nothing found"

    def draw(self, frame_HWC, scores):
        """The boxes of enough confidence."""
        boxes, labels, score = self._sure(scores)
        return drawing.draw(frame_HWC, boxes, labels, [
            f"{console.one_line(self.class_names[k], 24)} {p:.0%}" for k, p in zip(labels, score)])

    def said(self, row):
        """Classes of the boxes; those that were found, each with the score of its best box."""
        truth, found = listed.read(row, "boxes"), listed.read(row, "sure")
        words = ", ".join(f"{label} {score:.0%}" for label, score, *_ in found) or "nothing"
        return (", ".join(label for label, *_ in truth) or "no box", words,
                listed.agree(truth, found, self.fields["iou"]))

    def pictures(self, predictions):
        """Average precision per class of all networks; precision over recall of the last one."""
        return listed.pictures(predictions, self.class_names, self.fields["iou"])


def _boxes_of(frames) -> scoring.Boxes:
    """(boxes, labels, scores) of every frame, as one list of boxes."""
    parts = [(np.full(len(label), i), label, box, score) for i, (box, label, score) in enumerate(frames)]
    if not parts:
        return scoring.Boxes(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    return scoring.Boxes(*(np.concatenate(x) for x in zip(*parts)))
