"""TFDS builders for the data sets that `data_pipelines.prepare` knows, over files that you provide.

    python -m data_pipelines.prepare ucf101 --raw=/big/ucf101
    python -m data_pipelines.tfds_builders ucf101_frames --manual_dir=data/ucf101 --data_dir=tfds
    python main.py --config=... --config.data.source=tfds --config.data.root=tfds \\
        --config.data.tfds_name=ucf101_frames

Nothing is downloaded: the licences of these data sets want you to fetch them yourself. --manual_dir is the
folder into which `prepare` wrote the lists; the videos are read where they lie. JPEG frames are stored (up to
32 evenly spread ones of short side 256) as byte strings in ArrayRecord files, which needs no TensorFlow,
neither to write nor to read; TFDS's own `Video` and `Image` features would. Of ADE20K images and masks are
stored as they are. Of J-HMDB videos and their classes: its boxes are read from the released files
(data.source='jhmdb'). Where there are several official splits, --config=split2 chooses one of them.

Videos that cannot be read are left out and named; more than 1 % of a split is an error. TFDS starts
from the beginning after an interruption; `to_array_record` continues, and its shards read faster.
"""

import argparse
import json
import os
import types
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.clip_lists import Dropped
from data_pipelines.errors import DataError, VideoError
from data_pipelines.prepare.__main__ import NAMES as PREPARED
from data_pipelines.prepare.__main__ import module_of
from data_pipelines.prepare.facts import Facts
from data_pipelines.sources.class_names import read_class_names
from data_pipelines.sources.images import sceneparse_source
from data_pipelines.sources.lists import read_list
from data_pipelines.to_array_record import jpeg_record
from data_pipelines.tools import parallel, run_tool
from data_pipelines.video import masks
from data_pipelines.video.decode import FrameFolder, open_video

MAX_BROKEN_SHARE = 0.01
_NAMES = {"something_v2": "something_something_v2", "mini_kinetics200": "mini_kinetics"}  # others: their own


class PreparedFrames(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The lists of one data set with JPEG frames; `BUILDERS` has a class for each, made from its facts.

    Splits are 'train' and 'val'. Features: `frames`, `label` (`labels` where a video may have several),
    `name`, `fps`, and `num_frames` of the original video.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = __doc__
    FACTS: Facts

    def _info(self):
        facts = self.FACTS
        label = tfds.features.ClassLabel(num_classes=facts.classes)
        return tfds.core.DatasetInfo(
            builder=self, homepage=facts.page.split()[0], supervised_keys=None,
            description=f"{facts.title}, {facts.classes} classes, as JPEG frames.",
            features=tfds.features.FeaturesDict({
                "frames": tfds.features.Sequence(tfds.features.Text()),  # JPEG
                **({"labels": tfds.features.Sequence(label)} if facts.multi_label else {"label": label}),
                "name": tfds.features.Text(),
                "fps": tfds.features.Scalar(dtype=np.float32),
                "num_frames": tfds.features.Scalar(dtype=np.int64),
                **self._more(),
            }))

    def _more(self) -> dict:
        """Further features."""
        return {}

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir)
        record = _existing(folder, f"{self.FACTS.name}_prepared.json")
        prepared = json.loads(record.read_text(encoding="utf-8"))
        if "root" not in prepared:
            raise DataError(f"{record} was written by an older version: run `python -m "
                            f"data_pipelines.prepare {self.FACTS.name}` again.")
        names = read_class_names(str(_existing(folder, f"{self.FACTS.name}_classes.txt")))
        if len(names) != self.FACTS.classes:
            raise DataError(f"{folder} has {len(names)} classes, {self.FACTS.title} has "
                            f"{self.FACTS.classes}: builders are for the whole data set. For a part of it "
                            f"use `python -m data_pipelines.to_array_record`.")
        label = self.info.features["labels" if self.FACTS.multi_label else "label"]
        getattr(label, "feature", label).names = names
        return {split: self._generate_examples(folder, split, prepared) for split in ("train", "val")}

    def _generate_examples(self, folder, split, prepared):
        key = f"{split}_{self.builder_config.name[-1]}" if self.BUILDER_CONFIGS else split
        root = os.path.join(prepared["root"], prepared["below"].get(key, ""))
        clips = self._clips(_existing(folder, self.FACTS.lists[key]), root)
        dropped = Dropped(len(clips), MAX_BROKEN_SHARE)

        def read(clip):
            try:
                return self._example(clip, root, prepared["template"])
            except VideoError as error:
                return error

        results = parallel(read, clips, None, f"reading {split}", "clip")
        for clip, found in zip(clips, results, strict=True):
            if isinstance(found, VideoError):
                dropped.add(clip.path, found.reason)
            else:
                yield clip.path, {"name": clip.path, **found}
        dropped.report()

    def _clips(self, path: Path, root: str) -> list:
        """The lines of a list."""
        facts = self.FACTS
        return read_list(str(path), "frames" if self._folders else "video", facts.multi_label, facts.classes,
                         root)

    @property
    def _folders(self) -> bool:
        """Whether clips are folders of images."""
        return self.FACTS.list_format != "video"

    def _example(self, clip, root: str, template: str) -> dict:
        """What is stored of a clip but its name.

        Raises:
            VideoError: it cannot be read.
        """
        path = os.path.join(root, clip.path)
        with (FrameFolder(path, clip.num_frames, template) if self._folders else open_video(path)) as reader:
            made = jpeg_record(reader, clip.path, clip.labels, max_frames=32, short_side=256, quality=90)
        return {"frames": list(made.jpegs), "fps": made.fps, "num_frames": made.num_frames,
                **({"labels": list(made.labels)} if self.FACTS.multi_label else {"label": made.labels[0]})}


