"""One clip from file to array, for training and for evaluation, in the reference's order."""

import numpy as np

from data_pipelines.batches import sampling, transforms
from data_pipelines.errors import DataError
from data_pipelines.sources.base import Entry, Source
from data_pipelines.video.reader import VideoReader


def train_clip(source: Source, options, index: int,
               rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Returns one augmented training clip and its label.

    Args:
      source: where clips come from.
      options: the data configuration.
      index: which clip.
      rng: makes every random decision: frames, crop, flip, then label.

    Returns:
      video uint8 (T, crop, crop, 3); label. With several labels one of the distinct ones is drawn
      on every access, which is what the reference trains on.

    Raises:
      VideoError: the clip cannot be read.
    """
    entry, reader = source.read(index)
    with reader:
        frames = reader.get(sampling.sample_train(options, reader.num_frames, rng))
    video = transforms.augment_train(options, frames, rng)
    labels = distinct_labels(entry, options, len(source.class_names))
    return video, labels[rng.integers(len(labels))] if len(labels) > 1 else labels[0]


def eval_clip(source: Source, options, index: int) -> tuple[np.ndarray, list[int]]:
    """Returns all views of one clip, uint8 (V, T, size, size, 3), and its distinct labels.

    Raises:
      VideoError: the clip cannot be read.
    """
    entry, reader = source.read(index)
    with reader:
        video = eval_views(reader, options)
    return video, distinct_labels(entry, options, len(source.class_names))


def eval_views(reader: VideoReader, options) -> np.ndarray:
    """Returns all test views of an open video, uint8 (V, T, size, size, 3).

    Views are crop-major: all clips of the first crop, then of the next one.

    Raises:
      VideoError: a frame cannot be read.
    """
    indices = sampling.sample_test(options, reader.num_frames)
    crops = transforms.crops_for_test(options, reader.get(indices.reshape(-1)))
    return np.concatenate([frames.reshape(*indices.shape, *frames.shape[1:]) for frames in crops])


def eval_frames(reader: VideoReader, options, positions) -> np.ndarray:
    """Returns some frames of the only test view of an open video, uint8 (n, size, size, 3).

    The frames `eval_views` would give at these positions of its T; others are not decoded.

    Raises:
      DataError: the configuration has several test views.
      VideoError: a frame cannot be read.
    """
    if num_views(options) != 1:
        raise DataError(f"{num_views(options)} test views a clip (data.test_clips, data.twice_sample, "
                        f"data.test_crop): frames can be read in parts for a single view only.")
    indices = sampling.sample_test(options, reader.num_frames)[0]
    return transforms.crops_for_test(options, reader.get(indices[list(positions)]))[0]


def num_views(options) -> int:
    """V: crops times clips."""
    return transforms.num_test_crops(options) * sampling.num_test_clips(options)


def distinct_labels(entry: Entry, options, num_classes: int) -> list[int]:
    """The sorted distinct labels of a clip.

    Raises:
      DataError: no label, a label out of range, or several without data.multi_label.
    """
    labels = sorted(set(entry.labels))
    if not labels or labels[0] < 0 or labels[-1] >= num_classes:
        raise DataError(f"{entry.name}: labels {list(entry.labels)} are not within 0 to "
                        f"{num_classes - 1}, the {num_classes} classes of the data set.")
    if len(labels) > 1 and not options.multi_label:
        raise DataError(f"{entry.name} has the labels {labels}, but data.multi_label=False. Set "
                        f"data.multi_label=True (training then draws one of them at random).")
    return labels
