"""Exact frames of a video file or of its bytes, with PyAV.

Frame i is the i-th frame in display order, whatever container, frame rate or key frame distance.

How a video file is read (PyAV):
* short mp4/mov files (up to `SHORT_CLIP_FRAMES`) are decoded from the start up to the last frame
  asked for: cheaper than reading the packet table first;
* longer mp4/mov and mkv/webm files: all packets are listed once without decoding (their time stamps
  in display order are the frames, so variable frame rates are exact), then the reader seeks only
  when a key frame lies between the last decoded frame and the next one wanted;
* every other container (avi, mpeg, ts, flv, ...) is decoded from the start: seeking in them is off
  by one or worse when there are B frames.

The display matrix of the file (phones) is applied (`orientation.py`); of several tracks FFmpeg's choice is
read (`container.py`). Every failure is a `VideoError`.
"""

import bisect
import functools
import logging
import os
import re
import threading

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_pipelines.errors import VideoError
from data_pipelines.video.avi_index import indexed_frames
from data_pipelines.video.container import ERRORS, MAX_FRAMES, MAX_SECONDS, open_container, text_of
from data_pipelines.video.orientation import display_filters, on_array
from data_pipelines.video.reader import VideoReader, assemble

SHORT_CLIP_FRAMES = 64
SHORT_CLIP_PIXELS = 1 << 28  # of their frames, which stay decoded: 400 MB, 64 frames of 2560 x 1440
SEQUENTIAL_PIXELS = 1 << 26  # decoded frames kept per open file: about 100 MB
_INDEXED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_local = threading.local()


class VideoFile(VideoReader):
    """A video file or its bytes; see the top of this file for how it is read.

    Args:
        source: path, or the content of a video file.
        name: what to call the video in errors; the path by default.

    Raises:
        VideoError: missing, empty, not a video, without frames, or truncated.
    """

    def __init__(self, source, name):
        self.name = str(name if name is not None
                        else "video bytes" if isinstance(source, bytes) else os.fspath(source))
        self._source = source
        self._open()
        context = self._stream.codec_context
        self.stored_size = (context.height, context.width)
        if 0 in self.stored_size:
            raise VideoError(self.name, "the video stream has no picture size")
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else 0.0
        self._frames = []      # sequential reading: decoded frames from the start; None: too many
        self._pts = None       # seeking: time stamp of every frame in display order
        self._position = None  # seeking: time stamp of the last decoded frame, `_current`
        self._current = None
        self._is_mov = self._container.format.name == _INDEXED_FORMATS[0]
        listed = self._frames_in_index() if self._is_mov else 0
        if 0 < listed <= SHORT_CLIP_FRAMES:
            self.num_frames = listed
            if listed * context.height * context.width > SHORT_CLIP_PIXELS:
                self._frames = None
        elif not self._list_packets():
            self.num_frames = self._count_by_decoding()
            if self.num_frames == 0:
                raise VideoError(self.name, "no frames")
            self._check_count(self.num_frames, self._counted_by_header())

    def get(self, indices, each=None):
        if self._pts is not None:
            return assemble(indices, self.num_frames, self.name, self._seek_to, each)
        if self._frames is None:
            self._open()
            self._passed = -1
            return assemble(indices, self.num_frames, self.name, self._walk_to, each)
        return assemble(indices, self.num_frames, self.name, self._decoded, each)

    def close(self):
        self._frames, self._decoder, self._current = [], None, None
        self._container.close()

    def _open(self):
        self._container, self._stream = open_container(self._source, self.name)
        self._restart()

    def _restart(self):
        self._decoder = self._container.decode(self._stream)

    def _next_frame(self):
        try:
            return next(self._decoder, None)
        except ERRORS as error:
            raise VideoError(self.name, f"decoding failed ({text_of(error)})") from None

    # Sequential reading.

    def _decoded(self, index: int) -> np.ndarray:
        """Frame `index` of a video that is kept decoded, decoding further if necessary."""
        while len(self._frames) <= index:
            frame = self._next_frame()
            if frame is None:
                self._check_count(len(self._frames), self.num_frames)
                return self._decoded(len(self._frames) - 1)
            self._frames.append(frame)
        return self._to_rgb(self._frames[index])

    def _count_by_decoding(self) -> int:
        """Decodes everything; keeps the frames unless they are too large together."""
        height, width = self.stored_size
        count = 0
        while (frame := self._next_frame()) is not None:
            count += 1
            if count > MAX_FRAMES:
                raise _too_long(self.name)
            if count * height * width > SEQUENTIAL_PIXELS:
                self._frames = None
            if self._frames is not None:
                self._frames.append(frame)
        return count

    def _counted_by_header(self) -> int:
        """Frames that there should be; a complete index of an avi knows better than its header."""
        expected = self._stream.frames
        if self._container.format.name == "avi" and expected > self.num_frames:
            indexed = indexed_frames(self._source, self._stream.index)
            if indexed is not None and indexed != expected:
                _say_once(f"{self.name}: the header of the avi counts {expected} frames, its index, which is "
                          f"complete, {indexed}: the index is believed")
                return indexed
        return expected

    def _walk_to(self, index: int) -> np.ndarray:
        """Second pass over a long sequential file; indices come in increasing order."""
        while self._passed < index:
            frame = self._next_frame()
            if frame is None and self._is_mov and self._passed >= 0:  # counted by its index, which may lie
                self._check_count(self._passed + 1, self.num_frames)
                break
            self._passed += 1
            if frame is None:
                raise VideoError(self.name, f"frame {self._passed} cannot be decoded again")
            self._current = frame
        return self._to_rgb(self._current)

    # Reading by time stamps.

    def _frames_in_index(self) -> int:
        """Number of frames by the index of an mp4; 0 if it has none (fragmented mp4)."""
        times = index_of(self._stream)
        if times and (max(times) - min(times)) * self._stream.time_base > MAX_SECONDS:
            raise _too_long(self.name)
        return len(times)

    def _list_packets(self) -> bool:
        """Fills the time stamp tables; False if the container's stamps do not identify frames."""
        if self._container.format.name not in _INDEXED_FORMATS:
            return False
        pts, keys, corrupt = [], [], 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.size == 0:
                    continue
                if packet.is_keyframe and packet.pts is not None:
                    # The index of an mp4 is in decoding time, the one of Matroska in display time.
                    keys.append((packet.pts, packet.dts if self._is_mov else packet.pts))
                if not packet.is_discard:
                    pts.append(packet.pts)
                    corrupt += packet.is_corrupt
                if len(pts) > MAX_FRAMES:
                    raise _too_long(self.name)
        except ERRORS as error:
            raise VideoError(self.name, f"damaged container ({text_of(error)})") from None
        if None in pts or len(set(pts)) != len(pts) or not keys:
            self._open()
            return False
        self._pts, self._keys = sorted(pts), sorted(keys)
        if (self._pts[-1] - self._pts[0]) * self._stream.time_base > MAX_SECONDS:
            raise _too_long(self.name)
        self.num_frames = len(pts)
        expected = self._frames_in_index() if self._is_mov else self._frames_by_duration()
        self._check_count(len(pts) - corrupt, expected)
        return True

    def _frames_by_duration(self) -> int:
        """Matroska stores no frame count, but how long the track or the file is."""
        clock = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", self._stream.metadata.get("DURATION", ""))
        if clock:
            seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
        elif len(self._container.streams) == 1:
            seconds = (self._container.duration or 0) / av.time_base
        else:
            return 0
        time_base = float(self._stream.time_base)
        frame_seconds = (self._pts[-1] - self._pts[0]) * time_base / max(1, len(self._pts) - 1)
        missing = seconds - self._pts[-1] * time_base - frame_seconds
        return len(self._pts) + (round(missing / frame_seconds) if frame_seconds else 0)

    def _check_count(self, found: int, expected: int) -> None:
        check_count(self.name, found, expected)

    def _seek_to(self, index: int) -> np.ndarray:
        """Frame with the index-th time stamp; seeks only if a key frame lies on the way."""
        target = self._pts[index]
        if self._position == target:
            return self._to_rgb(self._current)
        key, indexed = self._keys[max(0, bisect.bisect(self._keys, (target, np.inf)) - 1)]
        if self._position is None or target < self._position or key > self._position:
            # FFmpeg finds the key frame before a time of display; where it lands elsewhere (nothing, or a
            # later frame: the index was misleading), by the time that the index has for it, then the start.
            for seek_to in dict.fromkeys((target, indexed, self._keys[0][1])):
                self._decode_from(seek_to, target)
                if self._position == target:
                    break
        else:
            self._decode_to(target)
        if self._current is None:
            raise VideoError(self.name, f"frame {index} of {self.num_frames} cannot be decoded")
        return self._to_rgb(self._current)

    def _decode_from(self, seek_to: int, target: int):
        try:
            self._container.seek(seek_to, stream=self._stream)
        except ERRORS as error:
            raise VideoError(self.name, f"seeking failed ({text_of(error)})") from None
        self._restart()
        self._position = self._current = None
        self._decode_to(target)

    def _decode_to(self, target: int):
        """Decodes up to the first frame at or after `target`; keeps the last one at the end."""
        while self._position is None or self._position < target:
            frame = self._next_frame()
            if frame is None:
                break
            if frame.pts is None:
                raise VideoError(self.name, "a frame has no time stamp")
            self._current, self._position = frame, frame.pts

    def _to_rgb(self, frame) -> np.ndarray:
        return to_rgb(frame, self.stored_size, self.name)


