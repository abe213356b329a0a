"""Videos played from their first frame to their last: files, pipes, cameras; windows; patterns of names."""

import io
import itertools
import sys
import types

import av
import cv2
import numpy as np
import pytest

from data_pipelines import ClipReader, DataError, VideoError, frame_writer, is_stream, windows
from data_pipelines.options import plain_options
from data_pipelines.video import container, playing
from data_pipelines.video.decode import open_video
from tests.data.clip_files import data_config, numbered_frames, write_video

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


class Pipe:
    """Bytes in order, in small pieces, and nothing else."""

    def __init__(self, content: bytes, piece: int = 1000):
        self._file, self._piece = io.BytesIO(content), piece

    def read(self, size=-1):
        return self._file.read(min(size, self._piece) if size >= 0 else self._piece)


@pytest.fixture
def reader():
    return ClipReader(data_config(num_frames=4, test_short_side=32, test_crop_size=32))


def played(reader, video, **more):
    with reader.play(video, **more) as found:
        return list(found), found.fps


@pytest.mark.parametrize("name, options", [
    ("a.mp4", {}), ("faststart.mp4", {"movflags": "faststart"}), ("fragments.mp4", FRAGMENTED), ("a.mkv", {}),
    ("a.ts", {}), ("a.nut", {}), ("a.avi", {}), ("a.flv", {})])
def test_every_frame_in_order_from_files_and_pipes(reader, tmp_path, name, options):
    codec = "mpeg4" if name.endswith((".avi", ".nut")) else "libx264"
    path = write_video(tmp_path / name, numbered_frames(40), codec=codec, container_options=options)
    with open_video(path) as opened:
        expected = opened.get(range(opened.num_frames))
    content = open(path, "rb").read()
    for video in (path, content, Pipe(content), io.BufferedReader(io.BytesIO(content))):
        found, fps = played(reader, video)
        assert fps == 25 and [seconds for seconds, _ in found] == pytest.approx(np.arange(40) / 25, abs=2e-3)
        np.testing.assert_array_equal([frame for _, frame in found], expected)


def test_only_an_mp4_with_its_index_at_the_end_waits_for_its_end(reader, tmp_path, monkeypatch):
    spooled = []
    original = playing.spooled
    monkeypatch.setattr(playing, "spooled", lambda file, name: spooled.append(name) or original(file, name))
    plain = open(write_video(tmp_path / "a.mp4", numbered_frames(10)), "rb").read()
    start = int.from_bytes(plain[:4], "big")
    padded = plain[:start] + b"\0\0\0\x10free" + b"x" * 8 + plain[start:]  # one box more before the frames
    for content, waits in ((plain, True), (padded, True), (plain[:20], False)):
        pipe = playing._Pipe(Pipe(content, 5))
        assert playing._index_comes_last(pipe) is waits
        assert b"".join(iter(lambda: pipe.read(7), b"")) == content  # noqa: B023
    assert len(played(reader, Pipe(plain))[0]) == 10 and len(spooled) == 1
    for options in ({"movflags": "faststart"}, FRAGMENTED):
        path = write_video(tmp_path / "b.mp4", numbered_frames(10), container_options=options)
        assert len(played(reader, Pipe(open(path, "rb").read()))[0]) == 10 and len(spooled) == 1


def test_frames_that_are_there_already(reader, tmp_path):
    frames = numbered_frames(5)
    for i, frame in enumerate(frames, 1):
        cv2.imwrite(str(tmp_path / f"img_{i:05}.png"), frame[..., ::-1])
    for video in (frames, str(tmp_path)):
        found, _ = played(reader, video, fps=10.0)
        assert [seconds for seconds, _ in found] == [0, 0.1, 0.2, 0.3, 0.4]
        np.testing.assert_array_equal([frame for _, frame in found], frames)
    assert played(reader, frames)[1] == 25 and len(played(reader, str(tmp_path / "img_00003.png"))[0]) == 1


def test_times_are_those_of_the_file_and_never_fall(reader, tmp_path):
    times = [0, 40, 500, 540, 2000, 2040]
    path = write_video(tmp_path / "vfr.mkv", numbered_frames(6), times=times, options={"bf": "0"})
    found, _ = played(reader, path)
    assert [seconds for seconds, _ in found] == pytest.approx(np.array(times) / 1000, abs=2e-3)
    one = open(write_video(tmp_path / "a.ts", numbered_frames(5)), "rb").read()
    seconds = [seconds for seconds, _ in played(reader, Pipe(one + one))[0]]  # the clock starts anew
    assert seconds == pytest.approx(np.arange(10) / 25, abs=2e-3)


