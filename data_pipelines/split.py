"""One split of a data set: all its videos in batches, or a single one by its number."""

import hashlib

import numpy as np

from data_pipelines.batches import clips, sampling, transforms
from data_pipelines.batches.cache import cached
from data_pipelines.batches.targets import ClassLabels, NoTargets, Targets
from data_pipelines.entry import Entry
from data_pipelines.options import check_options, plain_options
from data_pipelines.sources import Source, make_source
from data_pipelines.sources.broken import BrokenFiles


def open_split(data_config, name: str, targets: Targets | None = None, *,
               process_count: int = 1) -> "Split":
    """Opens a split: everything that can be wrong with configuration and data set is found here.

    Args:
        data_config: `config.data`.
        name: 'train', 'val', or another split that the configuration names.
        targets: what a batch holds beside its videos; the classes of the data set by default.
        process_count: number of processes that will share its batches.

    Raises:
        DataError: the configuration or the data set cannot be used; nothing was decoded yet.
    """
    options = plain_options(data_config)
    check_options(options, process_count)
    return Split(name, options, make_source(options, name), targets)


def make_pipeline(data_config, split: str, *, start_step: int = 0, process_index: int = 0,
                  process_count: int = 1):
    """Batches of a split with the classes as targets: `open_split` and `Split.batches` in one.

    Args:
        data_config: `config.data`.
        split: name of the split.
        start_step, process_index, process_count: see `Split.batches`.

    Raises:
        DataError: as `open_split`.
    """
    return open_split(data_config, split, process_count=process_count).batches(
        start_step, process_index, process_count)


def num_views(data_config) -> int:
    """V, of every video in evaluation, as `config.data` says.

    Raises:
        DataError: a field is missing.
    """
    return clips.num_views(plain_options(data_config))


class Split:
    """The videos of a split, by number; made by `open_split`.

    What is read by number may be read in threads; a video that cannot be read is a `VideoError`, which the
    caller adds to `broken`. Batches count their own broken videos.

    Attributes:
        name: of the split.
        targets: what a batch holds beside its videos.
        class_names: name of every class of the data set.
        description: where the videos come from, for messages.
        check_command: shell command that decodes every video and lists the broken ones.
        num_views: V, of every video in evaluation.
        clip_shape: (V, T, side) of a video in evaluation.
        broken: counts videos that cannot be read by number; `add` raises `DataError` for too many.
    """

    def __init__(self, name: str, options, source: Source, targets: Targets | None = None):
        self.name, self._options, self._source = name, options, source
        self._reading = cached(source, options, "test_short_side")
        self.class_names = source.class_names
        self.description, self.check_command = source.description, source.check_command
        self.num_views = clips.num_views(options)
        self.clip_shape = (self.num_views, options.num_frames, options.test_crop_size)
        self.broken = BrokenFiles(source, name, options.max_broken_share)
        if targets is None:
            targets = ClassLabels(len(source.class_names), options.multi_label)
        self.targets = targets
        self.targets.check(self)

    def with_targets(self, targets: Targets) -> "Split":
        """The same videos with other targets, such as those of a task that had to know the classes first.

        Raises:
            DataError: the data set cannot give them.
        """
        return Split(self.name, self._options, self._source, targets)

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._source)

    def entry(self, index: int) -> Entry:
        """Name and labels of a video; it is not opened."""
        return self._source.entry(index)

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in a pass over the videos, at least 1."""
        return max(1, len(self) // self._options.batch_size)

    def batches(self, start_step: int = 0, process_index: int = 0, process_count: int = 1,
                training: bool | None = None, skip: int = 0):
        """Batches of numpy arrays, read ahead in threads or processes: a `Batches`, to be closed.

        'train' goes on for ever, shuffled and augmented; every other split is read once, in order, all
        views of every video.

        Args:
            start_step: number of the first batch; nothing before it is read.
            process_index, process_count: this process gets its contiguous share of the rows of every
                global batch.
            training: False reads 'train' as any other split is read; by default only 'train' trains.
            skip: batch k of 'train' begins so many clips after k times the batch size, see `Batches`.

        Raises:
            DataError: batches that cannot be divided among the processes.
        """
        from data_pipelines.batches.pipeline import Batches  # grain is slow to import

        check_options(self._options, process_count)
        return Batches(self._source, self._options, self.name, self.targets, start_step, process_index,
                       process_count, training, skip)

    def views(self, index: int) -> np.ndarray:
        """All views of a video in evaluation, uint8 (V, T, side, side, 3).

        Raises:
            VideoError: it cannot be read.
        """
        entry, reader = self._reading.read(index)
        with reader:
            return clips.eval_views(reader, self._options, entry.key_frame)

    def frames(self, index: int, positions) -> np.ndarray:
        """Some frames of the only view of a video, uint8 (n, side, side, 3); others are not decoded.

        Args:
            index: which video.
            positions: of the frames among the T of the view, (n,).

        Raises:
            DataError: the configuration has several views.
            VideoError: a frame cannot be read.
        """
        entry, reader = self._reading.read(index)
        with reader:
            return clips.eval_frames(reader, self._options, positions, entry.key_frame)

    def fixed_clip(self, index: int, view: int) -> np.ndarray:
        """One of the training clips of a video with `data.fixed_views`, uint8 (T, crop, crop, 3).

        Raises:
            VideoError: it cannot be read.
        """
        return clips.fixed_clip(self._source, self._options, NoTargets(), index, view)[0]

    def clips_identity(self) -> dict[str, object]:
        """What decides the training clips that come again: the same here, the same clips; plain values."""
        names = hashlib.sha256()
        for index in range(len(self)):
            names.update(f"{self.entry(index).name}\0".encode("utf-8", "surrogatepass"))
        fields = {name: getattr(self._options, name) for name in clips.DECIDING}
        return {"videos": len(self), "names": names.hexdigest(), **{
            name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}}

    def test_frames(self, index: int) -> np.ndarray:
        """The frames of the first view as they are stored, uint8 (T, H, W, 3); never from the cache.

        Raises:
            VideoError: a frame cannot be read.
        """
        entry, reader = self._source.read(index)
        with reader:
            return reader.get(sampling.sample_test(self._options, reader.num_frames, entry.key_frame)[0])

    def overview(self, index: int, count: int, short_side: int) -> np.ndarray:
        """Frames spread evenly over a video, or the clip around a key frame, uint8 (count, H, W, 3).

        An image, a video of one frame, is shown once: (1, H, W, 3). Larger frames are shrunk to `short_side`,
        smaller ones stay as they are.

        Raises:
            VideoError: a frame cannot be read.
        """
        entry, reader = self._source.read(index)
        with reader:
            chosen = np.arange(reader.num_frames)
            if entry.key_frame >= 0:
                chosen = sampling.sample_test(self._options, reader.num_frames, entry.key_frame)[0]
            shown = count if len(chosen) > 1 else 1
            frames = reader.get(chosen[np.linspace(0, len(chosen) - 1, shown).astype(int)])
        larger = min(frames.shape[1:3]) > short_side
        return transforms.resize_short_side(frames, short_side) if larger else frames
