import os
import pickle
import re

import cv2
import numpy as np
import pytest

from data_pipelines import DataError, Entry, VideoError
from data_pipelines.options import plain_options
from data_pipelines.sources import make_source, shards
from data_pipelines.sources.class_names import read_class_names
from data_pipelines.sources.lists import ListItem, read_list
from data_pipelines.video.records import Record, ShardWriter
from tests.data.clip_files import data_config, numbered_frames, read_numbers, write_video


def source(split="train", **changes):
    return make_source(plain_options(data_config(**changes)), split)


def lines(path, *text):
    path.write_text("\n".join(text) + "\n")
    return str(path)


# --------------------------------------------------------------------------------------- list files
@pytest.mark.parametrize("text, list_format, multi_label, expected", [
    ("a/b.mp4 3", "video", False, ListItem("a/b.mp4", 0, (3,))),
    ("a/my clip 12.mp4 3", "video", False, ListItem("a/my clip 12.mp4", 0, (3,))),
    ("my clip 12 3", "video", False, ListItem("my clip 12", 0, (3,))),
    ("a.mp4 3 1 4", "video", True, ListItem("a.mp4", 0, (3, 1, 4))),
    ("a/b, c.mp4,3", "video", False, ListItem("a/b, c.mp4", 0, (3,))),
    ("a, b.mp4 3", "video", False, ListItem("a, b.mp4", 0, (3,))),
    ("a.mp4, 3, 1", "video", True, ListItem("a.mp4", 0, (3, 1))),
    ("v_x 120 3", "frames", False, ListItem("v_x", 120, (3,))),
    ("my dir\t120  3", "frames", False, ListItem("my dir", 120, (3,))),
    ("v_x,120,3,1", "frames", True, ListItem("v_x", 120, (3, 1))),
    ("v_x 120 3 1 2", "frames", True, ListItem("v_x", 120, (3, 1, 2))),
])
def test_list_lines(tmp_path, text, list_format, multi_label, expected):
    second = "other 5 4" if list_format == "frames" else "other 4"
    path = lines(tmp_path / "list.txt", text, "", second)
    items = read_list(path, list_format, multi_label, num_classes=5)
    assert items[0] == expected and len(items) == 2


@pytest.mark.parametrize("text, list_format, expected", [
    ("a.mp4", "video", r"list.txt:2: cannot read 'a.mp4'.*path label.*list_format"),
    ("a.mp4 cat", "video", r"list.txt:2: cannot read 'a.mp4 cat'"),
    ("v_x 3", "frames", r"list.txt:2: cannot read 'v_x 3'.*folder num_frames label"),
    ("a.mp4 5", "video", r"list.txt:2: label 5 of 'a.mp4' is out of range: data.num_classes=5 "
                         r"allows 0 to 4"),
    ("a.mp4 -1", "video", r"list.txt:2: label -1 "),
    ("v_x -3 1", "frames", r"list.txt:2: -3 frames"),
])
def test_bad_list_lines_are_named(tmp_path, text, list_format, expected):
    path = lines(tmp_path / "list.txt", "fine 7 0", text)
    with pytest.raises(DataError, match=expected):
        read_list(path, list_format, False, num_classes=5)


def test_csv_header_is_skipped_and_empty_lists_are_errors(tmp_path):
    path = lines(tmp_path / "list.csv", "path,label", "a.mp4,1")
    assert read_list(path, "video", False, 2) == [ListItem("a.mp4", 0, (1,))]
    with pytest.raises(DataError, match="lists no clips"):
        read_list(lines(tmp_path / "empty.txt", ""), "video", False, 2)


def test_class_names(tmp_path):
    path = tmp_path / "classes.txt"
    assert read_class_names(lines(path, "jump", "run fast")) == ["jump", "run fast"]
    assert read_class_names(lines(path, "1 b", "0 a")) == ["a", "b"]
    assert read_class_names(lines(path, "1, a x", "2, b")) == ["a x", "b"]
    assert read_class_names(lines(path, "3 pointers", "jump")) == ["3 pointers", "jump"]
    with pytest.raises(DataError, match="one is missing or repeated"):
        read_class_names(lines(path, "0 a", "2 b"))
    with pytest.raises(DataError, match="no class names"):
        read_class_names(lines(path, ""))