def test_what_cannot_be_played(reader, tmp_path, monkeypatch):
    for content, words in ((b"", r"\(no file\): empty"),
                           (b"no video" * 500, r"not a readable video .*mkv, mpegts")):
        with pytest.raises(VideoError, match=words):
            played(reader, Pipe(content))
    photos = open(write_video(tmp_path / "a.mkv", numbered_frames(60), codec="mjpeg", pix_fmt="yuvj420p"),
                  "rb").read()
    unknown = photos.replace(b"\xff\xc0", b"\xff\xc9").replace(b"\xff\xc9", b"\xff\xc0", 1)  # a kind of JPEG
    with pytest.raises(VideoError, match=r"decoding failed \(.*, 11 times in 1 frames"):
        played(reader, unknown)
    with pytest.raises(VideoError, match="no index|not a readable video"):
        played(reader, Pipe(open(write_video(tmp_path / "a.mp4", numbered_frames(9)), "rb").read()[:-900]))
    whole = open(write_video(tmp_path / "a.mp4", numbered_frames(99),
                             container_options={"movflags": "faststart"}), "rb").read()
    for video in (whole[:len(whole) // 2], Pipe(whole[:len(whole) // 2])):
        with pytest.raises(VideoError, match="truncated: [0-9]+ of 99 frames|reading failed"):
            played(reader, video)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)}))
    for read in (reader.play, reader.local):
        with pytest.raises(VideoError, match="--video=-: standard input is a terminal: send a video"):
            read("-").__enter__()
    with pytest.raises(VideoError, match="camera:3: a camera has no end"), reader.local("camera:3"):
        pass
    assert [is_stream(x) for x in ("-", "camera:12", Pipe(b""), "camera:x", "a.mp4", b"-", tmp_path)] == [
        True, True, True, False, False, False, False]


@pytest.mark.parametrize("after", [0, 3000, 30_000])
def test_what_reading_raises_is_raised(reader, tmp_path, after):
    """A signal's exception comes through FFmpeg's calls, which would lose it."""
    content = open(write_video(tmp_path / "a.ts", numbered_frames(60)), "rb").read()
    assert len(content) > 30_000

    class Stopped(BaseException):
        pass

    class Stopping(Pipe):
        def read(self, size=-1):
            if self._file.tell() >= after:
                raise Stopped
            return super().read(size)

    with pytest.raises(Stopped):
        played(reader, Stopping(content))


def test_a_packet_that_cannot_be_decoded_is_passed_over(reader, tmp_path):
    content = bytearray(open(write_video(tmp_path / "a.mkv", numbered_frames(60), codec="mjpeg",
                                         pix_fmt="yuvj420p"), "rb").read())
    second = content.index(b"\xff\xd8\xff", content.index(b"\xff\xd8\xff") + 3)
    content[second:second + 300] = b"\0" * 300
    assert 55 <= len(played(reader, bytes(content))[0]) <= 60


def test_cameras(reader, monkeypatch):
    """A test picture of FFmpeg's stands for the camera: a device that has no end, too."""
    monkeypatch.setattr(container, "_device", lambda number, name: ("testsrc=size=64x48:rate=30", "lavfi"))
    with reader.play("camera:0") as camera:
        assert camera.is_stream and camera.fps == 30
        found = list(itertools.islice(camera, 4))
    assert [seconds for seconds, _ in found] == pytest.approx([0, 1 / 30, 2 / 30, 0.1])
    assert found[0][1].shape == (48, 64, 3) and found[0][1].std() > 50
    monkeypatch.setattr(container, "_device", lambda number, name: ("/dev/video977", "v4l2"))
    if any("v4l2" in name.split(",") for name in av.formats_available):
        with pytest.raises(VideoError, match="camera:977: no such camera, or it is in use .*video977"):
            played(reader, "camera:977")
    monkeypatch.setattr(container, "_device", lambda number, name: ("0", "retinascope"))
    with pytest.raises(VideoError, match="camera:0: PyAV .* was built without retinascope.*--video=-"):
        played(reader, "camera:0")


@pytest.mark.parametrize("platform,device", [
    ("linux", ("/dev/video1", "v4l2")), ("darwin", ("1", "avfoundation")), ("win32", ("video=USB", "dshow"))])
def test_every_system_has_its_devices(monkeypatch, platform, device):
    found = [types.SimpleNamespace(name=name, media_types=kinds) for name, kinds in (
        ("Microphone", ["audio"]), ("Built-in", ["video"]), ("USB", ["video", "audio"]))]
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "enumerate_input_devices", lambda kind: found, raising=False)
    assert container._device(1, "camera:1") == device
    if platform == "win32":
        with pytest.raises(VideoError, match="no such camera; there are 2: Built-in, USB"):
            container._device(2, "camera:2")


# ------------------------------------------------------------------------------------------------ windows
def cut(frames, length, stride, fps=10.0, times=None, **options):
    times = np.arange(len(frames)) / fps if times is None else times
    options = plain_options(data_config(num_frames=4, test_short_side=48, test_crop_size=48,
                                        test_crop="whole", **options))
    return list(windows.cut(zip(times, frames, strict=True), options, fps, length, stride))


