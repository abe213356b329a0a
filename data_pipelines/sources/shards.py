"""Videos in ArrayRecord shards, and TFDS data sets stored as ArrayRecord; without TensorFlow."""

import bisect
import contextlib
import glob
import os
import time

import numpy as np

from data_pipelines.errors import DataError, VideoError
from data_pipelines.names import printable
from data_pipelines.sources.base import Entry, Source, check_command, shorten
from data_pipelines.sources.files import missing_file_error, split_root, warn_of_labels
from data_pipelines.video import records
from data_pipelines.video.decode import ArrayFrames, JpegRecord, open_record, open_video

_SECONDS = 20.0  # for which the labels of a TFDS data set are looked at
_LOOKED_AT: set[tuple[str, str, str]] = set()  # splits are opened more than once


class ArrayRecordSource(Source):
    """The videos of all shards that match `config.<split>_list` (a glob pattern under data.root).

    Raises:
        DataError: no shards, unfinished shards, or classes that do not fit the configuration.
    """

    def __init__(self, config, split: str):
        root, field = split_root(config, split)
        pattern = os.path.join(glob.escape(root), getattr(config, f"{split}_list") or f"{split}-*")
        paths = sorted(path for path in glob.glob(pattern) if not path.endswith(".incomplete"))
        if not paths:
            raise missing_file_error([f"{pattern} (data.{split}_list)"], config, "shards")
        self.description = f"the shards {pattern} (data.{split}_list under {field})"
        self.check_command = check_command(shards=pattern)
        self._paths, self._shards, self._entries, self._first = paths, [], [], [0]
        for path in paths:
            shard, index = _open_shard(path)
            self._shards.append(shard)
            self._entries += [Entry(printable(name), tuple(labels))
                              for name, labels in zip(index["names"], index["labels"], strict=True)]
            self._first.append(len(self._entries))
            if index["classes"] != getattr(self, "class_names", index["classes"]):
                raise DataError(f"{path} has other class names than {paths[0]}: shards of "
                                f"different data sets match {pattern}. Make data.{split}_list more "
                                f"specific.")
            self.class_names = index["classes"]
        self.class_names = [printable(name) for name in self.class_names]
        _check_num_classes(self, config)
        warn_of_labels(self._entries, self.class_names, self.description, split)

    def __len__(self):
        return len(self._entries)

    def entry(self, index):
        return self._entries[index]

    def open(self, index):
        shard, position = self._locate(index)
        name = self._entries[index].name
        try:
            value = self._shards[shard][position]
        except (RuntimeError, OSError) as error:  # e.g. the stored hash of a chunk does not match
            raise VideoError(name, f"record {position} of {self._paths[shard]} is damaged "
                                   f"({error})") from None
        return open_record(value, name)

    def key(self, index):
        shard, position = self._locate(index)
        return (os.path.abspath(self._paths[shard]), os.stat(self._paths[shard]).st_mtime_ns,
                position)

    def _locate(self, index):
        shard = bisect.bisect(self._first, index) - 1
        return shard, index - self._first[shard]


