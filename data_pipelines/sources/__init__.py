"""Which videos a split has, with their labels: lists and folders (`files.py`, `lists.py`), shards and TFDS
(`shards.py`), the embedded benchmark; `choose.py` picks by `config.data.source`. Broken ones: `broken.py`."""

from data_pipelines.sources.base import Entry, Source
from data_pipelines.sources.choose import make_source, split_names
from data_pipelines.sources.files import FileSource

__all__ = ["Entry", "FileSource", "Source", "make_source", "split_names"]
