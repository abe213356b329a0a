"""The two errors of the data pipelines.

`DataError` is about a configuration or a data set as a whole: it stops a run, and its message says
what is wrong and what to do. `VideoError` is about one video: the pipelines catch it, count it and
carry on with another one (see `broken.py`).
"""


from data_pipelines.names import printable


class DataError(ValueError):
    """The data configuration or the data set cannot be used; the message says what to change."""


class VideoError(ValueError):
    """One video cannot be read.

    Attributes:
        name: path or record name of the video.
        reason: what is wrong with it, one short clause.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(str(name), str(reason))
        self.name = str(name)
        self.reason = str(reason)

    def __str__(self) -> str:
        return f"{printable(self.name)}: {printable(self.reason)}"
