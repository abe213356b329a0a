"""`make_source`: the source of videos that a data configuration names.

Everything that can be wrong with a data set as a whole is found here, before anything is decoded.
"""

import copy

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.options import Options, check_choice, check_synthetic
from data_pipelines.sources.base import Source
from data_pipelines.sources.box_files import box_source
from data_pipelines.sources.files import folder_source, list_source
from data_pipelines.sources.images import masks_source, sceneparse_source
from data_pipelines.sources.jhmdb import jhmdb_source
from data_pipelines.sources.shards import ArrayRecordSource, TfdsSource


def make_source(config: Options, split: str) -> Source:
    """Builds the source of one split.

    Args:
        config: the data configuration (`config.data`) as `options.plain_options` returns it.
        split: 'train', 'val', or another name NAME for which the configuration has a field NAME_list.
            With data.calib_share also 'calib': that share of 'train', which is then without it.

    Raises:
        DataError: see the sources; unknown data.source or split; nothing to hold out.
    """
    check_choice("source", config.source, _SOURCES)
    if config.calib_share and split in ("train", "calib"):
        source = _SOURCES[config.source](config, "train")
        return HeldOut(source, config.calib_share, config.split_seed, split == "calib")
    if split == "calib" and config.source != "folder" and not hasattr(config, "calib_list"):
        raise DataError("split 'calib' (videos to choose thresholds on): set data.calib_share to the share "
                        "of the training clips to hold out for it, such as 0.05.")
    if config.source != "folder":
        check_choice("split", split, split_names(config), prefix="")
    return _SOURCES[config.source](config, split)


class HeldOut(Source):
    """One side of a split of another source in two: the share that is held out, or the rest.

    Which videos are held out depends on the seed and their number alone.
    """

    def __init__(self, source: Source, share: float, seed: int, held_out: bool):
        count = round(share * len(source))
        if not 0 < count < len(source):
            raise DataError(f"data.calib_share={share} holds out {count} of {len(source)} training clips "
                            f"for calibration: set a share between 0 and 1 that leaves some for both.")
        order = np.random.default_rng([seed, len(source)]).permutation(len(source))
        self._source = source
        self._indices = np.sort(order[:count] if held_out else order[count:])
        self.class_names = source.class_names
        self.description = (f"{source.description} ({'held-out part' if held_out else 'the rest'} by "
                            f"data.calib_share={share})")
        self.check_command = source.check_command

    def __len__(self):
        return len(self._indices)

    def entry(self, index):
        return self._source.entry(int(self._indices[index]))

    def open(self, index):
        return self._source.open(int(self._indices[index]))

    def read(self, index):
        return self._source.read(int(self._indices[index]))

    def key(self, index):
        return self._source.key(int(self._indices[index]))


def split_names(config: Options) -> list[str]:
    """Names of the splits of a configuration: all X for which it has a field X_list."""
    return [name.removesuffix("_list") for name in vars(config) if name.endswith("_list")]


def _synthetic_source(config, split):
    from data_pipelines import synthetic  # writes videos: not needed for anything else
    from data_pipelines.synthetic import moments

    check_synthetic(config)
    kind = moments if config.source == "synthetic_moments" else synthetic
    train_list, val_list, classes_file, root = kind.ensure_built(config)
    config = copy.copy(config)
    vars(config).update(train_list=str(train_list), val_list=str(val_list), root=str(root),
                        classes_file=str(classes_file), list_format="video", multi_label=False, num_classes=0)
    return list_source(config, split)


def _synthetic_boxes(config, split):
    from data_pipelines.synthetic import boxes

    check_synthetic(config)
    built = boxes.ensure_built(config)
    config = copy.copy(config)
    vars(config).update(source="boxes", train_list=f"{built}/train.csv", val_list=f"{built}/val.csv",
                        root=str(built), classes_file=f"{built}/classes.txt", list_format="video",
                        num_classes=0)
    return box_source(config, split)


def _scenes_source(config, split):
    from data_pipelines.synthetic import scenes

    check_synthetic(config)
    config = copy.copy(config)
    root = scenes.ensure_built(config)
    vars(config).update(root=str(root), classes_file=str(root / "classes.txt"), mask_first=0)
    return masks_source(config, split)


IMAGE_SOURCES = ("masks", "sceneparse", "synthetic_scenes")  # whose examples are images
_SOURCES = {
    "list": list_source,
    "folder": folder_source,
    "array_record": ArrayRecordSource,
    "tfds": TfdsSource,
    "synthetic": _synthetic_source,
    "synthetic_moments": _synthetic_source,
    "boxes": box_source,
    "jhmdb": jhmdb_source,
    "synthetic_boxes": _synthetic_boxes,
    "masks": masks_source,
    "sceneparse": sceneparse_source,
    "synthetic_scenes": _scenes_source,
}