def test_list_source(tmp_path):
    write_video(tmp_path / "my clip.mp4", numbered_frames(9))
    train = lines(tmp_path / "train.txt", "my clip.mp4 1")
    classes = lines(tmp_path / "classes.txt", "a", "b")
    ours = source(source="list", root=str(tmp_path), train_list=train, val_list="train.txt",
                  classes_file=classes)  # list files may be relative to the root, too
    ours = pickle.loads(pickle.dumps(ours))
    assert len(ours) == 1 and ours.class_names == ["a", "b"]
    assert ours.entry(0) == Entry("my clip.mp4", (1,))
    assert read_numbers(ours.open(0).get([8, 3])) == [8, 3]
    entry, reader = ours.read(0)
    assert entry.labels == (1,) and reader.num_frames == 9


def test_a_folder_a_split(tmp_path, monkeypatch):
    """Below data.root, or anywhere else; lists and class names stay where they were."""
    for folder in ("all/train_clips", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    write_video(tmp_path / "all/train_clips/a.mp4", numbered_frames(3))
    write_video(tmp_path / "elsewhere/b.mp4", numbered_frames(4))
    lines(tmp_path / "all/train.txt", "a.mp4 1")
    lines(tmp_path / "all/val.txt", "b.mp4 0")
    monkeypatch.chdir(tmp_path)
    fields = dict(source="list", root="all", train_list="train.txt", val_list="val.txt", num_classes=2,
                  train_root="train_clips", val_root="elsewhere")
    train, val = source(**fields), source("val", **fields)
    assert (train.path(0), val.path(0)) == ("all/train_clips/a.mp4", "elsewhere/b.mp4")
    assert train.read(0)[1].num_frames == 3 and val.read(0)[1].num_frames == 4
    assert "data.val_root='elsewhere'" in val.description and "--root=elsewhere" in val.check_command
    two = lines(tmp_path / "two.txt", "a.mp4 1", "a.mp4 0")
    held_out = source("calib", **{**fields, "calib_share": 0.5, "train_list": two})
    assert held_out.open(0).num_frames == 3, "of the training videos"
    with pytest.raises(DataError, match=r"all/nowhere \(data.val_root\)"):
        source("val", **{**fields, "val_root": "nowhere"})
    with pytest.raises(DataError, match="do not exist.*data.train_root='elsewhere'.*=PATH"):
        source(**{**fields, "train_root": "elsewhere"})


def test_folders_of_classes_a_split(tmp_path):
    for split, name in (("a", "run"), ("a", "sit"), ("b", "run")):
        (tmp_path / split / name).mkdir(parents=True)
        write_video(tmp_path / split / name / "x.mp4", numbered_frames(3))
    fields = dict(source="folder", root=str(tmp_path), train_root="a", val_root="b")
    assert len(source(**fields)) == 2 and source("val", **fields).path(0) == str(tmp_path / "b/run/x.mp4")
    with pytest.raises(DataError, match="data.val_root='' is not a folder.*set data.train_root and"):
        source("val", **{**fields, "val_root": ""})
    with pytest.raises(DataError, match="has class folders that .*: .*sit"):
        source("val", **{**fields, "train_root": "b", "val_root": "a"})


def test_list_of_frame_folders(tmp_path):
    (tmp_path / "v_x").mkdir()
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"v_x/f{i:03}.jpg"), np.full((8, 8, 3), 40 * i, np.uint8))
    train = lines(tmp_path / "train.txt", "v_x 5 0 1")
    ours = source(source="list", list_format="frames", frame_template="f{:03}.jpg", start_index=0,
                  root=str(tmp_path), train_list=train, num_classes=2, multi_label=True)
    assert ours.entry(0).labels == (0, 1)
    assert ours.open(0).get([4, 1])[:, 0, 0, 0].tolist() == [160, 40]


def test_missing_list_files_are_all_named(tmp_path):
    with pytest.raises(DataError) as caught:
        source(source="list", root=str(tmp_path / "data"), train_list="a/train.txt",
               val_list="a/val.txt", num_classes=2)
    message = str(caught.value)
    for expected in ("a/train.txt", "a/val.txt", str(tmp_path / "data"), ":demo",
                     "python -m data_pipelines.make_list"):
        assert expected in message
    assert "\n" not in message


def test_a_list_whose_clips_are_missing_stops_at_once(tmp_path):
    train = lines(tmp_path / "train.txt", *[f"{i}.mp4 12 0" for i in range(40)])
    with pytest.raises(DataError, match="40 of the 40 clips listed in .* do not exist.*data.root.*"
                                        "more numbers than"):
        source(source="list", root=str(tmp_path), train_list=train, num_classes=2)


