import tracemalloc

import av
import cv2
import numpy as np
import pytest

from data_pipelines import VideoError
from data_pipelines.batches import clips, sampling, transforms
from data_pipelines.video import video_file
from data_pipelines.video.decode import ArrayFrames, FrameFolder, JpegRecord, open_record, open_video
from data_pipelines.video.records import Record, decode_record, encode_record
from tests.data.clip_files import data_config, numbered_frames, patch_rotation, read_numbers, write_video

TIMES = np.cumsum(np.random.default_rng(0).integers(10, 90, 100))  # ms: variable frame rate

# Name, number of frames, arguments of write_video.
FORMATS = {
    "short.mp4": (30, {}),
    "long.mp4": (100, {}),
    "one_frame.mp4": (1, {}),
    "open_gop.mp4": (100, {"options": {"x264-params": "open-gop=1:scenecut=0", "bf": "3"}}),
    "one_key_frame.mp4": (100, {"options": {"g": "250"}}),
    "variable_rate.mp4": (100, {"times": TIMES}),
    "variable_rate_short.mp4": (20, {"times": TIMES[:20]}),
    "fragmented.mp4": (100, {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "variable_rate.mkv": (100, {"times": TIMES}),
    "vp9.webm": (80, {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "b_frames.avi": (100, {"codec": "mpeg4", "options": {"bf": "2", "g": "12", "b": "2000000"}}),
    "b_frames.mpg": (80, {"codec": "mpeg2video", "options": {"bf": "2", "b": "2000000"}}),
    "transport.ts": (80, {}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_exact(tmp_path, name):
    count, arguments = FORMATS[name]
    path = write_video(tmp_path / name, numbered_frames(count), **arguments)
    with open_video(path) as reader:
        assert reader.num_frames == count
        assert read_numbers(reader.get(range(count))) == list(range(count))
        everything = reader.get(range(count))
    with open(path, "rb") as file:
        from_bytes = open_video(file.read(), name="bytes")
    rng = np.random.default_rng(1)
    for _ in range(6):
        indices = rng.integers(0, count, 5)
        frames = from_bytes.get(indices)
        assert read_numbers(frames) == indices.tolist()
        np.testing.assert_array_equal(frames, everything[indices])  # same pixels however read
    # A fresh reader per request, as the pipeline uses it.
    with open_video(path) as reader:
        np.testing.assert_array_equal(reader.get([count - 1, 0]), everything[[count - 1, 0]])


@pytest.mark.parametrize("name, arguments", [
    ("b_frames.mp4", {}), ("plain.mp4", {"options": {"bf": "0"}}), ("b_frames.mkv", {}),
    ("variable_rate.mp4", {"times": TIMES})])
def test_a_seek_begins_at_the_key_frame_before(tmp_path, monkeypatch, name, arguments):
    """Of 100 frames with a key frame every 12 no more than 12 are decoded for one."""
    path, decoded, step = write_video(tmp_path / name, numbered_frames(100), **arguments), [], []
    read = video_file.VideoFile._next_frame
    monkeypatch.setattr(video_file.VideoFile, "_next_frame", lambda self: decoded.append(1) or read(self))
    with open_video(path) as reader:
        for index in (95, 83, 71, 60, 40, 11):
            decoded.clear()
            assert read_numbers(reader.get([index])) == [index]
            step.append(len(decoded))
    assert step == [12, 12, 12, 1, 5, 12]


def test_an_edit_list_hides_frames(tmp_path):
    """Cutting without re-encoding leaves frames in the file that no player shows."""
    for count in (30, 100):  # read sequentially, by time stamps
        path = write_video(tmp_path / f"{count}.mp4", numbered_frames(count))
        with open(path, "rb") as file:
            data = bytearray(file.read())
        at = data.index(b"elst") + 16  # media time of the first edit, in 1/12800 s: 512 per frame
        start = int.from_bytes(data[at:at + 4], "big")
        data[at:at + 4] = (start + 5 * 512).to_bytes(4, "big")
        reader = open_video(bytes(data))
        assert reader.num_frames == count - 5
        assert read_numbers(reader.get([0, 3, count - 6])) == [5, 8, count - 1]


def test_long_sequential_files_are_not_kept_in_memory(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", numbered_frames(60), codec="mpeg4",
                       options={"b": "2000000"})
    monkeypatch.setattr(video_file, "SEQUENTIAL_PIXELS", 64 * 48 * 10)
    reader = open_video(path)
    assert reader.num_frames == 60 and reader._frames is None
    for indices in ([3, 59, 0, 3], [58]):
        assert read_numbers(reader.get(indices)) == indices


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    path = write_video(tmp_path / "a.mp4", numbered_frames(5))
    upright = open_video(path).get([2])[0]
    patch_rotation(path, degrees)
    reader = open_video(path)
    rotated = reader.get([2])[0]
    np.testing.assert_array_equal(rotated, np.rot90(upright, -degrees // 90))
    assert reader.stored_size == (48, 64)


@pytest.mark.parametrize("name, arguments", [
    ("odd.mp4", {"pix_fmt": "yuv444p"}), ("odd.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p"})])
def test_odd_sizes(tmp_path, name, arguments):
    frames = numbered_frames(70, size=(75, 53))
    reader = open_video(write_video(tmp_path / name, frames, **arguments))
    ours = reader.get([0, 66])
    assert ours.shape == (2, 53, 75, 3) and read_numbers(ours) == [0, 66]
    difference = np.abs(ours[1].astype(int) - frames[66]).mean()
    print(f"{name}: mean difference to the source {difference:.2f}")
    assert difference < 25  # noise texture, chroma subsampled


def test_tags_that_are_not_unicode(tmp_path):
    """Common in files of old cameras; the pictures are fine."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(5))
    data = open(path, "rb").read()
    assert data.count(b"Lavf") == 1
    assert open_video(data.replace(b"Lavf", b"\xe9\xe8\xff\x80")).num_frames == 5


def test_colours(tmp_path):
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[..., :] = (200, 60, 20)
    ours = open_video(write_video(tmp_path / "red.mp4", frames)).get([1])[0]
    assert np.abs(ours.astype(int) - (200, 60, 20)).max() <= 3  # R, G, B


def broken_files(folder):
    good = write_video(folder / "good.mp4", numbered_frames(100),
                       container_options={"movflags": "faststart"})
    data = open(good, "rb").read()
    short = open(write_video(folder / "short.mp4", numbered_frames(30),
                             container_options={"movflags": "faststart"}), "rb").read()
    mkv = open(write_video(folder / "good.mkv", numbered_frames(100)), "rb").read()
    avi = open(write_video(folder / "good.avi", numbered_frames(100), codec="mpeg4"), "rb").read()
    moov_last = open(write_video(folder / "plain.mp4", numbered_frames(20)), "rb").read()
    return {
        "missing.mp4": (None, "does not exist"),
        "empty.mp4": (b"", "empty file"),
        "text.mp4": (b"these are not pictures\n" * 50, "not a readable video"),
        "no_index.mp4": (moov_last[:-2000], "not a readable video"),
        "half_index.mp4": (moov_last[:-600], "codec of the video stream is unknown"),
        "truncated.mp4": (data[:len(data) // 2], "truncated"),
        "truncated_short.mp4": (short[:len(short) // 2], "truncated|decoding failed"),
        "truncated.mkv": (mkv[:len(mkv) // 2], "truncated: .* of 100 frames"),
        "truncated.avi": (avi[:len(avi) // 2], "truncated: .* of 100 frames"),
        "zeros.mp4": (b"\0" * 5000, "not a readable video"),
    }


def test_broken_files_have_a_name_and_a_reason(tmp_path):
    for name, (data, reason) in broken_files(tmp_path).items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(VideoError, match=reason) as caught:
            with open_video(path) as reader:
                reader.get(range(reader.num_frames))
        print(caught.value)
        assert caught.value.name == str(path) and str(path) in str(caught.value)


def test_random_damage_ends_in_a_video_error_or_in_frames(tmp_path):
    rng = np.random.default_rng(0)
    outcomes = {"frames": 0, "error": 0}
    for name, count in (("a.mp4", 30), ("b.mp4", 80), ("c.mkv", 80), ("d.ts", 30), ("e.avi", 30)):
        codec = "mpeg4" if name == "e.avi" else "libx264"
        path = write_video(tmp_path / name, numbered_frames(count), codec=codec)
        good = open(path, "rb").read()
        for attempt in range(12):
            data = bytearray(good)
            head = len(data) if attempt % 2 else 2000
            for position in rng.integers(0, head, 1 + attempt):
                data[position] = rng.integers(256)
            try:
                with open_video(bytes(data[:rng.integers(len(data))] if attempt > 8 else data),
                                name) as reader:
                    assert reader.get([0, reader.num_frames - 1]).dtype == np.uint8
                outcomes["frames"] += 1
            except VideoError as error:
                assert error.name == name and error.reason
                outcomes["error"] += 1
    print(outcomes)
    assert min(outcomes.values()) > 10


def test_files_without_frames_or_pictures(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        open_video(tmp_path / "sound.mp4")
    for ending, codec in (("mp4", "libx264"), ("avi", "mpeg4")):
        with av.open(str(tmp_path / f"zero.{ending}"), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
        with pytest.raises(VideoError, match="no frames|no video stream"):
            open_video(tmp_path / f"zero.{ending}")
    with pytest.raises(VideoError, match="is a folder"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match=r"^clip 7: empty \(0 bytes\)"):
        open_video(b"", name="clip 7")


def test_indices_outside_are_a_programmers_error(tmp_path):
    reader = open_video(write_video(tmp_path / "a.mp4", numbered_frames(5)))
    for indices in ([5], [-1], []):
        with pytest.raises(IndexError):
            reader.get(indices)


def test_frame_folder(tmp_path):
    frames = numbered_frames(7)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"img_{i + 1:05}.png"), frame[..., ::-1])
    reader = FrameFolder(tmp_path, 7)
    assert reader.num_frames == 7 and reader.stored_size == (48, 64)
    np.testing.assert_array_equal(reader.get([6, 0, 0, 3]), frames[[6, 0, 0, 3]])
    with pytest.raises(VideoError, match="img_00008.png is missing, the list says 8 frames"):
        FrameFolder(tmp_path, 8)
    with pytest.raises(VideoError, match="0 frames"):
        FrameFolder(tmp_path, 0)
    with pytest.raises(VideoError, match="folder does not exist"):
        FrameFolder(tmp_path / "nothing", 3)
    (tmp_path / "img_00003.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match="img_00003.png is not a readable image"):
        reader.get([2])
    (tmp_path / "img_00003.png").unlink()
    with pytest.raises(VideoError, match="img_00003.png: No such file"):
        reader.get([2])
    cv2.imwrite(str(tmp_path / "img_00003.png"), frames[0, :20])
    with pytest.raises(VideoError, match="frame 2 has shape"):
        reader.get([0, 2])


def jpeg_record(frames, **changes):
    jpegs = tuple(cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in frames)
    fields = dict(name="class/clip", labels=(3, 1), fps=30.0, num_frames=21, jpegs=jpegs,
                  frame_indices=tuple(range(0, 3 * len(frames), 3)))
    return Record(**(fields | changes))


def test_jpeg_record(tmp_path):
    frames = numbered_frames(7)
    record = jpeg_record(frames)
    value = encode_record(record)
    assert decode_record(value) == record
    reader = open_record(value)
    assert reader.num_frames == 7 and reader.fps == 10.0 and reader.stored_size == (48, 64)
    assert read_numbers(reader.get([6, 2, 2])) == [6, 2, 2]
    np.testing.assert_array_equal(JpegRecord(value).get([1]), reader.get([1]))


def test_video_record_has_the_bytes_of_the_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(9))
    data = open(path, "rb").read()
    record = Record("a", (0,), 25.0, 9, video=data)
    assert decode_record(encode_record(record)) == record
    reader = open_record(encode_record(record))
    np.testing.assert_array_equal(reader.get([8, 1]), open_video(path).get([8, 1]))


def test_damaged_records():
    value = encode_record(jpeg_record(numbered_frames(3)))
    for data, reason in ((b"", "too short"), (b"EVR0" + value[4:], "starts with b'EVR0'"),
                         (value[:30], "ends inside its header"), (value[:-9], "bytes of frames")):
        with pytest.raises(VideoError, match=reason):
            open_record(data, "shard 3")
    start = value.index(b"\xff\xd8")
    with pytest.raises(VideoError, match="class/clip: frame 0 is not a readable image"):
        open_record(value[:start] + b"\0" * 200 + value[start + 200:]).get([0])
    with pytest.raises(ValueError, match="either jpegs or video"):
        encode_record(jpeg_record(numbered_frames(1), jpegs=None))
    with pytest.raises(ValueError, match="as many frame_indices"):
        encode_record(jpeg_record(numbered_frames(2), frame_indices=(0,)))


def test_array_frames():
    frames = numbered_frames(4)
    reader = ArrayFrames(frames, fps=5.0)
    assert reader.num_frames == 4 and reader.fps == 5.0
    np.testing.assert_array_equal(reader.get([2, 2, 0]), frames[[2, 2, 0]])
    seen = []
    reader.get(range(4), lambda frame: seen.append(frame) or frame[:0])
    np.testing.assert_array_equal(seen, frames, "once each, in order: the cache counts on it")


def test_large_frames_are_never_in_memory_together(tmp_path):
    """Frames are made small one by one; what comes out is what it was."""
    for i in range(8):
        cv2.imwrite(str(tmp_path / f"img_{i + 1:05}.png"), np.full((600, 800, 3), 30 * i, np.uint8))
    options = data_config(num_frames=8, test_clips=3, sampling="dense", test_crop="three", test_short_side=32)
    with FrameFolder(tmp_path, 8) as reader:
        tracemalloc.start()
        views = clips.eval_views(reader, options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        indices = sampling.sample_test(options, 8)
        whole = transforms.crops_for_test(options, reader.get(indices.reshape(-1)))
    assert np.array_equal(views, np.concatenate([x.reshape(*indices.shape, *x.shape[1:]) for x in whole]))
    assert peak < 4 * 600 * 800 * 3, f"{peak / 1e6:.1f} MB for frames of 1.4 MB"


def test_large_short_clips_are_not_kept_decoded(tmp_path, monkeypatch):
    frames = numbered_frames(20)
    path = write_video(tmp_path / "a.mp4", frames)
    monkeypatch.setattr(video_file, "SHORT_CLIP_PIXELS", 64 * 48 * 10)
    with open_video(path) as reader, open_video(path) as other:
        assert reader._frames is None
        for indices in ([3, 19, 3, 0], [5], list(range(20))):
            assert read_numbers(reader.get(indices)) == indices
        other.num_frames = 21  # an index that counts one more than there is, as after a cut
        assert read_numbers(other.get([18, 20])) == [18, 19]
        other.num_frames = 40
        with pytest.raises(VideoError, match="truncated"):
            other.get([39])
