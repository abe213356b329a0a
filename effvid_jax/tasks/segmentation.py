"""Which class every pixel of an image has: semantic segmentation, scored by pixel accuracy and mean IoU.

Sources: `train.py`, `eval.py` and `utils.py` of CSAILVision/semantic-segmentation-pytorch. Training compares
at the size of the decoder's map (labels by nearest pixel), over the labelled pixels of the batch. Evaluation
enlarges the outputs to the test size on the device, where of each pixel the class and its probability alone
remain: K maps of an image would not fit through the door. Unlike there, images are squares of one size
(`data.test_crop='pad'`), and labels are compared in that size.

The outputs are maps of logits (B, h, w, K), in training with those of the auxiliary classifier; `scores` are
(N, H, W, 2) float32: number of the class, probability. `kept` makes counts per image of them.
"""

from __future__ import annotations

import csv
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import Field, PixelClasses
from effvid_jax import metrics, plots
from effvid_jax.drawn import masks as drawing
from effvid_jax.errors import UserError
from effvid_jax.heads.pixels import DECODERS, PixelHead, enlarge
from effvid_jax.losses import cross_entropy
from effvid_jax.model_fields import module_fields
from effvid_jax.tasks.task import Task

STRIDE = 8  # sides of other test scales are multiples of it
DEFAULTS = dict(
    decoder="c1",  # c1 | ppm, see `effvid_jax/heads/pixels.py`
    width=0,  # channels before the classifier; 0: the reference's
    auxiliary_weight=0.4,  # of the loss on the stage before the last; 0: none
    correct="always",  # which images the efficiency loss of gates counts: always | accuracy
    correct_share=0.5,  # accuracy: those with at least this share of their labelled pixels right
    test_scales=(1.0,),  # sizes in which an image is looked at in evaluation, over that of the clip
)