def shades(count):
    """Frames that are known by their brightness."""
    return np.stack([np.full((12, 16, 3), i, np.uint8) for i in range(count)])


def shown(window):
    return window.views[0, :, 0, 0, 0].tolist()


def spans(found):
    return [(round(window.start, 3), round(window.end, 3)) for window in found]


def test_a_window_is_what_evaluation_sees_of_a_video_of_its_frames(tmp_path):
    options = data_config(num_frames=4, test_short_side=32, test_crop_size=32, test_crop="three",
                          twice_sample=True)
    reader, frames = ClipReader(options), numbered_frames(47)
    with reader.play(frames, 10.0) as video:
        found = list(video.windows(2.0, 1.5))
    assert spans(found) == [(0, 2), (1.5, 3.5), (2.7, 4.7)]
    for window in found:
        inside = frames[round(10 * window.start):round(10 * window.end)]
        np.testing.assert_array_equal(window.views, reader.views(inside))
    with reader.play(frames[:13], 10.0) as video:  # shorter than a window
        only, = video.windows(60.0, 60.0)
    np.testing.assert_array_equal(only.views, reader.views(frames[:13]))
    assert (only.start, only.end) == (0, 1.3)


def test_windows_cover_the_video():
    frames = shades(40)
    assert spans(cut(frames, 1, 1)) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert spans(cut(frames[:38], 1, 1)) == [(0, 1), (1, 2), (2, 3), (2.8, 3.8)]
    assert spans(cut(frames, 0.5, 2)) == [(0, 0.5), (2, 2.5), (3.5, 4)]
    assert spans(cut(frames, 2, 0.75)) == [(0, 2), (0.75, 2.75), (1.5, 3.5), (2, 4)]
    assert spans(cut(frames[:1], 1, 1)) == [(0, 0.1)]
    found = cut(frames, 0.4, 0.4)
    assert [shown(window) for window in found] == [list(range(i, i + 4)) for i in range(0, 40, 4)]


def test_a_window_without_frames_shows_the_one_before():
    found = cut(shades(3), 1, 1, times=[0.0, 3.5, 3.6])
    assert spans(found) == [(0, 1), (1, 2), (2, 3), (2.7, 3.7)]
    assert [set(shown(window)) for window in found] == [{0}, {0}, {0}, {1, 2}]


def test_windows_hold_the_frames_of_one_window(monkeypatch):
    held = []

    class Watched(windows.deque):
        def append(self, x):
            super().append(x)
            held.append(len(self))

    monkeypatch.setattr(windows, "deque", Watched)
    cut(shades(200), 1, 0.5)
    assert max(held) <= 12
    monkeypatch.setattr(windows, "MOST_BYTES", 48 * 48 * 3 * 20)
    with pytest.raises(DataError, match="--window=3: the frames of so many seconds .* at most 2 seconds"):
        cut(shades(5), 3, 3)
    with pytest.raises(DataError, match="--window=1: more than 20 frames come in so many seconds"):
        cut(shades(60), 1, 1, times=np.arange(60) / 500)


# ---------------------------------------------------------------------------------------- names, writing
def test_patterns(reader, tmp_path):
    for name in ("a/1.mp4", "a/2.MP4", "a/notes.txt", "b/3.mkv", "b/[4].mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def find(pattern):
        return [name.removeprefix(f"{tmp_path}/") for name in reader.find(f"{tmp_path}/{pattern}")]

    assert find("*/*") == ["a/1.mp4", "a/2.MP4", "b/3.mkv", "b/[4].mp4"] == find("**") == find("?")
    assert find("a/*.mp4") == ["a/1.mp4"] and find("b/[4].mp4") == ["b/[4].mp4"], "a file that is there"
    assert reader.find("-") == ["-"] and reader.find("camera:0") == ["camera:0"]
    with pytest.raises(VideoError, match=r"this pattern matches 1 files, none of them videos .*\.mp4"):
        find("a/*.txt")
    with pytest.raises(VideoError, match="this pattern matches no videos"):
        find("c/*")


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_frames_that_are_written_at_their_times(tmp_path, ending):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[..., 0], picture[..., 2] = np.arange(64) * 4, 200
    times = [0.0, 0.1, 0.2, 1.0, 1.04, 1.1]
    with frame_writer(tmp_path / "out", 25.0, gif=ending == "gif") as writer:
        for seconds in times:
            writer.add(picture, seconds)
    with av.open(str(tmp_path / "out")) as file:
        frames = list(file.decode(video=0))
        assert file.format.name.split(",")[0] == ("gif" if ending == "gif" else "mov")
    kept = [seconds for seconds in times if ending == "mp4" or seconds != 1.04]  # gif: 10 a second at most
    assert [float(frame.pts * frame.time_base) for frame in frames] == pytest.approx(kept, abs=0.01)
    assert np.abs(frames[0].to_ndarray(format="rgb24").astype(int) - picture).mean() < 4
