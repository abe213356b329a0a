"""The boxes of a key frame as targets, where the clip shows them."""

import numpy as np

from data_pipelines.batches.targets import PlacedTargets
from data_pipelines.errors import DataError

LEAST = 0.001  # side of a box, in shares of the clip, below which it is not in it (YOWO's)


class BoxTargets(PlacedTargets):
    """Boxes in shares of the clip, cut at its edges; those that are not in it are left out.

    Training and evaluation: boxes float32 (M, 4) x1, y1, x2, y2; box_labels int32 (M,); box_count int32 ():
    the first `box_count` of M are some.

    Args:
        num_classes: K; labels are within 0 .. K - 1.
        most: M.
    """

    def __init__(self, num_classes: int, most: int):
        self.num_classes, self.most = num_classes, most
        self.train_fields = {"boxes": ((most, 4), np.float32), "box_labels": ((most,), np.int32),
                             "box_count": ((), np.int32)}
        self.evaluate_fields = dict(self.train_fields)

    def train(self, entry, rng):
        """The same as in evaluation: nothing is drawn."""
        del rng
        return self.evaluate(entry)

    def evaluate(self, entry):
        """Boxes as the clip shows them; without a place as the whole frame does."""
        boxes = np.array([box[1:] for box in entry.boxes], np.float64).reshape(-1, 4)
        boxes = np.clip(boxes if self.place is None else self.place.boxes(boxes), 0, 1)
        seen = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= LEAST).all(axis=1))[:self.most]
        found = {name: np.zeros(shape, kind) for name, (shape, kind) in self.train_fields.items()}
        found["boxes"][:len(seen)] = boxes[seen]
        found["box_labels"][:len(seen)] = [entry.boxes[i].label for i in seen]
        found["box_count"] = np.int32(len(seen))
        return found

    def check(self, split):
        """Raises `DataError` for another number of classes, no boxes, or more of them than there is room."""
        if len(split.class_names) != self.num_classes:
            raise DataError(f"the network has {self.num_classes} classes, split {split.name!r} of "
                            f"config.data has {len(split.class_names)}: give the data it was trained for.")
        entries = [split.entry(i) for i in range(len(split))]
        if not any(entry.boxes for entry in entries):
            raise DataError(f"split {split.name!r} ({split.description}) has no boxes, which are to be "
                            f"found: set data.source to 'boxes', 'jhmdb' or 'synthetic_boxes'.")
        for entry in entries:
            if len(entry.boxes) > self.most:
                raise DataError(f"{entry.name} has {len(entry.boxes)} boxes, more than "
                                f"localisation.max_boxes={self.most}: raise that.")
            wrong = [box.label for box in entry.boxes if not 0 <= box.label < self.num_classes]
            if wrong:
                raise DataError(f"{entry.name}: label {wrong[0]} of a box is not within 0 to "
                                f"{self.num_classes - 1}, the classes of the data set.")