class PreparedImages(PreparedFrames, skip_registration=True):
    """Images with a class for every pixel, as they were released: `frames` is the image, `mask` its mask.

    `labels` are the classes that occur in the mask, `mask_first` is the number of class 0 in it.
    """

    def _more(self):
        return {"mask": tfds.features.Text(), "mask_first": tfds.features.Scalar(dtype=np.int64)}

    def _clips(self, path, root):
        config = types.SimpleNamespace(source="sceneparse", root=root, train_list=str(path), classes_file="",
                                       num_classes=0, mask_first=0)
        source = sceneparse_source(config, "train", look=False)
        return [types.SimpleNamespace(path=os.path.relpath(source.path(i), root), entry=source.entry(i))
                for i in range(len(source))]

    def _example(self, clip, root, template):
        mask, first = clip.entry.mask, clip.entry.mask_first
        classes = np.unique(masks.read_classes(mask, self.FACTS.classes, first))
        image = Path(root, clip.path).read_bytes()
        open_video(image, clip.path).close()
        return {"frames": [image], "fps": 0.0, "num_frames": 1, "mask": Path(mask).read_bytes(),
                "mask_first": first, "labels": classes[classes != masks.UNLABELLED].tolist()}


def _builder(name: str) -> type[PreparedFrames]:
    """The class of one data set."""
    facts = module_of(name).FACTS
    name = f"{_NAMES.get(name, name)}_frames"
    base = PreparedImages if name == "ade20k_frames" else PreparedFrames
    splits = [tfds.core.BuilderConfig(name=f"split{key[-1]}", description=f"official split {key[-1]}")
              for key in facts.lists if key.startswith("train_")]
    return type(name, (base,), {"name": name, "FACTS": facts, "__module__": __name__, "__doc__": facts.title,
                                "BUILDER_CONFIGS": splits})


BUILDERS = {builder.name: builder for builder in map(_builder, PREPARED)}
globals().update(BUILDERS)  # where TFDS looks for the class of what it has prepared


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise DataError(f"{folder / name} does not exist: --manual_dir is the folder into which `python -m "
                        f"data_pipelines.prepare` wrote the lists.")
    return folder / name


def prepare(name: str, manual_dir: str, data_dir: str, config: str | None = None):
    """Prepares a data set and returns its builder.

    Args:
        name: key of `BUILDERS`.
        manual_dir: folder of the lists that `data_pipelines.prepare` wrote.
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
    parser.add_argument("--manual_dir", required=True, help="folder of the lists, --out of prepare")
    parser.add_argument("--data_dir", required=True, help="where to put the prepared data set")
    parser.add_argument("--config", help="builder config: split1, split2, split3 where there are several")
    args = parser.parse_args(argv)
    builder = prepare(args.name, args.manual_dir, args.data_dir, args.config)
    for split, info in builder.info.splits.items():
        print(f"{split}: {info.num_examples} clips")
    return 0


if __name__ == "__main__":
    run_tool(main)
