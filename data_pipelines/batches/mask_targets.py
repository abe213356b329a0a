"""The class of every pixel, from masks that lie beside the images."""

import numpy as np

from data_pipelines.batches.placing import Place
from data_pipelines.batches.targets import PlacedTargets
from data_pipelines.errors import DataError, VideoError


class PixelClasses(PlacedTargets):
    """`classes` uint8 (side, side): of every pixel of a clip the class, or `UNLABELLED`.

    Pixels beyond the image are unlabelled, too.

    Args:
        num_classes: K, at most 255.
        crop: side of a training clip.
        test_crop_size: side of a clip in evaluation.
    """

    UNLABELLED = 255

    def __init__(self, num_classes: int, crop: int, test_crop_size: int):
        self.num_classes = num_classes
        self._crop, self._test_side = crop, test_crop_size
        self.train_fields = {"classes": ((crop, crop), np.uint8)}
        self.evaluate_fields = {"classes": ((test_crop_size, test_crop_size), np.uint8)}

    def train(self, entry, rng):
        """Nothing is drawn; see `_classes`."""
        del rng
        return self._classes(entry, self._crop)

    def evaluate(self, entry):
        """See `_classes`."""
        return self._classes(entry, self._test_side)

    def _classes(self, entry, side: int):
        """The mask as the clip shows it; without a place the whole of it in a square of `side`.

        Raises:
            DataError: the example has no mask.
            VideoError: it cannot be read, or holds a number that is no class, or is of another shape than its
                image.
        """
        if not entry.mask:
            raise DataError(f"{entry.name} has no mask: the task needs images with masks of classes, "
                            f"data.source='masks' or 'sceneparse'.")
        from data_pipelines.video import masks  # imports what decodes

        name = f"mask of {entry.name}" if isinstance(entry.mask, bytes) else entry.mask
        classes = masks.read_classes(entry.mask, self.num_classes, entry.mask_first, name)
        rows, columns = classes.shape
        place = self.place or Place((rows, columns), (0, 0, columns, rows), side)
        height, width = place.frame
        rounding = 0.02 * height * columns + columns + rows
        if abs(height * columns - width * rows) > rounding:
            raise VideoError(name, f"a mask of {columns} x {rows} pixels does not fit its image "
                                   f"{entry.name}, whose sides are as {width} to {height}")
        return {"classes": place.mask(classes, self.UNLABELLED)}

    def check(self, split):
        """Raises `DataError` for another number of classes, and for examples without masks."""
        if len(split.class_names) != self.num_classes:
            raise DataError(f"the network has {self.num_classes} classes, split {split.name!r} of "
                            f"config.data has {len(split.class_names)}: give the data it was trained for.")
        if len(split) and not split.entry(0).mask:
            raise DataError(f"{split.description} has no masks, which the task needs: expected "
                            f"data.source='masks' (any folder of images and masks), 'sceneparse' or "
                            f"'synthetic_scenes'.")
