"""A video played from its first frame to its last, one frame in memory at a time: `play`.

Files, pipes and cameras, and whatever a `VideoReader` reads. Nothing is sought and nothing is counted, so
what is played may have no end. A packet that cannot be decoded is passed over; a video of which that becomes
the rule is an error.

An mp4 whose index comes after its frames cannot be read from a pipe before it has arrived, so that one goes
into a temporary file first. All other containers are read as they come.
"""

import abc
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import av
import numpy as np

from data_pipelines.errors import VideoError
from data_pipelines.video.container import ERRORS, MAX_SECONDS, open_camera, open_container, text_of
from data_pipelines.video.reader import VideoReader
from data_pipelines.video.video_file import check_count, index_of, to_rgb

RATE = 25.0  # frames per second of what tells none, such as a folder of frames
THREADS = 4  # that decode a file; a stream has one, since more of them keep frames back
_MAY_FAIL = 10  # packets that cannot be decoded, beside a tenth of the frames
_HEAD = 1 << 16  # bytes of an mp4 in which its index is looked for
_CHUNK = 1 << 20


class Played(abc.ABC):
    """A video that is played: iterate over it once for (seconds, frame).

    Seconds (float) count from its first frame and never fall; frames are uint8 RGB (H, W, 3).

    Attributes:
        name: of the video, in messages.
        fps: frames per second, `RATE` if unknown.
        knows_rate: whether it tells its frames per second.
    """

    name: str
    fps: float = RATE
    knows_rate: bool = False

    @abc.abstractmethod
    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Raises `VideoError` where it cannot go on."""

    def close(self) -> None:
        """Releases the file or device."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class Frames(Played):
    """Whatever a `VideoReader` reads.

    Args:
        reader: is closed with this.
        name: of the video.
        fps: of frames that have no rate of their own; 0: `RATE`.
    """

    def __init__(self, reader: VideoReader, name: str, fps: float = 0.0):
        self._reader, self.name = reader, name
        self.fps, self.knows_rate = reader.fps or fps or RATE, bool(reader.fps)

    def __iter__(self):
        for i in range(self._reader.num_frames):
            yield i / self.fps, self._reader.get([i])[0]

    def close(self):
        self._reader.close()


class Container(Played):
    """What FFmpeg reads: a file, bytes as they arrive, a camera.

    Args:
        container, stream: open.
        name: of the video.
        source: where its bytes come from, if that is Python's.
    """

    def __init__(self, container, stream, name: str, source: "_Quiet | None" = None):
        self._container, self._stream, self.name, self._source = container, stream, name, source
        context = stream.codec_context
        self._size = (context.height, context.width)
        if 0 in self._size:
            container.close()
            raise VideoError(name, "the video stream has no picture size")
        rate = stream.average_rate or stream.guessed_rate
        self.fps, self.knows_rate = float(rate or RATE), bool(rate)
        is_mov = container.format.name.startswith("mov,")  # the only one whose index tells from the start
        self._expected = len(index_of(stream)) if is_mov else 0
        self._first = self._last = None
        self._offset = 0.0

    def __iter__(self):
        failed = count = 0
        for packet in self._packets():
            try:
                frames = packet.decode()
            except ERRORS as error:
                failed += 1
                if failed > _MAY_FAIL + count // 10:
                    raise VideoError(self.name, f"decoding failed ({text_of(error)}), {failed} times in "
                                                f"{count} frames") from None
                continue
            for frame in frames:
                count += 1
                yield self._seconds(frame), to_rgb(frame, self._size, self.name)
        if self._source and self._source.raised:
            raise self._source.raised
        if not count:
            raise VideoError(self.name, "no frames")
        check_count(self.name, count + failed, self._expected)

    def close(self):
        self._container.close()

    def _packets(self):
        while True:
            try:
                yield from self._container.demux(self._stream)
                return
            except av.error.BlockingIOError:  # a camera that has no picture yet
                time.sleep(0.005)
            except ERRORS as error:
                raise VideoError(self.name, f"reading failed ({text_of(error)})") from None

    def _seconds(self, frame) -> float:
        """Time of a frame. Where a stream's clock starts anew, time goes on with the next frame."""
        step = 1 / self.fps
        now = 0.0 if self._last is None else self._last + step
        if frame.pts is not None:
            clock = float(frame.pts * (frame.time_base or self._stream.time_base))
            if self._first is None:
                self._first = clock - now
            found = clock - self._first + self._offset
            if self._last is not None and not self._last <= found <= self._last + MAX_SECONDS:
                self._offset += now - found
            else:
                now = found
        self._last = now
        return now


