"""Clips of any video, read as in evaluation: for predictions on what belongs to no split."""

import os

import numpy as np

from data_pipelines.batches import clips
from data_pipelines.errors import VideoError
from data_pipelines.options import check_options, plain_options
from data_pipelines.sources.choose import IMAGE_SOURCES
from data_pipelines.sources.files import VIDEO_ENDINGS
from data_pipelines.video.decode import IMAGE_ENDINGS, ArrayFrames, FrameFolder, open_video
from data_pipelines.video.reader import VideoReader


class ClipReader:
    """Reads the clips that evaluation would show to a network, of any video.

    A video is given as the path of a file, as its bytes, as the path of a folder of frames named like
    `data_config.frame_template`, or as frames uint8 (N, H, W, 3) in RGB.

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

    def views(self, video) -> np.ndarray:
        """All views of a video, uint8 (V, T, side, side, 3).

        Raises:
            VideoError: it cannot be read.
        """
        with self.open(video) as opened:
            return opened.views()

    def open(self, video) -> "OpenVideo":
        """Opens a video to read its clip in parts; to be closed, or used in a `with` block.

        Raises:
            VideoError: it cannot be opened.
        """
        return OpenVideo(self._reader(video), self._options)

    def find(self, path: str) -> list[str]:
        """Videos at `path`: itself, or all files and folders of frames below it, sorted.

        Of a network for images (`data.source`) the images below it.

        Raises:
            FileNotFoundError: nothing there.
            VideoError: a folder without videos.
        """
        if not os.path.exists(path):
            raise FileNotFoundError(f"--video={path} does not exist.")
        images = self._options.source in IMAGE_SOURCES
        kind, endings = ("images", IMAGE_ENDINGS) if images else ("videos", VIDEO_ENDINGS)
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
        if not found:
            raise VideoError(f"--video={path}", f"no {kind} in this folder (known endings: "
                                                f"{' '.join(endings)})")
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
        return open_video(video)

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
