"""TFDS builders for videos that you provide: UCF-101, Something-Something V2, Mini-Kinetics.

    python -m data_pipelines.tfds_builders ucf101_frames --manual_dir=UCF101 --data_dir=tfds
    python main.py --config=... --config.data.source=tfds --config.data.root=tfds \\
        --config.data.tfds_name=ucf101_frames

Nothing is downloaded: the licences of these data sets want you to fetch them yourself. The builders
store JPEG frames (up to 32 evenly spread ones of short side 256) as byte strings in ArrayRecord
files, which needs no TensorFlow, neither to write nor to read; TFDS's own `Video` and `Image`
features would. Expected in --manual_dir:

    ucf101_frames
        UCF-101/<class>/*.avi, ucfTrainTestlist/classInd.txt and ucfTrainTestlist/trainlist01.txt,
        testlist01.txt (02, 03 for --config=split2, split3)
    something_something_v2_frames
        20bn-something-something-v2/<id>.webm and labels.json, train.json, validation.json, also in
        a folder labels/ and with names that begin with something-something-v2-
    mini_kinetics_frames
        train.txt, val.txt (lines `path label`, see make_list), classes.txt, and the videos

Videos that cannot be read are left out and named; more than 1 % of a split is an error. TFDS starts
from the beginning after an interruption; `to_array_record` continues, and its shards read faster.
"""

import abc
import argparse
import json
import os
import re
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.clip_lists import Dropped, list_items, reason_of
from data_pipelines.errors import DataError
from data_pipelines.sources.class_names import read_class_names
from data_pipelines.to_array_record import jpeg_record
from data_pipelines.tools import parallel, run_tool
from data_pipelines.video.decode import open_video

MAX_BROKEN_SHARE = 0.01


class _FramesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the builders share; each one knows its splits and its class names."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = __doc__
    SPLITS = {"train": "train", "val": "val"}
    NUM_CLASSES = 0
    DESCRIPTION = ""

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, description=self.DESCRIPTION, supervised_keys=None,
            features=tfds.features.FeaturesDict({
                "frames": tfds.features.Sequence(tfds.features.Text()),  # JPEG
                "label": tfds.features.ClassLabel(num_classes=self.NUM_CLASSES),
                "name": tfds.features.Text(),
                "fps": tfds.features.Scalar(dtype=np.float32),
                "num_frames": tfds.features.Scalar(dtype=np.int64),  # of the original video
            }))

    @abc.abstractmethod
    def class_names(self, folder: Path) -> list[str]:
        """Names of the classes in the order of their labels."""

    @abc.abstractmethod
    def clips(self, folder: Path, split: str) -> list[tuple[str, int]]:
        """(path relative to the folder, label) of every clip of a split."""

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir)
        self.info.features["label"].names = self.class_names(folder)
        return {split: self._generate_examples(folder, split) for split in self.SPLITS}

    def _generate_examples(self, folder, split):
        clips = self.clips(folder, split)
        dropped = Dropped(len(clips), MAX_BROKEN_SHARE)

        def read(clip):
            path, label = clip
            found = []

            def extract():
                with open_video(str(folder / path)) as reader:
                    found.append(jpeg_record(reader, path, (label,), max_frames=32, short_side=256,
                                             quality=90))
            return reason_of(extract), found

        results = parallel(read, clips, None, f"reading {split}", "clip")
        for (path, label), (reason, found) in zip(clips, results, strict=True):
            if reason:
                dropped.add(path, reason)
            else:
                yield path, {"frames": list(found[0].jpegs), "label": label, "name": path,
                             "fps": found[0].fps, "num_frames": found[0].num_frames}
        dropped.report()


