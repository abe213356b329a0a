"""`make_source`: the source of clips that a data configuration names.

Everything that can be wrong with a data set as a whole is found here, before anything is decoded.
"""

import types

from data_pipelines.errors import DataError
from data_pipelines.file_sources import FileSource, folder_source, list_source
from data_pipelines.options import check_choice
from data_pipelines.record_sources import ArrayRecordSource, TfdsSource
from data_pipelines.source import Entry, Source

__all__ = ["Entry", "FileSource", "Source", "make_source", "split_names"]


def make_source(config, split: str) -> Source:
    """Builds the source of one split.

    Args:
      config: the data configuration (`config.data`) as `options.plain_options` returns it.
      split: 'train', 'val', or another name NAME for which the configuration has a field NAME_list.

    Raises:
      DataError: see the sources; unknown data.source or split.
    """
    check_choice("source", config.source, _SOURCES)
    if config.source != "folder":
        check_choice("split", split, split_names(config), prefix="")
    return _SOURCES[config.source](config, split)


def split_names(config) -> list[str]:
    """Names of the splits of a configuration: all X for which it has a field X_list."""
    return [name.removesuffix("_list") for name in vars(config) if name.endswith("_list")]


def _synthetic_source(config, split):
    from data_pipelines import synthetic  # writes videos: not needed for anything else

    train_list, val_list, classes_file, root = synthetic.ensure_built(config)
    return list_source(types.SimpleNamespace(**{
        **vars(config), "train_list": str(train_list), "val_list": str(val_list),
        "classes_file": str(classes_file), "root": str(root), "list_format": "video",
        "multi_label": False, "num_classes": 0}), split)


_SOURCES = {
    "list": list_source,
    "folder": folder_source,
    "array_record": ArrayRecordSource,
    "tfds": TfdsSource,
    "synthetic": _synthetic_source,
}
