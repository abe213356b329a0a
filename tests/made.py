"""Things for tests: a method as the train loop makes it, a full disk."""

import contextlib
import resource

from effvid_jax.methods import make_method
from effvid_jax.tasks import make_task


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
