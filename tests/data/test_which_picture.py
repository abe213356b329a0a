"""Which picture a video file shows: display matrices, several tracks, covers, names, playlists, sizes."""

import itertools
import os
import shutil
import socket
import struct

import cv2
import numpy as np
import pytest

from data_pipelines import VideoError, check_videos, extract_frames
from data_pipelines.video import container, video_file
from data_pipelines.video.avi_index import indexed_frames
from data_pipelines.video.decode import open_video
from tests.data.clip_files import numbered_frames, patch_matrix, read_numbers, write_tracks, write_video

MATRICES = [m for m in itertools.product((0, 1, -1), repeat=4)  # (a, b, c, d) of all turns and mirrors
            if abs(m[0] * m[3] - m[1] * m[2]) == 1 and sum(map(abs, m)) == 2]


def displayed(image, a, b, c, d):
    """Moves every pixel (x, y) to (ax + cy, bx + dy)."""
    y, x = np.indices(image.shape[:2])
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    out = np.zeros((down.max() + 1, right.max() + 1, 3), np.uint8)
    out[down, right] = image
    return out


def extracted(path, folder):
    """All frames as `extract_frames` writes them."""
    extract_frames.extract(str(path), folder, fps=0, height=0, template="{:05}.png")
    return np.stack([cv2.imread(str(image))[..., ::-1] for image in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A short mp4 without a display matrix, and one of its frames."""
    path = write_video(tmp_path_factory.mktemp("plain") / "plain.mp4", numbered_frames(4))
    return path, open_video(path).get([2])[0]


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_display_matrix_is_applied(plain, tmp_path, matrix):
    path = shutil.copy(plain[0], tmp_path / "a.mp4")
    patch_matrix(path, *matrix)
    wanted = displayed(plain[1], *matrix)
    with open_video(path) as reader:
        np.testing.assert_array_equal(reader.get([2])[0], wanted)
    images = extracted(path, tmp_path / "images")
    assert images.shape == (4, *wanted.shape)
    assert np.abs(images[2].astype(int) - wanted).max() <= 6  # rounding of the colour conversion
    check_videos.check_file(str(path))


def test_angles_that_are_no_quarter_turns(plain, tmp_path):
    """As FFmpeg shows them: turned within the size of the picture, the corners black."""
    path = shutil.copy(plain[0], tmp_path / "a.mp4")
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    patch_matrix(path, cos, sin, -sin, cos)
    turned = open_video(path).get([2])[0]
    assert turned.shape == (48, 64, 3) and turned[0, 0].max() < 20
    difference = np.abs(extracted(path, tmp_path / "images")[2].astype(int) - turned)
    assert difference.mean() < 12  # FFmpeg turns the subsampled colours, texture is noise
    patch_matrix(path, 0, 0, 0, 1)  # no map at all
    np.testing.assert_array_equal(open_video(path).get([2])[0], plain[1])


STILL, FILM = numbered_frames(1, (128, 96), 5), numbered_frames(70)


@pytest.mark.parametrize("name, tracks, more", [
    ("still_first.mp4", (STILL, FILM), {}),
    ("still_last.mp4", (FILM, STILL), {}),
    ("larger.mp4", (numbered_frames(70, (64, 24))[::-1], FILM), {"default": (0, 1)}),
    ("still_first.mkv", (STILL[:, :48, :64], FILM), {"default": (1,)}),
    ("default.mkv", (numbered_frames(70, (128, 96), 3)[::-1], FILM), {"default": (1,)}),
    ("cover.mp4", (FILM, STILL), {"cover": 1}),
])
def test_of_several_tracks_the_film_is_read(tmp_path, name, tracks, more):
    path = write_tracks(tmp_path / name, *tracks, **more)
    with open(path, "rb") as file:
        content = file.read()
    for source in (path, content):
        with open_video(source) as reader:
            assert reader.num_frames == 70 and read_numbers(reader.get([0, 66, 3])) == [0, 66, 3]
    assert read_numbers(extracted(path, tmp_path / "images")) == list(range(70))
    check_videos.check_file(path)


# --------------------------------------------------------------------------------- what counts as whole
def avi(path, count):
    write_video(path, numbered_frames(count), codec="mpeg4", options={"b": "2000000"})
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("more", [1, 5, 300])
def test_an_avi_is_whole_if_its_index_is(tmp_path, caplog, more):
    data = avi(tmp_path / "a.avi", 70)
    for name, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = data.index(name) + offset
        assert struct.unpack_from("<I", data, at) == (70,)
        struct.pack_into("<I", data, at, 70 + more)
    (tmp_path / "a.avi").write_bytes(data)
    for source in (tmp_path / "a.avi", bytes(data)):
        assert read_numbers(open_video(source).get([0, 69])) == [0, 69]
    check_videos.check_file(str(tmp_path / "a.avi"))
    assert f"counts {70 + more} frames" in caplog.text or more == 0


def test_an_avi_without_a_whole_index_is_truncated(tmp_path):
    data = bytes(avi(tmp_path / "a.avi", 70))
    assert indexed_frames(data, 0) == 70 and indexed_frames(data, 1) == 0
    movie = data.index(b"movi")
    for size in (len(data) - 40, data.index(b"idx1") - 3, movie + (len(data) - movie) // 3):
        assert indexed_frames(data[:size], 0) is None
    for share in (0.2, 0.5, 0.8):
        with pytest.raises(VideoError, match="truncated: .* of 70 frames|decoding failed"):
            open_video(data[:movie] + data[movie:][:int(share * (len(data) - movie))])


# --------------------------------------------------------------------------- a name is a file, and only that
@pytest.mark.parametrize("name", ["10:30 talk.mp4", "file:x.mp4", "cache:x.mp4", "http:x.mp4",
                                  "concat:a|b.mp4", "img_%03d.mp4", "data:,x",
                                  "subfile,,start,0,end,9,,:x", "latin\udce9.mp4"])
def test_an_existing_file_is_opened_whatever_its_name(plain, tmp_path, monkeypatch, name):
    shutil.copy(plain[0], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert open_video(name).num_frames == 4
    check_videos.check_file(name)
    assert len(extracted(name, tmp_path / "images")) == 4


def test_nothing_else_is_opened(plain, tmp_path, monkeypatch):
    """No address is asked, no playlist followed, no device or pipe read."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(plain[0], "clip.mp4")
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)
    address = f"127.0.0.1:{server.getsockname()[1]}"
    pointers = {
        "a.mp4": "ffconcat version 1.0\nfile clip.mp4\n",
        "b.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://{address}/clip.ts\n#EXT-X-ENDLIST\n",
        "c.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n",
        "d.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
                 f'<BaseURL>http://{address}/</BaseURL></Period></MPD>',
        "e.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        "f.txt": "a line of text\n" * 99,
    }
    for name, text in pointers.items():
        (tmp_path / name).write_text(text)
        for source in (name, text.encode()):
            with pytest.raises(VideoError, match="not a readable video"):
                open_video(source)
    with pytest.raises(VideoError, match="names what to play: that is not followed"):
        open_video("a.mp4")
    os.mkfifo("fifo.mp4")
    for name in ("fifo.mp4", "/dev/zero"):
        with pytest.raises(VideoError, match="a device or a pipe"):
            open_video(name)
    for name in (f"http://{address}/a.mp4", f"tcp://{address}", f"HTTP://{address}", "concat://a"):
        with pytest.raises(VideoError, match="is an address: only files are opened"):
            open_video(name)
    for name in (f"tcp:{address}", "pipe:0", "concat:clip.mp4", "cache:clip.mp4", "data:video/mp4;base64,AA",
                 "a\0b"):
        with pytest.raises(VideoError, match="file does not exist"):
            open_video(name)
    with pytest.raises(TimeoutError):
        server.accept()
    server.close()
    os.symlink("clip.mp4", "link.mp4")
    assert open_video("link.mp4").num_frames == 4


# --------------------------------------------------------------------------------------- how large
def test_too_large_is_an_error(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(VideoError, match="frames of 64 x 48 pixels, more than the 3071"):
        open_video(plain[0])
    monkeypatch.undo()
    monkeypatch.setattr(video_file, "MAX_FRAMES", 69)
    for name, arguments in (("a.mkv", {}), ("a.avi", {"codec": "mpeg4"})):
        with pytest.raises(VideoError, match="longer than 24 hours or 69 frames"):
            open_video(write_video(tmp_path / name, numbered_frames(70), **arguments))
    monkeypatch.undo()
    times = np.arange(4) * 1000 * 30_000  # 25 hours in four frames
    for name in ("long.mp4", "long.mkv"):
        path = write_video(tmp_path / name, numbered_frames(4), times=times, options={"bf": "0"})
        with pytest.raises(VideoError, match="longer than 24 hours"):
            open_video(path)
        with pytest.raises(VideoError, match="longer than 24 hours"):
            extract_frames.extract(path, tmp_path / "images", fps=4, height=0, template="{:05}.png")
    assert not (tmp_path / "images").exists()
