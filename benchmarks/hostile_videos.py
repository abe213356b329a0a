"""Damaged and hostile videos, and names that are none. A case is its seed and number."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import struct
import threading
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines import VideoError

# What a list may name instead of a file; {0} is the port of a server that counts who connects.
NAMES = (
    "http://127.0.0.1:{0}/a.mp4", "https://127.0.0.1:{0}/a.mp4", "ftp://127.0.0.1:{0}/a.mp4",
    "rtsp://127.0.0.1:{0}/a", "rtmp://127.0.0.1:{0}/a", "tcp://127.0.0.1:{0}", "udp://127.0.0.1:{0}",
    "hls+http://127.0.0.1:{0}/a.m3u8", "file:///etc/passwd", "file:a.mp4", "concat:a.mp4|b.mp4",
    "subfile,,start,0,end,9,,:/etc/passwd", "pipe:0", "pipe:", "data:video/mp4;base64,AAAA", "crypto:a.mp4",
    "cache:http://127.0.0.1:{0}/a.mp4", "/dev/zero", "/dev/stdin", "/proc/self/environ", "/proc/self/mem",
    "/etc/passwd", "../../../../../../etc/passwd", "a" * 5000, "", ".", "..", "/", "\0", "a\0.mp4", "\n.mp4",
    "lavfi:testsrc", "testsrc=size=16x16", "-", "-i", "%05d.png", "*.mp4", "{{:05}}.png", "~root/a.mp4",
    "\udcff\udcfe.mp4", "con", "a.mp4?x=1#y")
# Texts that name what else to play.
PLAYLISTS = (
    "#EXTM3U\n#EXTINF:1,\n{1}\n#EXT-X-ENDLIST\n", "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\n"
    "concat:{1}|file:///etc/passwd\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{1}'\n",
    "ffconcat version 1.0\nfile '/etc/passwd'\n", "[playlist]\nFile1={1}\nNumberOfEntries=1\n",
    "[Reference]\nRef1={1}\n",
    "<?xml version='1.0'?><MPD type='static'><Period><AdaptationSet><Representation>"
    "<BaseURL>{1}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM '{1}'>]>"
    "<smil><body><video src='&e;'/></body></smil>",
    "<asx version='3.0'><entry><ref href='{1}'/></entry></asx>",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {0} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "RTSPtext\nrtsp://127.0.0.1:{0}/a\n", "{1}\n",
    "<svg xmlns='http://www.w3.org/2000/svg'><image href='{1}'/></svg>",
    "<html><video src='{1}'></html>", ";FFMETADATA1\ntitle={1}\n", "FWS\x09" + "A" * 64, "file {1}\n")
ENDINGS = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".ts", ".mpg", ".flv", ".gif", ".m4v", ".wmv", ".3gp")
_FIELDS = (b"tkhd", b"mvhd", b"mdhd", b"stsz", b"stts", b"stco", b"stsc", b"ctts", b"elst", b"avcC", b"stsd",
           b"avc1",
           b"moov", b"mdat", b"trak", b"avih", b"strh", b"strf", b"idx1", b"movi", b"hdrl")
_HUGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\0\0\0\1", b"\xff" * 8,
         b"\0" * 8)


def write_bases(folder: str) -> list[str]:
    """Whole videos in several containers, 20 frames of 64 x 48 pixels; returns their paths."""
    from tests.data.clip_files import numbered_frames, write_video

    os.makedirs(folder, exist_ok=True)
    frames, made = numbered_frames(20), []
    for name, options in (("a.mp4", {}), ("b.mkv", {}), ("c.avi", {"codec": "mpeg4"}), ("d.mov", {}),
                          ("e.ts", {}), ("f.mpg", {"codec": "mpeg1video"}), ("g.avi", {"codec": "mjpeg",
                          "pix_fmt": "yuvj420p"}), ("h.flv", {"codec": "flv"}),
                          ("i.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
                          ("j.gif", {"codec": "gif", "pix_fmt": "rgb8"})):
        made.append(write_video(os.path.join(folder, name), frames, **options))
    return made


def write(seed: int, number: int, bases: list[str], folder: str, port: int = 9) -> tuple[str, str]:
    """Writes a hostile video; returns (its path, what was done to it).

    Args:
        seed, number: of the case.
        bases: whole videos, see `write_bases`.
        folder: where.
        port: of a local server, which playlists name.
    """
    rng = random.Random(f"video {seed} {number}")
    base = rng.choice(bases)
    with open(base, "rb") as file:
        data = bytearray(file.read())
    ending, kind = os.path.splitext(base)[1], KINDS[number % len(KINDS)]
    content = kind(rng, data, port)
    if kind is _renamed or rng.random() < 0.1:
        ending = rng.choice(ENDINGS)
    path = os.path.join(folder, f"{number:05}{ending}")
    with open(path, "wb") as file:
        file.write(content)
    return path, kind.__name__.strip("_")


def name(number: int, port: int) -> str:
    """A name that is no file, for a list."""
    return NAMES[number % len(NAMES)].format(port)


def _cut(rng, data, port):
    return data[:rng.randrange(len(data))]


def _cut_front(rng, data, port):
    return data[rng.randrange(len(data)):]


def _flipped(rng, data, port):
    for _ in range(rng.choice((1, 3, 20, 200))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _flipped_head(rng, data, port):
    for _ in range(rng.choice((1, 3, 10))):
        data[rng.randrange(min(len(data), 800))] = rng.randrange(256)
    return data


def _zeroed(rng, data, port):
    start = rng.randrange(len(data))
    length = min(rng.randrange(1, 4000), len(data) - start)
    data[start:start + length] = bytes(length)
    return data


def _noise(rng, data, port):
    start = rng.randrange(len(data))
    length = min(rng.randrange(1, 4000), len(data) - start)
    data[start:start + length] = rng.randbytes(length)
    return data


def _swapped(rng, data, port):
    length = rng.randrange(1, len(data) // 3)
    a, b = sorted(rng.randrange(len(data) - length) for _ in range(2))
    if b - a >= length:
        data[a:a + length], data[b:b + length] = data[b:b + length], data[a:a + length]
    return data


def _removed(rng, data, port):
    start = rng.randrange(len(data))
    del data[start:start + rng.randrange(1, 2000)]
    return data


def _repeated(rng, data, port):
    return data * rng.randrange(2, 5)


def _garbage(rng, data, port):
    return rng.randbytes(rng.choice((1, 7, 100, 5000)))


def _garbage_behind_a_head(rng, data, port):
    return data[:rng.choice((8, 32, 64, 256, 1024))] + rng.randbytes(4000)


def _renamed(rng, data, port):
    return data


def _empty(rng, data, port):
    return b""


def _playlist(rng, data, port):
    target = rng.choice((f"http://127.0.0.1:{port}/a.ts", "/etc/passwd", "../a.mp4"))
    return rng.choice(PLAYLISTS).replace("{0}", str(port)).replace("{1}", target).encode()


def _huge_field(rng, data, port):
    """A number of a header becomes the largest, or nothing."""
    found = [i for name in _FIELDS for i in _all(data, name)]
    for _ in range(rng.randrange(1, 4)):
        at = (rng.choice(found) if found else 0) + rng.choice((-4, *range(4, 100, 4)))
        value = rng.choice(_HUGE)
        if 0 <= at < len(data) - len(value):
            data[at:at + len(value)] = value
    return data


def _huge_picture(rng, data, port):
    """Headers that promise enormous pictures, in formats that are written in a line."""
    side = rng.choice((2**13, 2**14, 2**15, 2**16 - 1))
    return rng.choice((
        b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0"
        + struct.pack("<HH", side, side) + b"\0\x02\x02D\x01\0;",
        f"YUV4MPEG2 W{side} H{side} F25:1 Ip C420\nFRAME\n".encode() + bytes(1000),
        b"DKIF\0\0 \0VP80" + struct.pack("<HHIII", side, side, 25, 1, 2**31 - 1) + bytes(8)
        + rng.randbytes(99),
        b"RIFF" + struct.pack("<I", 2**32 - 1) + bytes(data[8:])))


def _huge_size(rng, data, port):
    """Boxes and elements that say they are longer than the file."""
    return rng.choice((
        struct.pack(">I4s", 2**32 - 1, b"moov") + data, struct.pack(">I4sQ", 1, b"moov", 2**63) + data,
        struct.pack(">I4s", 0, b"moov") * 1000, struct.pack(">I4s", 8, b"moov") * 5000,
        b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff" + data, data[:40] + b"\x18\x53\x80\x67\x08"
        + b"\xff" * 7,
        b"".join(struct.pack(">I4s", 8 * (2000 - k), b"trak") for k in range(2000))))


KINDS = (_cut, _flipped, _flipped_head, _zeroed, _noise, _swapped, _removed, _repeated, _garbage,
         _garbage_behind_a_head, _renamed, _empty, _playlist, _huge_field, _huge_field, _huge_picture,
         _huge_size, _cut_front, _cut, _flipped)


def _all(data: bytes, name: bytes) -> list[int]:
    found, at = [], data.find(name)
    while at >= 0:
        found.append(at)
        at = data.find(name, at + 1)
    return found


def left_behind(paths: Sequence[str], reads: Sequence[Callable[[str], object]]) -> tuple[int, int, float]:
    """What reading files over and over leaves behind.

    Args:
        paths: of the files.
        reads: functions of a path; what they raise is a refusal.

    Returns:
        (open files, threads, MiB of memory) that there are more after a third time than after a second: the
        first one fills caches and imports modules.
    """
    seen = []
    for _ in range(3):
        for read, path in itertools.product(reads, paths):
            with contextlib.suppress(VideoError, OSError):
                read(path)
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        seen.append((len(os.listdir("/proc/self/fd")), threading.active_count(),
                     pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
    files, threads, memory = (after - before for before, after in zip(seen[1], seen[2], strict=True))
    return files, threads, memory


def good_frames(views: np.ndarray) -> bool:
    """Whether clips have the form that a network is given."""
    return views.dtype == np.uint8 and views.ndim == 5 and views.shape[-1] == 3 and views.size > 0