def test_single_missing_clips_are_left_to_the_run(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(3))
    train = lines(tmp_path / "train.txt", "a.mp4 0", "b.mp4 0")
    ours = source(source="list", root=str(tmp_path), train_list=train, num_classes=2)
    with pytest.raises(VideoError, match="b.mp4: file does not exist"):
        ours.open(1)


def test_wrong_class_counts(tmp_path):
    train = lines(tmp_path / "train.txt", "a.mp4 0")
    classes = lines(tmp_path / "classes.txt", "a", "b")
    with pytest.raises(DataError, match="names 2 classes, but data.num_classes=3"):
        source(source="list", train_list=train, classes_file=classes, num_classes=3)
    with pytest.raises(DataError, match="data.num_classes=0: with data.source='list'"):
        source(source="list", train_list=train)


# ------------------------------------------------------------------------------------ class folders
def empty_clips(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_folder_with_train_and_val(tmp_path):
    empty_clips(tmp_path, ["train/b/1.mp4", "train/a/2.AVI", "train/a/deep/3.webm",
                           "train/a/notes.txt", "train/.hidden/x.mp4", "val/a/4.mp4",
                           "train/a/.5.mp4"])
    train, val = source(root=str(tmp_path)), source("val", root=str(tmp_path))
    assert train.class_names == val.class_names == ["a", "b"]
    assert [train.entry(i)[:2] for i in range(len(train))] == [
        ("a/2.AVI", (0,)), ("a/deep/3.webm", (0,)), ("b/1.mp4", (1,))]
    assert [val.entry(i)[:2] for i in range(len(val))] == [("a/4.mp4", (0,))]
    assert val.path(0) == str(tmp_path / "val/a/4.mp4")


def test_held_out_share(tmp_path):
    empty_clips(tmp_path, [f"{name}/{i:02}.mp4" for name in "abc" for i in range(20)] + ["d/0.mp4"])
    names = {}
    for seed in (0, 1):
        for split in ("train", "val"):
            ours = source(split, root=str(tmp_path), split_seed=seed)
            names[split, seed] = {ours.entry(i).name for i in range(len(ours))}
        assert len(names["train", seed] | names["val", seed]) == 61
        assert not names["train", seed] & names["val", seed]
        for name in "abc":
            assert sum(entry.startswith(name) for entry in names["val", seed]) == 5
    assert "d/0.mp4" in names["train", 0]  # the only clip of a class is for training
    assert names["val", 0] != names["val", 1]
    empty_clips(tmp_path, ["aa/0.mp4", "aa/1.mp4"])  # another class does not move the others
    ours = source("val", root=str(tmp_path))
    added = {ours.entry(i).name for i in range(len(ours))} - names["val", 0]
    assert added < {"aa/0.mp4", "aa/1.mp4"}


def test_folder_errors(tmp_path):
    with pytest.raises(DataError, match="data.root='/nowhere' is not a folder.*<class>"):
        source(root="/nowhere")
    with pytest.raises(DataError, match="holds no class folders"):
        source(root=str(tmp_path))
    empty_clips(tmp_path, ["a/1.mp4"])
    with pytest.raises(DataError, match=r"1 class folders \(a\).*at least 2"):
        source(root=str(tmp_path))
    empty_clips(tmp_path, ["b/readme.txt"])
    with pytest.raises(DataError, match="class folder .*/b holds no video files"):
        source(root=str(tmp_path))
    empty_clips(tmp_path, ["b/1.mp4"])
    with pytest.raises(DataError, match="2 class folders .*data.num_classes=3"):
        source(root=str(tmp_path), num_classes=3)
    with pytest.raises(DataError, match="'val' split of .* has no clips .*data.val_share"):
        source("val", root=str(tmp_path))
    with pytest.raises(DataError, match="data.val_share=1.5"):
        source(root=str(tmp_path), val_share=1.5)
    empty_clips(tmp_path, ["tv/train/a/1.mp4", "tv/train/b/1.mp4", "tv/val/c/1.mp4"])
    with pytest.raises(DataError, match="class folders that .*/train has not: c"):
        source("val", root=str(tmp_path / "tv"))
    with pytest.raises(DataError, match="no folder 'calib'"):
        source("calib", root=str(tmp_path / "tv"))
    empty_clips(tmp_path, ["tw/train/a/1.mp4", "tw/train/b/1.mp4", "tw/test/a/1.mp4"])
    with pytest.raises(DataError, match=r"no folder 'val' \(it has test, train\)"):
        source("val", root=str(tmp_path / "tw"))
    empty_clips(tmp_path, ["tx/train/1.mp4", "tx/train/2.mp4", "tx/plane/1.mp4"])
    assert source("train", root=str(tmp_path / "tx")).class_names == ["plane", "train"]


def test_unknown_source_and_split(tmp_path):
    with pytest.raises(DataError, match="unknown data.source='fodler': did you mean 'folder'"):
        source(source="fodler")
    with pytest.raises(DataError, match="unknown split='validation'.*train, val"):
        source("validation", source="list")


# ---------------------------------------------------------------------------------- shards and TFDS
def write_shards(folder, classes=("a", "b"), clips=5):
    for shard in range(2):
        path = folder / f"train-{shard:05}-of-00002.array_record"
        with ShardWriter(path, classes) as writer:
            for i in range(clips - 2 * shard):
                frames = numbered_frames(6 + i)
                jpegs = tuple(cv2.imencode(".jpg", f[..., ::-1])[1].tobytes() for f in frames)
                writer.write(Record(f"{shard}/{i}", (i % 2,), 25.0, 60, jpegs=jpegs,
                                    frame_indices=tuple(range(len(frames)))))
    return dict(source="array_record", root=str(folder), train_list="train-*.array_record")


def test_array_record_source(tmp_path):
    ours = pickle.loads(pickle.dumps(source(**write_shards(tmp_path))))
    assert len(ours) == 8 and ours.class_names == ["a", "b"]
    assert ours.entry(5) == Entry("1/0", (0,)) and ours.entry(4) == Entry("0/4", (0,))
    assert ours.open(4).num_frames == 10 and ours.open(7).num_frames == 8
    assert read_numbers(ours.open(7).get([7, 2])) == [7, 2]
    assert len({ours.key(i) for i in range(8)}) == 8


def test_shards_in_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    folder = tmp_path / "[2024] *?"
    folder.mkdir()
    assert len(source(**write_shards(folder))) == 8


def test_array_record_errors(tmp_path):
    with pytest.raises(DataError, match="shards not found.*val-.*to_array_record"):
        source("val", **write_shards(tmp_path), val_list="val-*")
    with pytest.raises(DataError, match="has 2 classes, but data.num_classes=7"):
        source(**write_shards(tmp_path), num_classes=7)
    shard = tmp_path / "train-00001-of-00002.array_record"
    data = shard.read_bytes()
    damaged = bytearray(data)
    at = data.index(b'"1/1"')
    damaged[at + 1] ^= 255
    shard.write_bytes(damaged)
    ours = source(**write_shards_config(tmp_path))
    with pytest.raises(VideoError, match=r"1/1: record 1 of .*damaged"):
        ours.open(6)
    assert ours.open(7).num_frames == 8
    shard.write_bytes(data[:len(data) // 2])
    with pytest.raises(DataError, match="not a complete ArrayRecord file"):
        source(**write_shards_config(tmp_path))


def write_shards_config(folder):
    return dict(source="array_record", root=str(folder), train_list="train-*.array_record")


def test_an_interrupted_shard_does_not_appear(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with ShardWriter(tmp_path / "train-0.array_record", ["a"]) as writer:
            writer.write(Record("x", (0,), 25.0, 3, video=b"bytes"))
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_foreign_array_record_files_are_refused(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter
    writer = ArrayRecordWriter(str(tmp_path / "train-0.array_record"), "group_size:1")
    writer.write(b"something else")
    writer.close()
    with pytest.raises(DataError, match="does not end with the index"):
        source(**write_shards_config(tmp_path))


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """Data sets as `tfds build --file_format=array_record` leaves them, made without TensorFlow."""
    import tensorflow_datasets as tfds
    folder = tmp_path_factory.mktemp("tfds")
    video = open(write_video(folder / "a.mp4", numbered_frames(9)), "rb").read()
    jpegs = [cv2.imencode(".jpg", f[..., ::-1])[1].tobytes() for f in numbered_frames(5)]

    def build(name, features, example):
        class TinyClips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(), "validation": self._generate_examples()}

            def _generate_examples(self):
                for i in range(3):
                    yield i, example(i)

        TinyClips.name = name
        TinyClips(data_dir=str(folder), file_format="array_record").download_and_prepare()

    feature = tfds.features
    build("clips_frames", feature.FeaturesDict({
        "video": feature.Sequence(feature.Text()), "label": feature.ClassLabel(names=["a", "b"]),
        "name": feature.Text()}), lambda i: {"video": jpegs, "label": i % 2, "name": f"clip {i}"})
    build("clips_mp4", feature.FeaturesDict({
        "video": feature.Text(), "labels": feature.Sequence(feature.ClassLabel(num_classes=3)),
        "fps": np.float32}), lambda i: {"video": video, "labels": [0, 2], "fps": 25.0})
    build("shifted", feature.FeaturesDict({
        "video": feature.Text(), "label": feature.ClassLabel(num_classes=3)}),
        lambda i: {"video": video, "label": 1 + i % 2})
    build("unlabelled", feature.FeaturesDict({
        "video": feature.Text(), "label": feature.ClassLabel(num_classes=2)}),
        lambda i: {"video": video, "label": -1 if i == 1 else 0})
    build("no_video", feature.FeaturesDict({"label": feature.ClassLabel(num_classes=2)}),
          lambda i: {"label": 0})
    return str(folder)


def test_tfds_source(tfds_folder):
    ours = source("val", source="tfds", tfds_name="clips_frames", root=tfds_folder,
                  val_list="validation[:2]")
    ours = pickle.loads(pickle.dumps(ours))
    assert len(ours) == 2 and ours.class_names == ["a", "b"]
    entry, reader = ours.read(1)
    assert entry == ours.entry(1) and entry.name.startswith("clip ") and len(entry.labels) == 1
    assert read_numbers(reader.get([4, 0])) == [4, 0]
    ours = source(source="tfds", tfds_name="clips_mp4", root=tfds_folder, train_list="train")
    assert ours.entry(2) == Entry("clips_mp4[2]", (0, 2)) and len(ours.class_names) == 3
    assert read_numbers(ours.open(2).get([8, 3])) == [8, 3]


@pytest.mark.parametrize("name, seconds, told", [
    ("clips_mp4", 20, "1 of the 3 labels never occur: 1 "), ("clips_frames", 20, ""),
    ("shifted", 20, "the labels look shifted by one: 0 .*never occurs"), ("clips_mp4", -1, "")])
def test_labels_of_tfds_that_never_occur_are_told(tfds_folder, caplog, monkeypatch, name, seconds, told):
    """As those of lists; what cannot be looked at in time is not called missing."""
    monkeypatch.setattr(shards, "_SECONDS", seconds)
    monkeypatch.setattr(shards, "_LOOKED_AT", set())
    for _ in range(2):
        source(source="tfds", tfds_name=name, root=tfds_folder, train_list="train")
    source("val", source="tfds", tfds_name=name, root=tfds_folder, val_list="validation")  # it may lack some
    found = [record.getMessage() for record in caplog.records if "labels" in record.getMessage()]
    assert len(found) == bool(told) and all(re.search(told, text) for text in found), found


def test_labels_of_tfds_that_are_no_classes(tfds_folder, monkeypatch):
    config = dict(source="tfds", tfds_name="unlabelled", root=tfds_folder)
    monkeypatch.setattr(shards, "_LOOKED_AT", set())
    with pytest.raises(DataError, match=r"clip unlabelled\[.\] has labels \[-1\], not all within its 2 cl"):
        source(**config, train_list="train")
    ours = source("val", **config, val_list="validation")
    for i in range(3):
        if ours.entry(i).labels == (0,):
            assert len(ours.read(i)[1].get([8, 3])) == 2
            continue
        with pytest.raises(VideoError, match=r"labels \[-1\], not within the 2 classes"):
            ours.read(i)


def test_tfds_errors(tfds_folder):
    def config(name, split="train", **changes):
        return dict(source="tfds", tfds_name=name, root=tfds_folder, train_list=split, **changes)
    with pytest.raises(DataError, match="data.tfds_name='nope' .*no such data set.*clips_mp4"):
        source(**config("nope"))
    with pytest.raises(DataError, match="data.tfds_name is empty"):
        source(**config(""))
    with pytest.raises(DataError, match="split 'test'.*Splits that exist: .'train', 'validation'."):
        source(**config("clips_mp4", "test"))
    with pytest.raises(DataError, match="has no feature 'video' or 'frames', only .'label'."):
        source(**config("no_video"))
    with pytest.raises(DataError, match="has 3 classes, but data.num_classes=2"):
        source(**config("clips_mp4", num_classes=2))
