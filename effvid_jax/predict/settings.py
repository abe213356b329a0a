"""What a command of `--mode=predict` asks for, and what of it can be wrong before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
import os

from data_pipelines import is_stream, number_of_camera
from effvid_jax.errors import UserError

_NUMBERS = {"window": (1e-3, 1e6), "stride": (1e-3, 1e6), "fps": (1e-3, 1e4), "seconds": (1e-3, 1e9),
            "every": (1, 10**6), "batch_size": (1, 2**20), "block": (1, 2**30), "workers": (1, 10**5),
            "devices": (1, 10**5)}
_ENDINGS = {"output": (".csv", ".jsonl"), "timeline": (".csv",), "annotate": (".mp4", ".gif")}
_NEEDED = {"stride": ("window",), "every": ("stream",), "fps": ("window", "stream", "annotate"),
           "seconds": ("window", "stream"), "timeline": ("window", "stream"),
           **dict.fromkeys(("engine", "workers", "block", "address", "devices"),
                           ("archive",))}  # what each has a meaning with
_OTHERS = {"archive": ("window", "stream", "output", "annotate"), "batch_size": ("window", "stream")}
ENGINES = ("local", "ray")


@dataclasses.dataclass(frozen=True)
class Asked:
    """Flags of the same names; None: not given.

    Attributes:
        window: seconds of the parts that a video is cut into.
        stride: seconds from one to the next; None: `window`.
        stream: frames go through the network one by one.
        every: the network sees every so many frames of a stream; None: as it was trained.
        fps: frames per second of frames that have no rate of their own; None: 25.
        seconds: after so many of the video it ends.
        output: a row for every answer, csv or jsonl.
        timeline: csv with a row for every second: the probability of every class.
        archive: folder that gets the answers as files of rows, instead of standard output.
        engine: that spreads an archive, 'local' (None) or 'ray'.
        workers: processes that read the videos of an archive; None: as many as there are cores.
        block: rows of a file of an archive; None: eight times as many as the network is asked about at once.
        address: of a Ray cluster.
        devices: of the cluster, each with a network of its own; None: all.
        batch_size: videos that the network is asked about at once; None: `config.data.eval_batch_size`.
        annotate: mp4 or gif of the frames with the answers on them.
    """

    window: float | None = None
    stride: float | None = None
    stream: bool = False
    every: int | None = None
    fps: float | None = None
    seconds: float | None = None
    output: str | None = None
    timeline: str | None = None
    annotate: str | None = None
    batch_size: int | None = None
    archive: str | None = None
    engine: str | None = None
    workers: int | None = None
    block: int | None = None
    address: str | None = None
    devices: int | None = None

    @property
    def plays(self) -> bool:
        """Whether videos are played from their first frame to their last."""
        return self.stream or self.window is not None

    def check(self, videos: list[str]) -> None:
        """Raises UserError for values that cannot be, or that clash.

        Args:
            videos: what `--video` names.
        """
        if not videos or not all(videos):
            raise UserError("--mode=predict needs --video=FILE or --video=FOLDER ('clips/*.mp4' in quotes "
                            "for all that match, - for standard input, camera:0 for a camera).")
        for name, (least, most) in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and least <= value <= most):
                raise UserError(f"--{name}={value:g}: expected at least {least:g} and at most {most:g}.")
        if self.stream and self.window is not None:
            raise UserError(f"--stream and --window={self.window:g} exclude each other: a stream has an "
                            f"answer after every frame. Leave one of them out.")
        for name, others in _NEEDED.items():
            if getattr(self, name) is not None and not any(getattr(self, other) for other in others):
                known = " or ".join(f"--{other}" for other in others)
                raise UserError(f"--{name}={getattr(self, name)} has no meaning without {known}: add it, "
                                f"or leave this one out.")
        for name, others in _OTHERS.items():
            for other in others:
                if getattr(self, name) is not None and getattr(self, other):
                    raise UserError(f"--{name}={getattr(self, name)} and --{other} exclude each other: leave "
                                    f"one of them out.")
        if self.engine not in (None, *ENGINES):
            raise UserError(f"--engine={self.engine}: expected one of {', '.join(ENGINES)}.")
        if self.archive is not None and os.path.exists(self.archive) and not os.path.isdir(self.archive):
            raise UserError(f"--archive={self.archive} is a file: give a folder.")
        streams = [video for video in videos if is_stream(video)]
        cameras = [video for video in streams if number_of_camera(video) is not None]
        if cameras and not self.plays:
            raise UserError(f"--video={cameras[0]} has no end: add --window=SECONDS, or --stream for an "
                            f"answer after every frame; --seconds=N ends it.")
        if streams and len(videos) > 1:
            raise UserError(f"--video={streams[0]} beside {len(videos) - 1} more: a stream is read alone.")
        self._check_files(videos)

    def _check_files(self, videos: list[str]) -> None:
        taken = {os.path.abspath(video): f"--video={video}" for video in videos if not is_stream(video)}
        for name, endings in _ENDINGS.items():
            path = getattr(self, name)
            if path is None:
                continue
            flag = f"--{name}={path}"
            if not path.lower().endswith(endings):
                raise UserError(f"{flag}: expected a name that ends with {' or '.join(endings)}.")
            if os.path.isdir(path):
                raise UserError(f"{flag} is a folder: give the name of a file.")
            if not os.path.isdir(folder := os.path.dirname(os.path.abspath(path))):
                raise UserError(f"{flag}: the folder {folder} does not exist: make it, or choose another "
                                f"one.")
            if other := taken.get(os.path.abspath(path)):
                raise UserError(f"{flag} is {other} as well: choose another name.")
            taken[os.path.abspath(path)] = flag
