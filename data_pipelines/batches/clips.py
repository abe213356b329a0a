"""One clip from file to array, for training and for evaluation, in the reference's order."""

import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.batches import sampling, transforms
from data_pipelines.batches.placing import Place
from data_pipelines.batches.targets import Targets
from data_pipelines.errors import DataError
from data_pipelines.sources.base import Source
from data_pipelines.video.reader import VideoReader

# What decides a training clip beside the video.
DECIDING = ("seed", "sampling", "num_frames", "frame_interval", "short_side", "short_sides", "train_crop",
            "crop", "snap_side", "flip", "quality", "randaugment", "randaugment_magnitude")


def train_clip(source: Source, options, targets: Targets, index: int,
               rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns one augmented training clip, uint8 (T, crop, crop, 3), and its targets.

    Args:
        source: where videos come from.
        options: the data configuration.
        targets: what comes with a clip.
        index: which video.
        rng: makes every random decision: frames, crop, flip, then targets.

    Raises:
        VideoError: the video cannot be read.
    """
    entry, reader = source.read(index)
    with reader:
        frames = reader.get(sampling.sample_train(options, reader.num_frames, rng, entry.key_frame),
                            functools.partial(transforms.small_frame, options.short_side))
    video, place = transforms.cut_for_training(options, frames, rng)
    return video, targets.at(place).train(entry, rng)


def fixed_clip(source: Source, options, targets: Targets, index: int,
               view: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns one of the training clips of a video that come again and again; see `train_clip`.

    Args:
        source, options, targets, index: as there.
        view: which of them; the clip is a pure function of `data.seed`, video and view.
    """
    rng = np.random.default_rng([options.seed, index, view])
    return train_clip(source, options, targets.of_clip(index, view), index, rng)


def eval_clip(source: Source, options, targets: Targets,
              index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns all views of one video, uint8 (V, T, size, size, 3), and its targets.

    Raises:
        VideoError: the video cannot be read.
    """
    entry, reader = source.read(index)
    with reader:
        video, places = _views_and_places(reader, options, entry.key_frame)
    return video, targets.at(places[0]).evaluate(entry)


def eval_views(reader: VideoReader, options, key_frame: int = -1) -> np.ndarray:
    """Returns all test views of an open video, uint8 (V, T, size, size, 3).

    Views are crop-major: all clips of the first crop, then of the next one.

    Args:
        reader: of the video.
        options: the data configuration.
        key_frame: that the clip is about, with data.sampling='around'; -1: the middle of the video.

    Raises:
        VideoError: a frame cannot be read.
    """
    return _views_and_places(reader, options, key_frame)[0]


def _views_and_places(reader, options, key_frame) -> tuple[np.ndarray, list[Place]]:
    """All test views, and the place of each crop."""
    indices = sampling.sample_test(options, reader.num_frames, key_frame)
    frames = _small_frames(reader, options, indices.reshape(-1))
    places = transforms.test_places(options, *frames.shape[1:3])
    views = [transforms.cut(frames, place, options.quality) for place in places]
    return np.concatenate([view.reshape(*indices.shape, *view.shape[1:]) for view in views]), places


def eval_frames(reader: VideoReader, options, positions, key_frame: int = -1) -> np.ndarray:
    """Returns some frames of the only test view of an open video, uint8 (n, size, size, 3).

    The frames `eval_views` would give at these positions of its T; others are not decoded.

    Raises:
        DataError: the configuration has several test views.
        VideoError: a frame cannot be read.
    """
    if num_views(options) != 1:
        raise DataError(f"{num_views(options)} test views a clip (data.test_clips, data.twice_sample, "
                        f"data.test_crop): frames can be read in parts for a single view only.")
    indices = sampling.sample_test(options, reader.num_frames, key_frame)[0]
    return transforms.crops_for_test(options, _small_frames(reader, options, indices[list(positions)]))[0]


def eval_crops(frame_HWC: np.ndarray, options) -> np.ndarray:
    """Returns what evaluation sees of one frame, uint8 (C, size, size, 3): its C test crops."""
    small = transforms.small_frame(options.test_short_side, frame_HWC)
    return np.concatenate(transforms.crops_for_test(options, small[None]))


def views_of_crops(crops: Sequence[np.ndarray], options) -> np.ndarray:
    """Returns what `eval_views` does, of a video whose frames are there as `eval_crops` makes them."""
    indices = sampling.sample_test(options, len(crops))
    return np.stack([np.stack([crops[i][c] for i in clip])
                     for c in range(len(crops[0])) for clip in indices.tolist()])


def _small_frames(reader: VideoReader, options, indices) -> np.ndarray:
    """Frames in the size of evaluation, one after the other: as stored, all views of a video may be GiB."""
    return reader.get(indices, functools.partial(transforms.small_frame, options.test_short_side))


def num_views(options) -> int:
    """V: crops times clips."""
    return transforms.num_test_crops(options) * sampling.num_test_clips(options)
