"""Checks of the data pipeline and of the metrics against reference numbers (kinds sample_frames,
geometry and metrics; the row formats are in the notes of the files).

Every check returns (error, message): the largest absolute difference, and what differs first beyond
its tolerance ('' if the case passes). Integers must be equal, metrics agree to 1e-12, per-class
values (stored with 12 digits) to 1e-11, normalised pixels to 1e-6, resized uint8 pixels to 1 level.
"""

import numpy as np

from data_pipelines.batches import sampling, transforms
from effvid_jax import metrics


class _Differences:
    """Collects the largest difference and the first one beyond its tolerance."""

    def __init__(self):
        self.error, self.message = 0.0, ""

    def compare(self, what, ours, expected, tolerance=0.0):
        ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
        if ours.shape != expected.shape:
            error = float("inf")
        elif not np.array_equal(np.isnan(ours), np.isnan(expected)):
            error = float("inf")
        else:
            error = float(np.max(np.nan_to_num(np.abs(ours - expected)), initial=0.0))
        self.error = max(self.error, error)
        if error > tolerance and not self.message:
            self.message = f"{what}: got {_short(ours)}, expected {_short(expected)}"

    def result(self):
        return self.error, self.message


class _Extreme:
    """Stands in for a Generator: every integer is the smallest or the largest possible one."""

    def __init__(self, largest: bool):
        self._largest = largest

    def integers(self, low, high, size):
        return np.full(size, high - 1 if self._largest else low)


def check_sample_frames(case: dict) -> tuple[float, str]:
    """Frame indices of SampleFrames (test and train) and DenseSampleFrames (test)."""
    found = _Differences()
    for row in case.get("test", []):
        total, clip_len, interval, clips, twice, out_of_bound, start, expected = row
        offsets = sampling.test_offsets(total, clip_len, interval, clips, bool(twice))
        ours = sampling.clip_indices(offsets, clip_len, interval, total, out_of_bound) + start
        found.compare(f"test {row[:7]}", ours.reshape(-1), expected)
    for row in case.get("train", []):
        for largest, expected in ((False, row[5]), (True, row[6])):
            ours = sampling.train_offsets(*row[:4], _Extreme(largest))
            found.compare(f"train {row[:5]}", ours, expected)
    for row in case.get("dense_test", []):
        total, clip_len, interval, clips, sample_range, positions, expected = row
        offsets = sampling.dense_test_offsets(total, clips, sample_range, positions)
        ours = sampling.clip_indices(offsets, clip_len, interval, total)
        found.compare(f"dense_test {row[:6]}", ours.reshape(-1), expected)
    return found.result()


def check_geometry(case: dict) -> tuple[float, str]:
    """Sizes, boxes, resized pixels, normalised pixels."""
    found = _Differences()
    for height, width, short, *expected in case.get("resize_short", []):
        found.compare(f"resize_short {height}x{width} to {short}",
                      transforms.short_side_size(height, width, short), expected)
    for height, width, size, *expected in case.get("center_crop", []):
        left, top, w, h = transforms.center_box(height, width, size)
        ours = (left, top, left + w, top + h)
        found.compare(f"center_crop {height}x{width} {size}", ours, expected)
    for height, width, size, *expected in case.get("three_crop", []):
        ours = [box[:2] for box in transforms.three_boxes(height, width, size)]
        found.compare(f"three_crop {height}x{width} {size}", ours, expected)
    for height, width, target, sizes, crops in case.get("multi_scale_crop", []):
        what = f"multi_scale_crop {height}x{width} {target}"
        ours = transforms.multi_scale_sizes(height, width)
        found.compare(f"{what} sizes", ours, sizes)
        for size, (snapped, offsets) in zip(ours, crops, strict=True):
            ours_snapped = transforms.snap_size(size, target)
            found.compare(f"{what} size {size}", ours_snapped, snapped)
            found.compare(f"{what} offsets of {size}",
                          transforms.multi_scale_offsets(height, width, ours_snapped), offsets)
    for row in case.get("resize_uint8", []):
        image = np.array(row["input"], np.uint8).reshape(row["input_shape_hwc"])
        shape = row["output_shape_hwc"]
        ours = transforms.resize(image[None], *shape[:2])[0]
        found.compare(f"resize_uint8 {image.shape} to {shape}", ours,
                      np.reshape(row["output"], shape), tolerance=1)
    if "normalize" in case:
        row = case["normalize"]
        image = np.array(row["input"], np.uint8).reshape(row["input_shape_hwc"])
        ours = transforms.normalize(image, row["mean"], row["std"])
        found.compare("normalize", ours.reshape(-1), row["output"], tolerance=1e-6)
    return found.result()


def check_metrics(case: dict) -> tuple[float, str]:
    """Top-k, mean class accuracy, confusion matrix, mAP and sample-wise mAP."""
    found = _Differences()
    for part in case["cases"]:
        what = f"seed {part['seed']}"
        scores, labels = np.array(part["scores"], np.float64), np.array(part["labels"])
        multi_hot = np.eye(scores.shape[1])[labels] if labels.ndim == 1 else labels
        ours = {
            "map": metrics.mean_average_precision(scores, multi_hot),
            "mmit_map": metrics.mmit_mean_average_precision(scores, multi_hot),
            "per_class_ap": [metrics.average_precision(s, y)
                             for s, y in zip(scores.T, multi_hot.T, strict=True)],
        }
        ours["map_one_hot"], ours["mmit_map_one_hot"] = ours["map"], ours["mmit_map"]
        if labels.ndim == 1:
            predicted = scores.argmax(axis=1)
            ours["mean_class_accuracy"] = metrics.mean_class_accuracy(scores, labels)
            ours["confusion_matrix_present_labels"] = metrics.confusion_matrix(predicted, labels)
            for k, expected in part.get("top_k", {}).items():
                found.compare(f"{what} top {k}", metrics.top_k_accuracy(scores, labels, int(k)),
                              expected, tolerance=1e-12)
        for name in ours.keys() & part.keys():
            expected = np.array(part[name], np.float64)  # None becomes NaN
            tolerance = 1e-11 if name == "per_class_ap" else 1e-12
            found.compare(f"{what} {name}", ours[name], expected, tolerance)
    return found.result()


def _short(array) -> str:
    text = np.array2string(array.reshape(-1), threshold=8, separator=",")
    return f"{text} {array.shape}" if array.ndim > 1 else text