def check_count(name: str, found: int, expected: int) -> None:
    """Raises `VideoError` for a truncated video; a few frames may be missing at cuts of a re-muxed file."""
    if found < 1 or expected - found > max(2, expected // 50):
        raise VideoError(name, f"truncated: {found} of {max(found, expected)} frames")


def index_of(stream) -> list[int]:
    """Times of the frames by the index of a container, in its units; [] if it has none (fragmented mp4)."""
    if not stream.frames:
        return []
    return [entry.timestamp for entry in stream.index_entries if not entry.is_discard]


def to_rgb(frame, size: tuple[int, int], name: str) -> np.ndarray:
    """A decoded frame as uint8 RGB (H, W, 3), turned for display.

    Args:
        frame: of PyAV.
        size: (height, width) of all frames of the video, before they are turned.
        name: of the video, in errors.

    Raises:
        VideoError: it cannot be converted.
    """
    if not hasattr(_local, "reformatter"):
        _local.reformatter = VideoReformatter()
    height, width = size
    try:
        # threads=1: starting swscale's own threads costs more than converting small frames.
        rgb = _local.reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
    except ERRORS as error:
        raise VideoError(name, f"conversion to RGB failed ({text_of(error)})") from None
    filters = display_filters(frame)
    return on_array(rgb, filters) if filters else rgb


def _too_long(name: str) -> VideoError:
    return VideoError(name, f"longer than {MAX_SECONDS // 3600} hours or {MAX_FRAMES} frames: "
                            f"cut it into parts")


@functools.cache
def _say_once(message: str) -> None:
    logging.warning(message)
