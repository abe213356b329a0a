"""A method for tests, as the train loop makes it."""

from effvid_jax.methods import make_method
from effvid_jax.tasks import make_task


def made(config, class_names):
    """The method of a config with the task of the same config."""
    return make_method(config, make_task(config, class_names))
