"""The bytes of one video inside an ArrayRecord shard, and writing and indexing shards.

A record value is

    magic "EVR1" | kind u8 | header length u32 | header (JSON, utf-8) | payload

(little-endian). The header holds name, labels, fps, num_frames (of the original video) and, for
JPEG frames, the byte length of every frame and its index in the original video. Kinds: JPEG frames
(one after the other), the original video file, and the index: the last record of every shard, which
lists name, labels and num_frames of all the others, so that a split is known without reading videos
and an unfinished shard is recognised. Nothing is pickled, so strangers' shards are safe to open.

Shards are written with `group_size:1,uncompressed`: JPEG and H.264 do not compress again, and
larger groups make random access several times slower.
"""

import dataclasses
import json
import os
import struct
from collections.abc import Sequence

from data_pipelines.errors import DataError, VideoError

MAGIC = b"EVR1"  # the digit is the version of the format
KIND_JPEG, KIND_VIDEO, KIND_INDEX = 0, 1, 2
WRITER_OPTIONS = "group_size:1,uncompressed"
_PREFIX = struct.Struct("<4sBI")


@dataclasses.dataclass(frozen=True)
class Record:
    """One video of a shard.

    Attributes:
        name: what the video is called in messages, usually its path in the original data set.
        labels: class indices, at least one.
        fps: frames per second of the original video, 0.0 if unknown.
        num_frames: frame count of the original video.
        jpegs: encoded frames in temporal order, or None.
        frame_indices: index in the original video of every entry of `jpegs`.
        video: bytes of the original video file, or None. Exactly one of jpegs and video is present.
    """
    name: str
    labels: tuple[int, ...]
    fps: float
    num_frames: int
    jpegs: tuple[bytes, ...] | None = None
    frame_indices: tuple[int, ...] | None = None
    video: bytes | None = None


def encode_record(record: Record) -> bytes:
    """Returns the value to store for one video.

    Raises:
        ValueError: both or neither of jpegs and video given, or lengths that do not agree.
    """
    if (record.jpegs is None) == (record.video is None):
        raise ValueError(f"{record.name}: a record holds either jpegs or video, not both")
    header = {"name": record.name, "labels": [int(label) for label in record.labels],
              "fps": float(record.fps), "num_frames": int(record.num_frames)}
    if record.video is not None:
        return _pack(KIND_VIDEO, header, [record.video])
    indices = record.frame_indices
    if not record.jpegs or indices is None or len(indices) != len(record.jpegs):
        raise ValueError(
            f"{record.name}: {len(record.jpegs)} jpegs need as many frame_indices (got {indices})")
    header["frame_indices"] = [int(i) for i in indices]
    header["frame_bytes"] = [len(jpeg) for jpeg in record.jpegs]
    return _pack(KIND_JPEG, header, record.jpegs)


def decode_record(value: bytes, name: str = "record") -> Record:
    """Inverse of `encode_record`.

    Args:
        value: bytes of the record.
        name: used in messages until the header, which has the real name, is read.

    Raises:
        VideoError: not a record of this format and version, or shorter than its header says.
    """
    kind, header, payload = _unpack(value, name)
    if kind not in (KIND_JPEG, KIND_VIDEO):
        raise VideoError(name, f"record of kind {kind} holds no video")
    try:
        fields = dict(name=str(header["name"]), labels=tuple(map(int, header["labels"])),
                      fps=float(header["fps"]), num_frames=int(header["num_frames"]))
        sizes = [] if kind == KIND_VIDEO else [int(size) for size in header["frame_bytes"]]
        if min(sizes, default=0) < 0 or kind == KIND_JPEG and not sizes:
            raise ValueError("no frames")
        indices = () if kind == KIND_VIDEO else tuple(map(int, header["frame_indices"]))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise VideoError(name, f"record header is damaged ({type(error).__name__}: {error})") from None
    if kind == KIND_VIDEO:
        return Record(**fields, video=bytes(payload))
    jpegs, start = [], 0
    for size in sizes:
        jpegs.append(bytes(payload[start:start + size]))
        start += size
    if start != len(payload):
        raise VideoError(header["name"], f"record has {len(payload)} bytes of frames, not {start}")
    return Record(**fields, jpegs=tuple(jpegs), frame_indices=indices)


class ShardWriter:
    """Writes one ArrayRecord shard; the file appears under its name only when it is complete.

    with ShardWriter("train-00000-of-00008.array_record", class_names) as shard:
        shard.write(Record(...))
    """

    def __init__(self, path: str | os.PathLike, class_names: Sequence[str]):
        from array_record.python import array_record_module  # only needed to write

        self.path = os.fspath(path)
        self._temporary = self.path + ".incomplete"
        self._writer = array_record_module.ArrayRecordWriter(self._temporary, WRITER_OPTIONS)
        self._index = {"classes": list(class_names), "names": [], "labels": [], "num_frames": []}

    def write(self, record: Record) -> None:
        """Appends one video."""
        self._writer.write(encode_record(record))
        self._index["names"].append(record.name)
        self._index["labels"].append([int(label) for label in record.labels])
        self._index["num_frames"].append(int(record.num_frames))

    def close(self) -> None:
        """Writes the index record and moves the file to its final name."""
        self._writer.write(_pack(KIND_INDEX, self._index, []))
        self._writer.close()
        os.replace(self._temporary, self.path)

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        if error_type is None:
            self.close()
        else:
            self._writer.close()
            os.remove(self._temporary)


def read_index(shard: str, last_value: bytes) -> dict:
    """Returns {'classes', 'names', 'labels', 'num_frames'} from the last record of a shard.

    Raises:
        DataError: the record is no index, so the shard is unfinished or of another format.
    """
    try:
        kind, index, _ = _unpack(last_value, shard)
    except VideoError:
        kind = None
    if kind != KIND_INDEX:
        raise DataError(
            f"{shard} does not end with the index that a finished shard has: it was not written by "
            f"`python -m data_pipelines.to_array_record`, or that command was interrupted. Run it "
            f"again for this split.")
    try:
        lengths = {len(index["names"]), len(index["labels"]), len(index["num_frames"])}
        fine = len(lengths) == 1 and all(
            isinstance(text, str) for text in [*index["classes"], *index["names"]]) and all(
            type(label) is int for labels in index["labels"] for label in labels)
    except (LookupError, TypeError):
        fine = False
    if not fine:
        raise DataError(f"{shard} ends with an index that is damaged: write it again with "
                        f"`python -m data_pipelines.to_array_record`.")
    return index


def _pack(kind: int, header: dict, payload: Sequence[bytes]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_PREFIX.pack(MAGIC, kind, len(text)), text, *payload])


def _unpack(value: bytes, name: str) -> tuple[int, dict, memoryview]:
    if len(value) < _PREFIX.size:
        raise VideoError(name, f"record of {len(value)} bytes is too short")
    magic, kind, size = _PREFIX.unpack_from(value)
    if magic != MAGIC:
        raise VideoError(name, f"record starts with {magic!r}, not {MAGIC!r}")
    body = memoryview(value)[_PREFIX.size:]
    if len(body) < size:
        raise VideoError(name, "record ends inside its header")
    try:
        return kind, json.loads(bytes(body[:size])), body[size:]
    except ValueError:
        raise VideoError(name, "record header is not valid JSON") from None