def play_file(source: str | os.PathLike | bytes, name: str) -> Container:
    """Plays a video file given by its path or its bytes.

    Raises:
        VideoError: it cannot be opened.
    """
    container, stream = open_container(source, name)
    stream.thread_count, stream.thread_type = THREADS, "AUTO"
    return Container(container, stream, name)


def play_camera(number: int) -> Container:
    """Plays what a camera of this machine sees, without an end.

    Raises:
        VideoError: there is none of this number, or PyAV cannot reach cameras on this system.
    """
    name = f"camera:{number}"
    return Container(*open_camera(number, name), name)


@contextlib.contextmanager
def play_pipe(file, name: str) -> Iterator[Container]:
    """Plays a video while it arrives.

    Args:
        file: gives its bytes, in binary: has `read`.
        name: of the video.

    Raises:
        VideoError: nothing arrives, or no video.
    """
    pipe = _Pipe(file)
    if not pipe.fill(12):
        raise VideoError(name, "empty (0 bytes)")
    if _index_comes_last(pipe):
        with spooled(pipe, name) as path, play_file(path, name) as played:
            yield played
        return
    quiet = _Quiet(pipe)
    try:
        opened = open_container(quiet, name)
    except VideoError:
        if quiet.raised:
            raise quiet.raised from None
        raise
    with Container(*opened, name, quiet) as played:
        yield played


@contextlib.contextmanager
def spooled(file, name: str) -> Iterator[str]:
    """Path of a temporary file with all that a pipe brings; memory does not grow with it.

    Raises:
        VideoError: nothing arrives, or the file cannot be written.
    """
    with tempfile.NamedTemporaryFile(prefix="effvid-") as part:
        try:
            while chunk := file.read(_CHUNK):
                part.write(chunk)
            part.flush()
        except OSError as error:
            raise VideoError(name, f"cannot be put into a temporary file ({error.strerror}: {part.name}); "
                                   f"TMPDIR names another folder for it") from None
        if not part.tell():
            raise VideoError(name, "empty (0 bytes)")
        yield part.name


def standard_input():
    """The bytes of standard input.

    Raises:
        VideoError: nobody sends any, it is a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise VideoError("--video=-", "standard input is a terminal: send a video into it, such as "
                                      "`cat clip.mp4 | effvid ... --video=-`")
    return sys.stdin.buffer


class _Pipe:
    """Bytes in order, of which the first can be looked at before they are read."""

    def __init__(self, file):
        self._read = getattr(file, "read1", file.read)  # what there is, without waiting for more
        self.head = b""

    def fill(self, size: int) -> bytes:
        """The next bytes, which stay: `size` of them, or fewer at the end."""
        while len(self.head) < size and (more := self._read(size - len(self.head))):
            self.head += more
        return self.head[:size]

    def read(self, size: int = -1) -> bytes:
        """Some bytes, at most `size`; none at the end."""
        if not self.head:
            return self._read(size)
        part, self.head = self.head[:size], self.head[size:]
        return part


class _Quiet:
    """Bytes for FFmpeg, which ends where reading raises: within its calls an exception would be lost.

    Attributes:
        raised: that exception, such as what a signal raises.
    """

    def __init__(self, pipe: _Pipe):
        self._pipe, self.raised = pipe, None

    def read(self, size: int) -> bytes:
        """Some bytes, at most `size`; none at the end."""
        try:
            return b"" if self.raised else self._pipe.read(size)
        except BaseException as error:
            self.raised = error
            return b""


def _index_comes_last(pipe: _Pipe) -> bool:
    """Whether this is an mp4 whose frames come before the index that tells where they are."""
    if pipe.fill(8)[4:] != b"ftyp":
        return False
    start = 0
    while len(head := pipe.fill(start + 8)) == start + 8 and start < _HEAD:
        size, kind = int.from_bytes(head[start:start + 4], "big"), head[start + 4:]
        if kind in (b"moov", b"moof", b"mdat") or size < 8:
            return kind == b"mdat"
        start += size
        if start > _HEAD:
            return True  # that much before any frame: not what is written to be streamed
    return False