class Ucf101Frames(_FramesBuilder):
    """UCF-101 with its three official splits as configs; the test list is the split 'val'."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"split{i}", description=f"official split {i}")
                       for i in (1, 2, 3)]
    NUM_CLASSES = 101
    DESCRIPTION = "UCF-101 (Soomro et al., 2012): 13,320 clips of 101 actions, as JPEG frames."
    SPLITS = {"train": "trainlist", "val": "testlist"}

    def class_names(self, folder):
        return read_class_names(_existing(folder / "ucfTrainTestlist/classInd.txt"))

    def clips(self, folder, split):
        names = self.class_names(folder)
        number = self.builder_config.name[-1]
        path = _existing(folder / f"ucfTrainTestlist/{self.SPLITS[split]}0{number}.txt")
        with open(path, encoding="utf-8") as file:
            videos = [line.split()[0] for line in file if line.strip()]  # `path [label]`
        return [(f"UCF-101/{video}", names.index(video.split("/")[0])) for video in videos]


class SomethingSomethingV2Frames(_FramesBuilder):
    """Something-Something V2; labels are the templates without their brackets."""

    NUM_CLASSES = 174
    DESCRIPTION = ("Something-Something V2 (Goyal et al., 2017): 193,690 labelled clips of 174 "
                   "actions with objects, as JPEG frames.")
    SPLITS = {"train": "train", "val": "validation"}

    def class_names(self, folder):
        labels = _something_json(folder, "labels")
        return sorted(labels, key=lambda name: int(labels[name]))

    def clips(self, folder, split):
        labels = {name: int(index) for name, index in _something_json(folder, "labels").items()}
        return [(f"20bn-something-something-v2/{clip['id']}.webm",
                 labels[re.sub(r"[\[\]]", "", clip["template"])])
                for clip in _something_json(folder, self.SPLITS[split])]


class MiniKineticsFrames(_FramesBuilder):
    """Mini-Kinetics: 200 classes of Kinetics-400, by the split files of AR-Net."""

    NUM_CLASSES = 200
    DESCRIPTION = "Mini-Kinetics: 200 classes of Kinetics-400 (Kay et al., 2017), as JPEG frames."

    def class_names(self, folder):
        return read_class_names(_existing(folder / "classes.txt"))

    def clips(self, folder, split):
        items = list_items(_existing(folder / f"{split}.txt"), str(folder), "video")
        return [(item.path, item.labels[0]) for item in items]


BUILDERS = {builder.name: builder
            for builder in (Ucf101Frames, SomethingSomethingV2Frames, MiniKineticsFrames)}


def _existing(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path} does not exist; `python -m data_pipelines.tfds_builders --help` "
                        f"says what --manual_dir must hold.")
    return str(path)


def _something_json(folder: Path, name: str):
    for candidate in (f"{name}.json", f"something-something-v2-{name}.json"):
        for parent in (folder, folder / "labels"):
            if (parent / candidate).is_file():
                return json.loads((parent / candidate).read_text(encoding="utf-8"))
    return json.loads(Path(_existing(folder / f"labels/{name}.json")).read_text(encoding="utf-8"))


def prepare(name: str, manual_dir: str, data_dir: str, config: str | None = None):
    """Prepares a data set and returns its builder.

    Args:
        name: key of `BUILDERS`.
        manual_dir: folder with the videos and their annotations.
        data_dir: the TFDS data_dir, data.root of a configuration.
        config: builder config; the first one by default.

    Raises:
        DataError: files are missing, or too many videos cannot be read.
    """
    builder = BUILDERS[name](data_dir=data_dir, config=config, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=os.path.abspath(manual_dir)))
    return builder


def main(argv=None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.tfds_builders", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(BUILDERS))
    parser.add_argument("--manual_dir", required=True, help="folder with videos and annotations")
    parser.add_argument("--data_dir", required=True, help="where to put the prepared data set")
    parser.add_argument("--config", help="builder config: split1, split2, split3 of ucf101_frames")
    args = parser.parse_args(argv)
    builder = prepare(args.name, args.manual_dir, args.data_dir, args.config)
    for split, info in builder.info.splits.items():
        print(f"{split}: {info.num_examples} clips")
    return 0


if __name__ == "__main__":
    run_tool(main)
