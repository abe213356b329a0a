"""How many frames the index at the end of an avi lists: it tells a cut file from a wrong header."""

import io
import struct

_CHUNK = struct.Struct("<4sI")
_EMPTY = 0  # length of the entry of a frame that repeats the one before


def indexed_frames(source, stream: int) -> int | None:
    """Number of frames of a stream by a complete index (chunk `idx1`).

    Args:
        source: path of an avi file, or its content.
        stream: number of the stream.

    Returns:
        The number, or None: no index, or one that is cut off or points beyond the frames.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(12)  # "RIFF", size, "AVI "
        movie_end = None
        while (head := file.read(_CHUNK.size)) and len(head) == _CHUNK.size:
            name, length = _CHUNK.unpack(head)
            start = file.tell()
            if start + length > size:
                return None
            if name == b"idx1" and movie_end:
                return _count(file.read(length), stream, movie_end)
            if name == b"LIST" and file.read(4) == b"movi":
                movie_end = start + length
            file.seek(start + length + length % 2)
    return None


def _count(index: bytes, stream: int, movie_end: int) -> int | None:
    entries = [(name, offset, length) for name, _, offset, length in
               struct.iter_unpack("<4sIII", index[:len(index) // 16 * 16])
               if name[:2] == b"%02d" % stream and name[2:] in (b"dc", b"db")]
    if any(offset + length > movie_end for _, offset, length in entries):
        return None
    return sum(length != _EMPTY for _, _, length in entries)