class Segmentation(Task):
    """See the module docstring, and `Task`.

    VA-RED2 does not say which images count as right (mu_0 of its efficiency loss): by default all do
    (`config.segmentation.correct`), a choice of ours.

    Raises:
        UserError: several frames or views, or more classes than a mask of 8 bits holds.
    """

    headline, title, unit, scale = "mean_iou", "mean IoU", "%", 100.0
    watched, watched_title = "pixel_accuracy", "pixel accuracy"
    loss_title, every = "cross-entropy per pixel", 1
    output_title = "class of each pixel, and its probability (batch, height, width, 2)"
    bounds: ClassVar = {
        "decoder": Field.choice(*DECODERS), "width": Field.integer(0, 2**14),
        "auxiliary_weight": Field.number(0, 1e3), "correct": Field.choice("always", "accuracy"),
        "correct_share": Field.number(0, 1), "test_scales": Field.many(Field.number(above=0, most=16))}
    training_only: ClassVar = ("auxiliary_weight", "correct", "correct_share")
    of_the_network: ClassVar = ("decoder", "width")

    def __init__(self, config, class_names):
        super().__init__(config, class_names)
        self.fields = {**DEFAULTS, **config.get("segmentation", {})}
        data, during = config.data, config.get("train", {}).get("validation", {})
        if data.num_frames != 1 or data.test_clips != 1 or data.twice_sample or data.test_crop == "three":
            raise UserError(
                f"config.data.num_frames={data.num_frames}, test_clips={data.test_clips}, twice_sample="
                f"{data.twice_sample}, test_crop={data.test_crop!r}: task 'segmentation' asks about single "
                f"images, each seen once: expected 1, 1, False and 'pad', 'whole' or 'center'.")
        if (side := during.get("test_crop_size", 0)) not in (0, data.test_crop_size):
            raise UserError(f"config.train.validation.test_crop_size={side}: task 'segmentation' compares "
                            f"masks of config.data.test_crop_size={data.test_crop_size}: expected 0 or the "
                            f"same.")
        if not self.fields["test_scales"]:
            raise UserError("config.segmentation.test_scales=(): expected at least one scale, such as "
                            "(1.0,).")
        if len(self.class_names) > PixelClasses.UNLABELLED:
            raise UserError(f"{len(self.class_names)} classes: task 'segmentation' takes at most "
                            f"{PixelClasses.UNLABELLED}, as masks of 8 bits do.")
        self._crop, self._test_side, self._test_crop = data.crop, data.test_crop_size, data.test_crop
        self._test_short_side = data.test_short_side

    def head(self, model):
        """The decoder of `config.segmentation`."""
        if model.get("exits"):
            raise UserError("config.model.exits: task 'segmentation' has no early exits: leave them out "
                            "({}).")
        return PixelHead(len(self.class_names), self.fields["decoder"], self.fields["width"],
                         self.fields["auxiliary_weight"] > 0, **module_fields(model))

    # ------------------------------------------------------------------------------------- training
    @property
    def targets(self):
        """Batches hold `classes` uint8 (B, side, side); unlabelled pixels are 255."""
        return PixelClasses(len(self.class_names), self._crop, self._test_side)

    def loss(self, logits, batch):
        """Cross-entropy summed over an image's pixels, over the mean number of labelled ones in the batch.

        Its mean over the batch is so that over all labelled pixels, the reference's. With auxiliary outputs
        theirs is added, times `auxiliary_weight`.
        """
        maps = logits if isinstance(logits, tuple) else (logits,)
        weights = (1.0, self.fields["auxiliary_weight"])
        return sum(weight * self._pixel_loss(x, batch) for weight, x in zip(weights, maps))

    def _pixel_loss(self, logits_BHWK, batch):
        labels, known = _at_size(batch["classes"], logits_BHWK.shape[1:3])
        known = known * batch["mask"][:, None, None]
        each = cross_entropy(logits_BHWK, jnp.where(known > 0, labels, 0)) * known
        mean = known.sum() / jnp.maximum(batch["mask"].sum(), 1.0)
        return each.sum(axis=(1, 2)) / jnp.maximum(mean, 1.0)

    def batch_scalars(self, logits, batch):
        """Pixel accuracy of a training batch, at the map's size."""
        right_B, known_B = self._right_pixels(self.answers(logits), batch)
        mask = batch["mask"]
        return {"pixel_accuracy": (right_B * mask).sum() / jnp.maximum((known_B * mask).sum(), 1.0)}

    def _right_pixels(self, answers_BHW, batch):
        """Numbers of right and of labelled pixels, each (B,)."""
        labels, known = _at_size(batch["classes"], answers_BHW.shape[1:3])
        return ((answers_BHW == labels) * known).sum(axis=(1, 2)), known.sum(axis=(1, 2))

    # ------------------------------------------------------------------------------------ inference
    def sides(self, side):
        """`config.segmentation.test_scales` times the side, in multiples of 8; at scale 1 as it is."""
        return tuple(side if scale == 1 else max(1, round(side * scale / STRIDE)) * STRIDE
                     for scale in self.fields["test_scales"])

    def of_sides(self, outputs):
        """Logarithm of the mean probability at the test size, as the reference's multi-scale testing."""
        if len(outputs) == 1:
            return outputs[0]
        size = (self._test_side,) * 2
        found = sum(jax.nn.softmax(enlarge(x.astype(jnp.float32), size)) for x in outputs)
        return jnp.log(found / len(outputs))

    def mean_of_views(self, logits_BV):
        """(B, 1, h, w, K) -> class and its probability of every pixel at the test size, (B, H, W, 2)."""
        logits = enlarge(logits_BV[:, 0], (self._test_side,) * 2)
        best = logits.max(axis=-1) - jax.nn.logsumexp(logits, axis=-1)
        return jnp.stack([logits.argmax(axis=-1).astype(jnp.float32), jnp.exp(best)], axis=-1)

    def answers(self, logits):
        """The most probable class of every position, (B, h, w)."""
        return (logits[0] if isinstance(logits, tuple) else logits).argmax(axis=-1)

    def right(self, answers, targets):
        """Which images count as right, see `config.segmentation.correct`; one without labels never does."""
        right, known = self._right_pixels(answers, targets)
        if self.fields["correct"] == "always":
            return jnp.ones(right.shape, bool)
        return (right >= self.fields["correct_share"] * known) & (known > 0)

    # ----------------------------------------------------------------------------------- evaluation
    def scores(self, logits):
        """As they are."""
        return np.asarray(logits, np.float32)

    def kept(self, rows):
        """Pixels of each class per image, (N, K) each, in place of maps: right, said and labelled ones.

        What is said of unlabelled pixels does not count. `scores` (N,) becomes the mean probability.
        """
        rows = dict(rows)
        scores, classes, count = rows["scores"], rows.pop("classes"), len(self.class_names)
        known = classes < count
        finite = np.isfinite(scores).all(axis=-1)
        said = np.where(finite, scores[..., 0], 0).astype(np.int64)

        def counted(maps_NHW, which_NHW):
            return np.stack([np.bincount(x[y], minlength=count) for x, y in zip(maps_NHW, which_NHW)]
                            ).astype(np.int32).reshape(-1, count)

        return rows | {"scores": scores[..., 1].mean(axis=(1, 2)),
                       "right_pixels": counted(classes, known & (said == classes)),
                       "said_pixels": counted(said, known), "labelled_pixels": counted(classes, known)}

    @classmethod
    def metric_names(cls, config):
        """See `metrics`."""
        return "pixel_accuracy", "mean_iou", "mean_iou_present"

    def metrics(self, rows):
        """`pixel_accuracy` of all labelled pixels, `mean_iou` over all classes, `mean_iou_present`.

        As the reference, from pixels summed over the whole split; a class that neither occurs nor is said has
        an IoU of 0 there, and is left out of `mean_iou_present`.
        """
        right, said, labelled = (rows[f"{name}_pixels"].sum(axis=0, dtype=np.int64)
                                 for name in ("right", "said", "labelled"))
        iou = metrics.intersection_over_union(right, said, labelled)
        present = said + labelled > 0
        return {"pixel_accuracy": float(right.sum() / max(1, labelled.sum())), "mean_iou": float(iou.mean()),
                "mean_iou_present": float(iou[present].mean()) if present.any() else 0.0}

    def write_rows(self, path, rows):
        """A line an image: pixel accuracy, mean IoU of the classes in it or said of it, cost, pixels.

        `pixels` is a json object: {class: [right, said, labelled ones]}.
        """
        with open(path, "w", newline="", errors="backslashreplace") as f:
            table = csv.writer(f)
            table.writerow(["video", "pixel_accuracy", "mean_iou", "gmacs", "pixels"])
            for name, gmacs, *counts in zip(rows["name"], rows["gmacs"], rows["right_pixels"],
                                            rows["said_pixels"], rows["labelled_pixels"]):
                right, said, labelled = counts
                there = np.flatnonzero(said + labelled)
                iou = metrics.intersection_over_union(right, said, labelled)[there]
                pixels = {self.class_names[k]: [int(x[k]) for x in counts] for k in there}
                known = bool(len(there))
                table.writerow([name, f"{right.sum() / labelled.sum():.4f}" if known else "",
                                f"{iou.mean():.4f}" if known else "", f"{gmacs:.6g}", json.dumps(pixels)])

    def groups(self, rows):
        """Images by the class that covers most of them."""
        labelled = rows["labelled_pixels"]
        most = np.where(labelled.sum(axis=1) > 0, labelled.argmax(axis=1), -1)
        found = [(name, np.flatnonzero(most == k)) for k, name in enumerate(self.class_names)]
        return [(name, mine) for name, mine in found if len(mine)] or super().groups(rows)

    # --------------------------------------------------------------------------------- to be read
    def within(self, scores, size):
        """Without what lies beyond the image, with data.test_crop='pad': (H, W, 2) -> (h, w, 2)."""
        if self._test_crop != "pad":
            return scores
        height, width = size
        rows, columns = (max(1, round(self._test_side * n / max(size))) for n in (height, width))
        top, left = (self._test_side - rows) // 2, (self._test_side - columns) // 2
        return scores[top:top + rows, left:left + columns]

    def answer(self, scores):
        """`{"classes": [{"label": ..., "share": ...}, ...], "confidence": ...}`, the largest class first."""
        said = scores[..., 0].astype(int).ravel()
        shares = np.bincount(said, minlength=len(self.class_names)) / len(said)
        order = [k for k in np.argsort(-shares, kind="stable") if shares[k] > 0]
        return {"classes": [{"label": self.class_names[k], "share": round(float(shares[k]), 6)}
                            for k in order],
                "confidence": round(float(scores[..., 1].mean(dtype=np.float64)), 6)}

    def words(self, answer):
        """'wall 43 %, sky 20 %, ...': the five largest."""
        return ", ".join(f"{x['label']} {x['share']:.0%}" for x in answer["classes"][:5])

    def draw(self, frame_HWC, scores):
        """Classes as colours over the image, with a legend beside it, see `drawn/masks.py`."""
        height, width = frame_HWC.shape[:2]
        part = scores[..., 0].astype(np.uint8)
        top = left = 0
        if self._test_crop == "center":  # the rest of the image was not looked at
            scale = min(height, width) / self._test_short_side
            side = min(round(self._test_side * scale), height, width)
            top, left, height, width = (height - side) // 2, (width - side) // 2, side, side
        return drawing.over(frame_HWC, part, (top, left, height, width), self.class_names)

    def said(self, row):
        """Its largest classes; how much is right; whether at least half of the pixels are."""
        if not row["pixel_accuracy"]:
            return "no labels", "nothing to compare with", False
        pixels = json.loads(row["pixels"])
        largest = sorted(pixels, key=lambda name: -pixels[name][2])[:3]
        accuracy, iou = float(row["pixel_accuracy"]), float(row["mean_iou"])
        return ", ".join(largest), f"{accuracy:.0%} of pixels, mean IoU {iou:.0%}", accuracy >= 0.5

    def pictures(self, predictions):
        """IoU per class of all networks; what images cost."""
        subject, found = list(predictions)[-1], {}
        for name, rows in predictions.items():
            counts = np.zeros((3, len(self.class_names)), np.int64)
            for row in rows:
                for label, three in json.loads(row["pixels"]).items():
                    if label in self.class_names:
                        counts[:, self.class_names.index(label)] += three
            iou = metrics.intersection_over_union(*counts)
            found[name] = np.where(counts[1:].sum(axis=0) > 0, iou, np.nan)
        order = [k for k in np.argsort(found[subject], kind="stable") if not np.isnan(found[subject][k])]
        told = ", ".join(f"{self.class_names[k]} {found[subject][k]:.0%}" for k in order[:5])
        gmacs = {name: [float(row["gmacs"]) for row in rows] for name, rows in predictions.items()}
        return [("IoU per class", plots.per_class(self.class_names, found, "IoU (%)"),
                 f"Sorted by {subject}.", f"A bar for each class; the lowest of {subject}: {told}."),
                ("Cost of the images", plots.histogram(gmacs, "GMACs per image", "images"),
                 "Whole network, decoder included; a line where all images cost the same.",
                 "; ".join(f"{name} {min(x):.3g} to {max(x):.3g} GMACs" for name, x in gmacs.items()))]


def _at_size(classes_BHW, size):
    """Labels at the size of a map by nearest pixel, int32 (B, h, w), and 1.0 where there is one."""
    rows, columns = (np.minimum((np.arange(n) + 0.5) * full / n, full - 1).astype(int)
                     for n, full in zip(size, classes_BHW.shape[1:3]))
    labels = classes_BHW[:, rows[:, None], columns].astype(jnp.int32)
    return labels, (labels != PixelClasses.UNLABELLED).astype(jnp.float32)
