"""Video data for training, evaluation and prediction: files, folders, records → numpy arrays.

The names below are the door: nothing outside this package imports a module of it. Never imports jax: the
data can be read and timed alone.

    import data_pipelines
    split = data_pipelines.open_split(config.data, "val")
    with split.batches() as batches:
        for batch in batches:
            batch["video"]    # uint8 (B, V, T, H, W, 3)
    split.views(3)            # uint8 (V, T, H, W, 3), one video by its number
    data_pipelines.ClipReader(config.data).views("clip.mp4")    # any video
"""

import os

# Pictures of more pixels are not decoded (8192 x 8192). OpenCV reads it once, when it is imported first.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))

from data_pipelines.batches.box_targets import BoxTargets
from data_pipelines.batches.mask_targets import PixelClasses
from data_pipelines.batches.placing import Place
from data_pipelines.batches.stored import StoredRows, StoredTargets
from data_pipelines.batches.targets import ClassLabels, Targets
from data_pipelines.entry import Box, Entry
from data_pipelines.errors import DataError, VideoError
from data_pipelines.fields import Field, shown
from data_pipelines.names import printable
from data_pipelines.options import FIELDS as data_fields
from data_pipelines.options import check_config, check_fields
from data_pipelines.tools import decoding_threads, in_order, memory_bytes

__all__ = ["Box", "BoxTargets", "ClassLabels", "ClipReader", "DataError", "Entry", "Field", "PixelClasses",
           "Place", "Split", "Stage", "StoredRows", "StoredTargets", "Targets", "VideoError", "cache_for",
           "check_config", "check_fields", "data_fields", "decoding_threads", "frame_writer", "in_order",
           "is_stream", "made_clips", "make_engine", "make_pipeline", "memory_bytes", "num_views",
           "number_of_camera", "open_split", "printable", "run_engine", "shown", "write_benchmark",
           "write_frames"]


def __getattr__(name: str):
    """The other names are imported when they are asked for: what decodes videos takes long to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from data_pipelines.batches.cache import cache_for
    from data_pipelines.clip_reader import ClipReader, is_stream, number_of_camera
    from data_pipelines.engine import Stage, make_engine, run
    from data_pipelines.split import Split, make_pipeline, num_views, open_split
    from data_pipelines.synthetic import build, made_clips
    from data_pipelines.video.writer import frame_writer, write_frames

    return {"ClipReader": ClipReader, "Split": Split, "Stage": Stage, "cache_for": cache_for,
            "frame_writer": frame_writer, "is_stream": is_stream, "made_clips": made_clips,
            "make_engine": make_engine, "make_pipeline": make_pipeline, "num_views": num_views,
            "number_of_camera": number_of_camera, "open_split": open_split, "run_engine": run,
            "write_benchmark": build, "write_frames": write_frames}[name]
