import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import (
    DataError,
    VideoError,
    check_videos,
    extract_frames,
    make_list,
    make_pipeline,
    synthetic,
    to_array_record,
    tools,
)
from data_pipelines.video.decode import open_video
from tests.data.clip_files import class_folders, data_config, numbered_frames, read_numbers, write_video

ROOT = Path(__file__).parents[2]
BROKEN = {"cut.mp4", "damaged.mp4", "empty.mp4", "no_frames.mp4", "sound_only.mp4", "text.mp4",
          "truncated.mp4"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of four good clips; class b also has the odd files."""
    root = tmp_path_factory.mktemp("videos")
    class_folders(root, {"a": 4, "b": 4})
    synthetic.make_odd_files(root / "b")
    return root


@pytest.fixture
def frame_folders(tmp_path):
    """imgs/x with 5 frames, imgs/y z with 3, imgs/empty without any."""
    for name, count in (("x", 5), ("y z", 3), ("empty", 0)):
        (tmp_path / "imgs" / name).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(tmp_path / "imgs" / name / f"img_{i + 1:05}.png"),
                        np.full((40, 48, 3), 40 * i, np.uint8))
    return tmp_path


def names_in(path):
    return {line.split("\t")[0] for line in Path(path).read_text().splitlines()}


def run(module, *arguments):
    return subprocess.run([sys.executable, "-m", f"data_pipelines.{module}", *map(str, arguments)],
                          cwd=ROOT, capture_output=True, text=True)


# ------------------------------------------------------------------------------------ check_videos
def test_check_finds_every_broken_file(videos, tmp_path, capsys):
    out = tmp_path / "broken.txt"
    assert check_videos.main([str(videos), f"--out={out}"]) == 1
    assert names_in(out) == {f"b/{name}" for name in BROKEN}
    assert all("\t" in line for line in out.read_text().splitlines())
    printed = capsys.readouterr()
    print(printed.out)
    assert "7 of 20 clips are broken" in printed.out and "b/cut.mp4: " in printed.out
    assert "checking" in printed.err and "20/20" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.txt"]  # no journal left
    assert check_videos.main([str(videos / "a"), f"--out={out}"]) == 0
    assert out.read_text() == "", "asked for by name"


def test_nothing_broken_leaves_nothing_behind(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.txt").write_text("a/0.mp4\tof an earlier check\n")
    assert check_videos.main([str(videos / "a")]) == 0
    assert not list(tmp_path.iterdir()) and "0 of 4 clips are broken\n" in capsys.readouterr().out
    assert check_videos.main([str(videos)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken.txt"]


def test_check_continues_after_an_interruption(videos, tmp_path, monkeypatch):
    out = tmp_path / "broken.txt"
    checked = []

    def check(path, stop_after=9):
        if len(checked) == stop_after:
            raise KeyboardInterrupt
        checked.append(os.path.relpath(path, videos))
        if os.path.getsize(path) == 0:
            raise VideoError(path, "empty")

    monkeypatch.setattr(check_videos, "check_file", check)
    with pytest.raises(KeyboardInterrupt):
        check_videos.main([str(videos), f"--out={out}", "--workers=1"])
    journal = tmp_path / "broken.txt.journal"
    with open(journal, "a") as file:
        file.write('["b/vfr.m')  # a kill in the middle of a line
    known = [json.loads(line)[0] for line in journal.read_text().splitlines()[1:-1]]
    assert 0 < len(known) <= 9
    first, checked[:] = list(checked), []
    monkeypatch.setattr(check_videos, "check_file", lambda path: check(path, stop_after=99))
    assert check_videos.main([str(videos), f"--out={out}"]) == 1
    assert not set(checked) & set(known) and len(set(first) | set(checked)) == 20
    assert out.read_text() == "b/empty.mp4\tempty\n" and not journal.exists()


def test_check_of_lists(videos, frame_folders, tmp_path):
    out = tmp_path / "broken.txt"
    (tmp_path / "list.txt").write_text("a/0.mp4 0\nb/name with blanks.mp4 1 0\nb/gone.mp4 1\n")
    arguments = [f"--list={tmp_path / 'list.txt'}", f"--root={videos}", f"--out={out}"]
    assert check_videos.main(arguments) == 1
    assert out.read_text() == "b/gone.mp4\tfile does not exist\n"
    os.truncate(frame_folders / "imgs/x/img_00003.png", 20)
    (tmp_path / "frames.txt").write_text("x 5 0\ny z 3 0 1\nx 7 1\n")
    arguments = [f"--list={tmp_path / 'frames.txt'}", f"--root={tmp_path / 'imgs'}", f"--out={out}",
                 "--list_format=frames"]
    assert check_videos.main(arguments) == 1
    assert names_in(out) == {"x"}


def test_check_notices_concealed_damage(tmp_path):
    """Zeros in the middle of a file: a decoder may carry on, with wrong pixels."""
    path = tmp_path / "a.mp4"
    write_video(path, numbered_frames(60, (160, 120)), options={"g": "60"})
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    data[start:start + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(VideoError) as caught:
        check_videos.check_file(str(path))
    print(caught.value.reason)


# --------------------------------------------------------------------------------------- make_list
def test_lists_of_a_folder_make_the_same_split_as_the_folder_source(videos, tmp_path):
    exclude = tmp_path / "broken.txt"
    check_videos.main([str(videos), f"--out={exclude}"])
    out = tmp_path / "lists"
    assert make_list.main([f"--root={videos}", f"--out={out}", f"--exclude={exclude}",
                           "--val_share=0.25"]) == 0
    lists = {split: (out / f"{split}.txt").read_text().splitlines() for split in ("train", "val")}
    assert (out / "classes.txt").read_text() == "a\nb\n"
    assert len(lists["train"]) + len(lists["val"]) == 13
    common = dict(root=str(videos), max_broken_share=0.5)
    for split, lines in lists.items():
        folder = make_pipeline(data_config(source="folder", **common), split).source
        listed = make_pipeline(data_config(
            source="list", train_list=str(out / "train.txt"), val_list=str(out / "val.txt"),
            classes_file=str(out / "classes.txt"), **common), split).source
        ours = {(listed.entry(i).name, listed.entry(i).labels) for i in range(len(listed))}
        theirs = {(folder.entry(i).name, folder.entry(i).labels) for i in range(len(folder))}
        assert len(ours) == len(lines)
        assert ours == {(name, label) for name, label in theirs if name.split("/")[1] not in BROKEN}


def test_list_of_everything_names_what_it_leaves_out(videos, tmp_path, capsys):
    arguments = [f"--root={videos}", f"--out={tmp_path / 'all.txt'}"]
    with pytest.raises(DataError, match="of the 20 clips cannot be used.*--max_broken_share=0.01 "
                                        r"allows .1 clips.|.*The first ones: b/"):
        make_list.main(arguments)
    assert make_list.main(arguments + ["--max_broken_share=0.5"]) == 0
    lines = (tmp_path / "all.txt").read_text().splitlines()
    assert lines == sorted(lines) and "b/name with blanks.mp4 1" in lines and len(lines) == 15
    printed = capsys.readouterr().out
    assert "left out 5 of 20 clips" in printed and "b/empty.mp4: empty file" in printed


def test_conversion_recounts_frames(frame_folders, capsys):
    source, out = frame_folders / "arnet.txt", frame_folders / "out.txt"
    source.write_text("x,117,3,3,1\ny z,80,12\nempty,4,2\ngone,9,0\n")
    arguments = [f"--convert={source}", f"--root={frame_folders / 'imgs'}", f"--out={out}",
                 "--list_format=frames", "--max_broken_share=0.5"]
    assert make_list.main(arguments) == 0
    assert out.read_text() == "x 5 3 1\ny z 3 12\n"
    printed = capsys.readouterr().out
    assert "gone: folder does not exist" in printed and "empty: holds no img_00001.png" in printed
    assert make_list.main(arguments + ["--min_frames=4", "--max_broken_share=0.8"]) == 0
    assert out.read_text() == "x 5 3 1\n"


def test_conversion_finds_the_video_files(videos, tmp_path):
    source, out = tmp_path / "minik.txt", tmp_path / "train.txt"
    source.write_text("a/0 300 7\nb/name with blanks 24 2\na/1 300 7\n")
    assert make_list.main([f"--convert={source}", f"--root={videos}", f"--out={out}"]) == 0
    assert out.read_text() == "a/0.mp4 7\nb/name with blanks.mp4 2\na/1.mp4 7\n"


# --------------------------------------------------------------------------------- to_array_record
def test_shards_hold_the_same_frames(videos, tmp_path, capsys):
    common = [f"--root={videos}", f"--out={tmp_path}", "--val_share=0.25", "--num_shards=2",
              "--max_broken_share=0.5"]
    assert to_array_record.main(common + ["--split=train", "--frames=6", "--short_side=32"]) == 0
    assert to_array_record.main(common + ["--split=val", "--kind=video"]) == 0
    assert (tmp_path / "classes.txt").read_text() == "a\nb\n"
    printed = capsys.readouterr().out
    print(printed)
    assert "left out" in printed
    found = names_in(tmp_path / "train_broken.txt") | names_in(tmp_path / "val_broken.txt")
    assert found <= {f"b/{name}" for name in BROKEN} and "b/cut.mp4" in found
    config = data_config(source="array_record", root=str(tmp_path))
    for split in ("train", "val"):
        source = make_pipeline(config, split).source
        assert source.class_names == ["a", "b"]
        for i in range(len(source)):
            name, labels = source.entry(i)[:2]
            assert labels == ("ab".index(name[0]),)
            with open_video(str(videos / name)) as video, source.open(i) as stored:
                count = video.num_frames
                if split == "val":
                    assert stored.num_frames == count
                    ends = [0, count - 1]
                    np.testing.assert_array_equal(stored.get(ends), video.get(ends))
                    continue
                kept = min(6, count)
                assert stored.num_frames == kept
                frames = stored.get(range(kept))
                assert min(frames.shape[1:3]) == 32
                indices = [int((k + 0.5) * count / kept) for k in range(kept)]
                expected = to_array_record.resize_short_side(video.get(indices), 32).astype(int)
                if name != "b/odd_size.mp4" and name != "b/vfr.mp4":  # texture that JPEG blurs
                    assert np.abs(frames - expected).mean() < 14
    assert next(make_pipeline(config, "train"))["video"].shape == (8, 4, 32, 32, 3)


def test_an_interrupted_conversion_continues_with_the_next_shard(videos, tmp_path, monkeypatch):
    arguments = [f"--root={videos / '..' / videos.name}", f"--out={tmp_path}", "--split=train",
                 "--num_shards=4", "--max_broken_share=0.6", "--workers=1", "--short_side=32"]
    original, made = to_array_record.jpeg_record, []

    def record(reader, name, labels, **settings):
        if len(made) == 6:
            raise KeyboardInterrupt
        made.append(name)
        return original(reader, name, labels, **settings)

    monkeypatch.setattr(to_array_record, "jpeg_record", record)
    with pytest.raises(KeyboardInterrupt):
        to_array_record.main(arguments)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.array_record")}
    assert 0 < len(done) < 4 and not list(tmp_path.glob("*.incomplete"))
    monkeypatch.setattr(to_array_record, "jpeg_record", original)
    assert to_array_record.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    source = make_pipeline(data_config(source="array_record", root=str(tmp_path)), "train").source
    stored = {source.entry(i).name for i in range(len(source))}
    missing = names_in(tmp_path / "train_broken.txt")
    assert not stored & missing and len(stored) + len(missing) == 16
    with pytest.raises(DataError, match="made in another way .quality=90 there, 50 now"):
        to_array_record.main(arguments + ["--quality=50"])


def test_too_many_broken_videos_stop_a_conversion(videos, tmp_path):
    with pytest.raises(DataError, match="cannot be used.*The first ones: b/.*--max_broken_share"):
        to_array_record.main([f"--root={videos}", f"--out={tmp_path}", "--split=train"])
    assert len(list(tmp_path.glob("*.array_record"))) < 8
    assert not list(tmp_path.glob("*.incomplete"))


def test_frame_folders_become_shards(frame_folders):
    (frame_folders / "list.txt").write_text("x 5 0 1\ny z 3 1\n")
    out = frame_folders / "shards"
    assert to_array_record.main([
        f"--root={frame_folders / 'imgs'}", f"--list={frame_folders / 'list.txt'}", f"--out={out}",
        "--list_format=frames", "--num_classes=2", "--multi_label", "--split=train"]) == 0
    source = make_pipeline(data_config(source="array_record", root=str(out), multi_label=True),
                           "train").source
    assert [source.entry(i)[:2] for i in range(2)] == [("x", (0, 1)), ("y z", (1,))]
    grey = source.open(0).get(range(5))[:, 9, 9, 0]
    np.testing.assert_allclose(grey, [0, 40, 80, 120, 160], atol=1)


# ---------------------------------------------------------------------------------- extract_frames
def test_extracted_frames(videos, tmp_path, capsys):
    assert extract_frames.main([f"--root={videos / 'b'}", f"--out={tmp_path}"]) == 1
    assert names_in(tmp_path / "broken.txt") == BROKEN
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {"0", "1", "2", "3", "name with blanks", "odd_size", "one_frame", "rotated",
                       "vfr"}
    printed = capsys.readouterr().out
    print(printed)
    assert "frames of 9 of 16 videos" in printed
    images = sorted((tmp_path / "name with blanks").iterdir())
    assert [path.name for path in images] == [f"img_{i:05}.png" for i in range(1, 5)]  # 0.96 s
    assert cv2.imread(str(images[0])).shape[0] == 360
    assert len(list((tmp_path / "one_frame").iterdir())) == 1
    before = images[0].stat().st_mtime_ns
    (images[0].parent.parent / ".vfr.part").mkdir()
    extract_frames.main([f"--root={videos / 'b'}", f"--out={tmp_path}"])  # skips what is finished
    assert images[0].stat().st_mtime_ns == before


def test_extraction_of_every_frame_is_decoding(videos, tmp_path):
    for name in ("rotated", "vfr"):
        extract_frames.extract(str(videos / "b" / f"{name}.mp4"), tmp_path / name, fps=0, height=0,
                               template="f{:03}.png")
        with open_video(str(videos / "b" / f"{name}.mp4")) as video:
            expected = video.get(range(video.num_frames)).astype(int)
        images = [cv2.imread(str(path))[..., ::-1] for path in sorted((tmp_path / name).iterdir())]
        assert np.abs(np.stack(images) - expected).max() <= 6  # rounding of the colour conversion


def test_extraction_follows_time_stamps(tmp_path):
    """Variable frame rate: each image is the frame that is on display around its time."""
    times = np.cumsum(np.random.default_rng(0).integers(20, 200, 40))
    write_video(tmp_path / "a.mp4", numbered_frames(40), times=times)
    extract_frames.extract(str(tmp_path / "a.mp4"), tmp_path / "a", fps=4, height=48,
                           template="img_{:05}.png")
    images = np.stack([cv2.imread(str(path)) for path in sorted((tmp_path / "a").iterdir())])
    seconds = (times - times[0])[read_numbers(images)] / 1000
    print(np.round(seconds, 2).tolist())
    assert len(images) == pytest.approx((times[-1] - times[0]) / 250, abs=2)
    assert np.abs(seconds - np.arange(len(images)) / 4).max() < 0.26


# -------------------------------------------------------------------------------------- exit codes
@pytest.mark.parametrize("module, arguments, message", [
    ("check_videos", ["/nowhere"], "error: /nowhere is not a folder"),
    ("make_list", ["--root=/nowhere", "--out=x"], "error: data.root='/nowhere' is not a folder"),
    ("to_array_record", ["--list=/nowhere.txt", "--out={tmp}", "--split=train", "--num_classes=3"],
     "/nowhere.txt"),
    ("extract_frames", ["--root={tmp}", "--out=x"], "holds no video files"),
    ("prepare", ["ucf101", "--raw=/nowhere"], "error: --raw=/nowhere is not a folder"),
    ("synthetic", ["--out={tmp}", "--difficulty=7"], "data.synthetic.difficulty=7.0 must be"),
])
def test_mistakes_end_with_one_line(tmp_path, module, arguments, message):
    done = run(module, *(argument.format(tmp=tmp_path) for argument in arguments))
    print(done.stderr)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_tool_says_so(tmp_path, number):
    """Ctrl-C, and whoever stops a job: exit code 130, one line, and what is finished stays."""
    process = subprocess.Popen(
        [sys.executable, "-m", "data_pipelines.synthetic", f"--out={tmp_path}"], cwd=ROOT,
        stderr=subprocess.PIPE, text=True,
        # A test run in the background of a script ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while not list(tmp_path.rglob("*.mp4")):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in errors
    assert "Traceback" not in errors and not list(tmp_path.rglob("*.part"))


# ------------------------------------------------------------------------------------------- tools
def test_parallel_keeps_the_order_and_stops_at_an_error(capsys):
    def slow(x):
        time.sleep(0.002 * (x % 3))
        if x == 30:
            raise VideoError("clip", "bad")
        seen.append(x)
        return x * x

    seen = []
    assert list(tools.parallel(slow, range(20), 4, "squares", "x")) == [x * x for x in range(20)]
    seen = []
    with pytest.raises(VideoError):
        list(tools.parallel(slow, range(1000), 2, "squares", "x"))
    assert len(seen) < 60
    assert "squares" in capsys.readouterr().err


def test_atomic_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), tools.atomic_write(tmp_path / "a") as part:
        part.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
