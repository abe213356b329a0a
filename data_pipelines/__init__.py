"""Video data for training and evaluation: files, folders, records → batches of numpy arrays.

Never imports jax: the pipeline can be run and timed alone.

    from data_pipelines import make_pipeline
    for batch in make_pipeline(config.data, "val"):
        batch["video"]        # uint8 (B, V, T, H, W, 3)
"""

from data_pipelines.errors import DataError, VideoError

__all__ = ["DataError", "VideoError", "make_pipeline"]


def make_pipeline(data_config, split, *, start_step=0, process_index=0, process_count=1):
    """Returns a restartable iterator of batches; see `pipeline.make_pipeline`."""
    from data_pipelines.batches import pipeline  # slow to import, and the tools do not need grain

    return pipeline.make_pipeline(
        data_config, split, start_step=start_step,
        process_index=process_index, process_count=process_count)
