"""Opening one video: video files and bytes, folders of images, JPEG records, arrays.

All readers have `num_frames`, `fps` and `get(indices)` (see `reader.VideoReader`), and report every
failure as a `VideoError` with the video's name.
"""

import os

import cv2
import numpy as np

from data_pipelines.errors import VideoError
from data_pipelines.video import records
from data_pipelines.video.reader import VideoReader, assemble
from data_pipelines.video.video_file import VideoFile

cv2.setNumThreads(0)  # the pipeline has its own threads


IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def open_video(source: str | os.PathLike | bytes, name: str | None = None) -> VideoReader:
    """Opens a video file given by its path or its bytes; an image is a video of one frame.

    Args:
        source: path, or the content of a video file, of a jpg or of a png.
        name: what to call the video in errors; the path by default.

    Raises:
        VideoError: missing, empty, not a video, without frames, or truncated.
    """
    if source.startswith(_IMAGE_MAGIC) if isinstance(source, bytes) else is_image(source):
        return ImageFile(source, name)
    return VideoFile(source, name)


def is_image(path: str | os.PathLike) -> bool:
    """Whether a file is an image by its name."""
    return os.fspath(path).lower().endswith(IMAGE_ENDINGS)


def open_record(value: bytes, name: str = "record") -> VideoReader:
    """Opens one record of a shard (see `records.py`), of either kind.

    Raises:
        VideoError: the record or the video inside is damaged.
    """
    record = records.decode_record(value, name)
    if record.video is not None:
        return open_video(record.video, record.name)
    return JpegRecord(record)


class ArrayFrames(VideoReader):
    """Frames that are in memory already: uint8 (T, H, W, 3)."""

    def __init__(self, frames_THWC: np.ndarray, fps: float = 0.0):
        self._frames = frames_THWC
        self.num_frames = len(frames_THWC)
        self.fps = fps
        self.stored_size = frames_THWC.shape[1:3]

    def get(self, indices, each=None):
        frames = self._frames[np.asarray(indices, np.int64)]
        if each is None or not len(frames) or (first := each(frames[0])).shape == frames.shape[1:]:
            return frames  # as cached frames are
        return np.stack([first, *map(each, frames[1:])])


class ImageFile(VideoReader):
    """An image as a video of one frame, turned as its metadata say.

    Args:
        source: path of a file, or its content.
        name: what to call it in errors; the path by default.

    Raises:
        VideoError: missing, or no image.
    """

    num_frames, fps = 1, 0.0

    def __init__(self, source: str | os.PathLike | bytes, name: str | None = None):
        content = isinstance(source, bytes)
        self.name = name or ("(bytes)" if content else os.fspath(source))
        try:
            if not content:
                with open(source, "rb") as file:
                    source = file.read()
        except OSError as error:
            raise VideoError(self.name, f"{error.strerror}") from None
        self._image = _decode_image(source, self.name, "it")
        self.stored_size = self._image.shape[:2]

    def get(self, indices, each=None):
        return assemble(indices, 1, self.name, lambda index: self._image, each)


class FrameFolder(VideoReader):
    """A folder of image files, one per frame (the ActivityNet and FCVID layout).

    Args:
        folder: directory of the images.
        num_frames: how many there are, as written in the list file.
        template: file name of a frame, e.g. "img_{:05}.png".
        start_index: number of the first frame.

    Raises:
        VideoError: no frames, or the last one is missing (here); any other one is missing (`get`).
    """

    def __init__(self, folder, num_frames: int, template: str = "img_{:05}.png",
                 start_index: int = 1, fps: float = 0.0):
        self.name = os.fspath(folder)
        self.num_frames = int(num_frames)
        self.fps = fps
        self._template, self._start = template, start_index
        if self.num_frames < 1:
            raise VideoError(self.name, "the list says 0 frames")
        last = self._path(self.num_frames - 1)
        if not os.path.exists(last):
            what = (f"{os.path.basename(last)} is missing, the list says {self.num_frames} frames"
                    if os.path.isdir(self.name) else "folder does not exist")
            raise VideoError(self.name, what)

    @property
    def stored_size(self):
        return self.get([0]).shape[1:3]

    def get(self, indices, each=None):
        return assemble(indices, self.num_frames, self.name, self._read, each)

    def _path(self, index: int) -> str:
        return os.path.join(self.name, self._template.format(index + self._start))

    def _read(self, index: int) -> np.ndarray:
        path = self._path(index)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise VideoError(self.name, f"{os.path.basename(path)}: {error.strerror}") from None
        return _decode_image(data, self.name, os.path.basename(path))


class JpegRecord(VideoReader):
    """The JPEG frames of a record. Frame i is the i-th stored frame.

    Args:
        record: a decoded record with `jpegs`, or its bytes.
    """

    def __init__(self, record: records.Record | bytes):
        if not isinstance(record, records.Record):
            record = records.decode_record(record)
        self.name = record.name
        self._jpegs = record.jpegs
        self.num_frames = len(record.jpegs)
        # Fewer frames over the same time.
        self.fps = record.fps * self.num_frames / max(1, record.num_frames)

    @property
    def stored_size(self):
        return self.get([0]).shape[1:3]

    def get(self, indices, each=None):
        return assemble(indices, self.num_frames, self.name, self._read, each)

    def _read(self, index: int) -> np.ndarray:
        return _decode_image(self._jpegs[index], self.name, f"frame {index}")


def _decode_image(data: bytes, name: str, what: str) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error as error:  # too many pixels
        raise VideoError(name, f"{what} is not a readable image ({error.err})") from None
    if image is None:
        raise VideoError(name, f"{what} is not a readable image")
    return image
