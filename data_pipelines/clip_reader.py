"""Clips of any video, read as in evaluation: for predictions on what belongs to no split."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator

import numpy as np

from data_pipelines import windows
from data_pipelines.batches import clips
from data_pipelines.errors import VideoError
from data_pipelines.options import check_options, plain_options
from data_pipelines.sources.choose import IMAGE_SOURCES
from data_pipelines.sources.files import VIDEO_ENDINGS
from data_pipelines.video import playing, remote
from data_pipelines.video.decode import IMAGE_ENDINGS, ArrayFrames, FrameFolder, is_image, open_video
from data_pipelines.video.reader import VideoReader


class ClipReader:
    """Reads the clips that evaluation would show to a network, of any video.

    A video is given as the path of a file, as its bytes, as the path of a folder of frames named like
    `data_config.frame_template`, as frames uint8 (N, H, W, 3) in RGB, or as the path of a file in a store
    ('gs://bucket/clip.mp4', see `video/remote.py`). What is played from its first frame to its last (`play`)
    may be a stream as well: '-' is standard input, 'camera:0' the first camera of this machine, anything with
    `read` gives its bytes.

    Args:
        data_config: `config.data`, which says how frames, crops and views are chosen.

    Attributes:
        num_views: V, of every video.

    Raises:
        DataError: a value of the configuration cannot work.
    """

    def __init__(self, data_config):
        self._options = plain_options(data_config)
        check_options(self._options)
        self.num_views = clips.num_views(self._options)

    def choices(self) -> dict:
        """What of the configuration decides what is seen of a video."""
        names = ("source", "sampling", "num_frames", "frame_interval", "test_clips", "twice_sample",
                 "quality", "test_short_side", "test_crop", "test_crop_size", "snap_side", "frame_template",
                 "start_index")
        return {name: getattr(self._options, name) for name in names}

    def views(self, video) -> np.ndarray:
        """All views of a video, uint8 (V, T, side, side, 3).

        Raises:
            VideoError: it cannot be read.
        """
        with self.open(video) as opened:
            return opened.views()

    def crops(self, frame_HWC: np.ndarray) -> np.ndarray:
        """What evaluation sees of one frame, uint8 (C, side, side, 3): its C test crops."""
        return clips.eval_crops(frame_HWC, self._options)

    def open(self, video) -> "OpenVideo":
        """Opens a video to read its clip in parts; to be closed, or used in a `with` block.

        Raises:
            VideoError: it cannot be opened.
        """
        return OpenVideo(self._reader(video), self._options)

    @contextlib.contextmanager
    def local(self, video) -> Iterator:
        """A video that can be opened: itself, or of a pipe ('-') the path of a temporary file with all of it.

        Raises:
            VideoError: nothing arrives, the file cannot be written, or it is a camera, which has no end.
        """
        if not is_stream(video):
            yield video
            return
        if number_of_camera(video) is not None:
            raise VideoError(video, "a camera has no end: cut it into windows, or take it as a stream")
        file = playing.standard_input() if video == "-" else video
        with playing.spooled(file, "-") as path:
            yield path

    @contextlib.contextmanager
    def play(self, video, fps: float = 0.0) -> Iterator["PlayedVideo"]:
        """Plays a video from its first frame to its last, with one frame in memory.

        Args:
            video: as the class says.
            fps: frames per second of frames that have no rate of their own (folder, array); 0: 25.

        Raises:
            VideoError: it cannot be opened, or standard input is a terminal.
        """
        name = "(no file)" if isinstance(video, bytes | np.ndarray) or hasattr(video, "read") else str(video)
        with contextlib.ExitStack() as stack:
            if is_stream(video) and (camera := number_of_camera(video)) is not None:
                played = stack.enter_context(playing.play_camera(camera))
            elif is_stream(video):
                file = playing.standard_input() if video == "-" else video
                played = stack.enter_context(playing.play_pipe(file, name))
            elif remote.is_remote(video):
                played = stack.enter_context(playing.play_file(remote.content_of(video), name))
            elif isinstance(video, np.ndarray) or name != "(no file)" and (
                    is_image(name) or self._is_frame_folder(video)):
                played = stack.enter_context(playing.Frames(self._reader(video), name, fps))
            else:
                played = stack.enter_context(playing.play_file(video, name))
            yield PlayedVideo(played, self._options, is_stream(video))

    def find(self, path: str) -> list[str]:
        """Videos at `path`: itself, or all files and folders of frames below it, sorted.

        Of a network for images (`data.source`) the images below it. A path that is not there may be a pattern
        ('clips/*.mp4', 'clips/**/*.mp4'), which stands for all that it matches; '-' and 'camera:0' are
        themselves. 'gs://bucket/clips' and the like are files, folders and patterns in a store.

        Raises:
            FileNotFoundError: nothing there.
            VideoError: a folder without videos, a pattern that matches none.
        """
        if is_stream(path):
            return [path]
        images = self._options.source in IMAGE_SOURCES
        kind, endings = ("images", IMAGE_ENDINGS) if images else ("videos", VIDEO_ENDINGS)
        if remote.is_remote(path):
            if not (found := remote.find(path, endings)):
                raise VideoError(f"--video={path}", f"no {kind} there (known endings: {' '.join(endings)})")
            return found
        if not os.path.exists(path) and glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))
            kept = [match for match in matches if os.path.isdir(match) or match.lower().endswith(endings)]
            found = [video for match in kept for video in self._below(match, kind, endings)]
            if not found:
                what = f"{len(matches)} files, none of them {kind}" if matches else f"no {kind}"
                raise VideoError(f"--video={path}", f"this pattern matches {what} (known endings: "
                                                    f"{' '.join(endings)})")
            return list(dict.fromkeys(found))
        if not os.path.exists(path):
            raise FileNotFoundError(f"--video={path} does not exist.")
        found = self._below(path, kind, endings)
        if not found:
            raise VideoError(f"--video={path}", f"no {kind} in this folder (known endings: "
                                                f"{' '.join(endings)})")
        return found

    def _below(self, path: str, kind: str, endings: tuple[str, ...]) -> list[str]:
        """What `find` finds at a path that is there."""
        images = kind == "images"
        if not os.path.isdir(path) or self._is_frame_folder(path):
            return [path]
        found = []
        for folder, subfolders, files in os.walk(path):
            frame_folders = [f for f in subfolders
                             if not images and self._is_frame_folder(os.path.join(folder, f))]
            subfolders[:] = [f for f in subfolders
                             if f not in frame_folders and not f.startswith(".")]
            found += [os.path.join(folder, f) for f in frame_folders]
            found += [os.path.join(folder, f) for f in files
                      if f.lower().endswith(endings) and not f.startswith(".")]
        return sorted(found)

    def _reader(self, video) -> VideoReader:
        if isinstance(video, np.ndarray):
            if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not len(video):
                raise VideoError("frames", f"{video.dtype} {video.shape}; expected uint8 (N, H, W, 3) "
                                           f"with N > 0")
            return ArrayFrames(video)
        if not isinstance(video, bytes) and self._is_frame_folder(video):
            return FrameFolder(video, self._count_frames(video), self._options.frame_template,
                               self._options.start_index)
        return open_video(remote.content_of(video), None if isinstance(video, bytes) else os.fspath(video))

    def _frame(self, folder, index: int) -> str:
        name = self._options.frame_template.format(index + self._options.start_index)
        return os.path.join(folder, name)

    def _is_frame_folder(self, path) -> bool:
        return os.path.isdir(path) and os.path.exists(self._frame(path, 0))

    def _count_frames(self, folder) -> int:
        count = 0
        while os.path.exists(self._frame(folder, count)):
            count += 1
        return count


class OpenVideo:
    """A video that is open; made by `ClipReader.open`, a context manager."""

    def __init__(self, reader: VideoReader, options):
        self._reader, self._options = reader, options

    @property
    def num_frames(self) -> int:
        """Of the video."""
        return self._reader.num_frames

    @property
    def fps(self) -> float:
        """Frames per second; 0 if nobody knows."""
        return self._reader.fps

    def views(self, key_frame: int = -1) -> np.ndarray:
        """As `ClipReader.views`; with data.sampling='around' of the clip around a frame (-1: the middle)."""
        return clips.eval_views(self._reader, self._options, key_frame)

    def stored(self, indices) -> np.ndarray:
        """Frames as they are stored, uint8 (n, H, W, 3).

        Raises:
            VideoError: one cannot be read.
        """
        return self._reader.get(indices)

    def frames(self, positions) -> np.ndarray:
        """Some frames of the only view, uint8 (n, side, side, 3); others are not decoded.

        Args:
            positions: of the frames among the T of the view, (n,).

        Raises:
            DataError: the configuration has several views.
            VideoError: a frame cannot be read.
        """
        return clips.eval_frames(self._reader, self._options, positions)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its frames as they are shown; reads the first one.

        Raises:
            VideoError: it cannot be read.
        """
        return self._reader.get([0]).shape[1:3]

    def close(self) -> None:
        """Releases the file."""
        self._reader.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class PlayedVideo:
    """A video that is played; made by `ClipReader.play`. Iterate over it once for (seconds, frame).

    Attributes:
        name: of the video.
        fps: frames per second.
        knows_rate: whether the video tells them.
        is_stream: whether it comes as it is made: a pipe or a camera, which may have no end.
    """

    def __init__(self, played: playing.Played, options, stream: bool):
        self._played, self._options, self.is_stream = played, options, stream
        self.name, self.fps, self.knows_rate = played.name, played.fps, played.knows_rate

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds from the first frame, frame uint8 RGB (H, W, 3)).

        Raises:
            VideoError: where it cannot go on.
        """
        return iter(self._played)

    def windows(self, length: float, stride: float, frames=None) -> "Iterator[windows.Window]":
        """Parts of the video, each with what evaluation would see of it; see `windows.cut`.

        Args:
            length, stride: seconds.
            frames: what to take instead of the video's own frames, such as fewer of them.
        """
        return windows.cut(self if frames is None else frames, self._options, self.fps, length, stride)


def is_stream(video) -> bool:
    """Whether this is a video that comes as it is made: '-', 'camera:0', something with `read`."""
    return hasattr(video, "read") or isinstance(video, str) and (
        video == "-" or number_of_camera(video) is not None)


def number_of_camera(video) -> int | None:
    """0 of 'camera:0'; None of anything else."""
    found = re.fullmatch("camera:([0-9]{1,4})", video) if isinstance(video, str) else None
    return int(found[1]) if found else None