class TfdsSource(Source):
    """A split of a TFDS data set that was prepared with `file_format='array_record'`.

    Features: `video` (or `frames`): the bytes of a video file (`Text`), a sequence of JPEG or PNG
    bytes (`Sequence(Text)`), or decoded frames (T, H, W, 3) uint8; `label` (or `labels`): a
    `ClassLabel` or a sequence of them; `name` (or `id`, `filename`), `fps`, and `mask` (the bytes of an
    image) with `mask_first`, if there are any.

    Raises:
        DataError: no such data set or split under data.root, features that are not these, or classes
            that do not fit the configuration.
    """

    def __init__(self, config, split: str):
        import tensorflow_datasets as tfds  # only for this source

        self._split = getattr(config, f"{split}_list") or split
        self._root, field = split_root(config, split)
        self._name = config.tfds_name
        what = f"data.tfds_name='{self._name}' under {field}='{self._root}'"
        self.description = f"split '{self._split}' (data.{split}_list) of {what}"
        self.check_command = check_command(tfds=self._name, root=self._root, split=self._split)
        if not self._name:
            raise DataError("data.tfds_name is empty: data.source='tfds' needs the name of a data "
                            "set prepared under data.root, e.g. 'ucf101_frames'.")
        try:
            builder = tfds.builder(self._name, data_dir=self._root)
        except (tfds.core.DatasetNotFoundError, ModuleNotFoundError) as error:
            reason = (f"TFDS needs the module '{error.name}' for it"
                      if isinstance(error, ModuleNotFoundError) else "TFDS finds no such data set")
            found = sorted(os.listdir(self._root)) if os.path.isdir(self._root) else []
            raise DataError(
                f"{what}: {reason}. data.root must be the TFDS data_dir, in which `tfds build "
                f"--file_format=array_record` has prepared the data set (it contains: "
                f"{shorten(found) or 'nothing'}).") from None
        try:
            self._data = builder.as_data_source(split=self._split)
        except (ValueError, AssertionError, FileNotFoundError, NotImplementedError) as error:
            # The last one is TFDS's own, for files in a format without random access.
            raise DataError(
                f"{self.description} cannot be read ({str(error).splitlines()[0]}). Splits that "
                f"exist: {sorted(builder.info.splits)}; the files must be in array_record format "
                f"(`tfds build --file_format=array_record`).") from None
        features = builder.info.features
        self._video = _first_of(("video", "frames"), features, what)
        self._label = _first_of(("label", "labels"), features, what)
        self._title = next((key for key in ("name", "id", "filename") if key in features), None)
        label = features[self._label]
        label = getattr(label, "feature", label)
        if getattr(label, "num_classes", None) is None:
            raise DataError(f"{what}: feature '{self._label}' is {label}, not a ClassLabel, so the "
                            f"number of classes is not known. Build the data set with ClassLabel.")
        self.class_names = list(label.names)
        _check_num_classes(self, config)
        if split == "train":
            self._look_at_labels(split)

    def _look_at_labels(self, split):
        """Warns as for lists of labels that never occur. TFDS gives a label with its whole video only.

        So clips are read in random order until every label was seen, which those of a sound data set are
        soon, or for `_SECONDS`; what is missing then is told if every label should have come often.
        """
        if (what := (os.path.abspath(self._root), self._name, self._split)) in _LOOKED_AT:
            return
        _LOOKED_AT.add(what)
        count, end, found, seen = len(self.class_names), time.monotonic() + _SECONDS, [], set()
        for index in np.random.default_rng(0).permutation(len(self)):
            if len(seen) == count or time.monotonic() > end:
                break
            with contextlib.suppress(RuntimeError, OSError):  # a damaged record: told when it is its turn
                found.append(entry := self.entry(int(index)))
                if not self._is_labelled(entry):
                    raise DataError(f"{self.description}: clip {entry.name} has labels {list(entry.labels)}, "
                                    f"not all within its {count} classes. Leave such clips out of the split, "
                                    f"or build the data set again.")
                seen.update(entry.labels)
        if len(found) == len(self):
            warn_of_labels(found, self.class_names, self.description, split)
        elif len(found) >= 20 * count:
            where = f"{self.description}, {len(found):,} of {len(self):,} clips in random order"
            warn_of_labels(found, self.class_names, where, split)

    def _is_labelled(self, entry):
        return bool(entry.labels) and all(0 <= label < len(self.class_names) for label in entry.labels)

    def __len__(self):
        return len(self._data)

    def entry(self, index):
        return self._entry(index, self._data[index])

    def open(self, index):
        return self.read(index)[1]

    def read(self, index):
        try:
            example = self._data[index]
        except (RuntimeError, OSError) as error:
            raise VideoError(f"{self._name}[{index}]", f"record is damaged ({error})") from None
        entry = self._entry(index, example)
        if not self._is_labelled(entry):
            raise VideoError(entry.name, f"labels {list(entry.labels)}, not within the "
                                         f"{len(self.class_names)} classes of the data set")
        video, fps = example[self._video], float(example.get("fps", 0.0))
        if isinstance(video, bytes):
            return entry, open_video(video, entry.name)
        if len(video) == 0:
            raise VideoError(entry.name, "no frames")
        if isinstance(video, np.ndarray) and video.ndim == 4:
            return entry, ArrayFrames(video, fps)
        count = len(video)
        return entry, JpegRecord(records.Record(
            entry.name, entry.labels, fps, count, jpegs=tuple(video),
            frame_indices=tuple(range(count))))

    def key(self, index):
        return ("tfds", os.path.abspath(self._root), self._name, self._split, index)

    def _entry(self, index, example):
        name = f"{self._name}[{index}]"
        if self._title:
            title = example[self._title]
            name = title.decode(errors="replace") if isinstance(title, bytes) else str(title)
        labels = np.atleast_1d(np.asarray(example[self._label], np.int64))
        return Entry(name, tuple(labels.tolist()), mask=example.get("mask", ""),
                     mask_first=int(example.get("mask_first", 0)))


def _open_shard(path):
    """Returns the random-access shard and its index (see `records.py`)."""
    from array_record.python import array_record_data_source  # only for this source

    try:
        shard = array_record_data_source.ArrayRecordDataSource([path])
        last_value = shard[len(shard) - 1] if len(shard) else b""
    except (RuntimeError, OSError) as error:
        raise DataError(f"{path} is not a complete ArrayRecord file ({error or 'damaged'}). Write "
                        f"it again with `python -m data_pipelines.to_array_record`.") from None
    return shard, records.read_index(path, last_value)


def _first_of(names, features, what):
    found = next((name for name in names if name in features), None)
    if found is None:
        raise DataError(f"{what} has no feature {' or '.join(map(repr, names))}, only "
                        f"{sorted(features)}. Build it with the features that "
                        f"data_pipelines/sources/shards.py describes.")
    return found


def _check_num_classes(source, config):
    if len(source) == 0:
        raise DataError(f"{source.description} holds no clips.")
    count = len(source.class_names)
    if config.num_classes and config.num_classes != count:
        raise DataError(f"{source.description} has {count} classes, but data.num_classes="
                        f"{config.num_classes}. Use data.num_classes={count} (or 0: take what is "
                        f"there).")
    if isinstance(source, ArrayRecordSource):
        for i in range(len(source)):
            entry = source.entry(i)
            if not entry.labels or not all(0 <= label < count for label in entry.labels):
                raise DataError(f"{source.description}: clip {entry.name} has labels {list(entry.labels)}, "
                                f"not all within its {count} classes. Write the shards again.")
