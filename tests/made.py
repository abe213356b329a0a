"""Things for tests: a method as the train loop makes it, a full disk."""

import contextlib
import resource

import av
import numpy as np

from configs import supervised_minik
from effvid_jax import checkpoint, train
from effvid_jax.methods import Variables, make_method
from effvid_jax.tasks import make_task
from tests.drawn import draw


def made(config, class_names):
    """The method of a config with the task of the same config."""
    return make_method(config, make_task(config, class_names))


@contextlib.contextmanager
def full_disk(room: int = 10):
    """A disk on which a file has room for so many bytes: writing more fails, as on a full one.

    Nothing may be printed in the block, where that goes to a file as well.
    """
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def decoded(video) -> np.ndarray:
    """All frames of a small video, uint8 RGB (N, H, W, 3)."""
    with av.open(str(video)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def online_config():
    """Of a small network with an online shift, for four frames of 32 pixels."""
    config = supervised_minik.get_config("tiny,backbone=resnet18")
    config.data.update(dict(num_frames=4, test_short_side=32, test_crop_size=32, crop=32, short_side=32))
    config.model.resolution = 0
    config.model.options.update(dict(shift="online", width=8, stage_sizes=(1, 1), stage_strides=(2, 2)))
    return config


def save_untrained(config, class_names, workdir: str = ""):
    """Random variables of a config's network; saved in a workdir as if they were trained for three steps."""
    method = made(config, class_names)
    data = config.data
    clip = (1, data.num_frames, data.test_crop_size, data.test_crop_size, 3)
    found = draw(method.model, np.zeros(clip, np.float32))
    variables = Variables(found["params"], found.get("batch_stats", {}))
    if workdir:
        state = {"params": variables.params, "stats": variables.stats, "step": np.zeros((), int)}
        with contextlib.closing(checkpoint.Checkpointer(workdir)) as checkpointer:
            checkpointer.save(3, state, config, class_names)
        train.describe_run(config, workdir, class_names)
    return variables
