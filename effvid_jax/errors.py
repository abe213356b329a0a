"""What a user can put right. Everything else keeps its traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in a config, a flag or a file: printed as one message, without a traceback.

    The message names the field or file, its value, what was expected and what to do.
    """


class NotFiniteError(UserError):
    """What a network says of a video is NaN or infinite.

    Args:
        video: its name.
        what: is not finite, such as 'scores'.
        network: which, with its step.
        count: how many videos of how many, if known.
    """

    def __init__(self, video, what: str, network: str, count: str = ""):
        super().__init__(
            f"video {video}: {what} of {network} are not finite{count and f' ({count})'}: its weights are "
            f"damaged or diverged. Use an earlier saved step, or train with a lower config.optim.lr.")


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and why."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM: the state is saved, the same command continues.

    No `Exception`, as Python's KeyboardInterrupt is none: it comes anywhere, and whoever catches whatever can
    be wrong with a file must not take it for damage.
    """
