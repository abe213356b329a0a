"""What a user can put right. Everything else keeps its traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in a config, a flag or a file: printed as one message, without a traceback.

    The message names the field or file, its value, what was expected and what to do.
    """


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and why."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the state is saved, the same command continues."""
