"""Class names and lists in the forms that people have, and names of files that are hard to write down."""

import codecs
import json
import os
import random
import re
import shutil
import zlib

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines import DataError, VideoError, check_videos, extract_frames, make_list, to_array_record
from data_pipelines.names import printable
from data_pipelines.options import check_template, plain_options
from data_pipelines.sources import make_source, text_files
from data_pipelines.sources.class_names import class_lines, parse_class_names, read_class_names
from data_pipelines.sources.lists import ListItem, can_be_listed, list_line, parse_list, read_list
from data_pipelines.video import records
from data_pipelines.video.decode import FrameFolder
from data_pipelines.video.records import Record, ShardWriter, decode_record, encode_record
from effvid_jax.tasks import make_task
from tests.data.clip_files import data_config, numbered_frames, read_numbers, write_video

NAMES = ["Apply Eye", "Hitting, kicking", "über", "2 steps"]
JSON = [NAMES, {name: i for i, name in enumerate(NAMES)}, {name: str(i) for i, name in enumerate(NAMES)},
        {str(i): name for i, name in reversed(list(enumerate(NAMES)))}, {"classes": NAMES},
        [{"id": 3 - i, "name": NAMES[3 - i]} for i in range(4)]]
TEXTS = {
    "plain.txt": "\n".join(NAMES), "blank_lines.txt": "\n\n".join(NAMES) + "\n\n",
    "dos.txt": "\r\n".join(NAMES),
    "old_mac.txt": "\r".join(NAMES),
    "from_0.txt": "3 2 steps\n1 Hitting, kicking\n2 über\n0 Apply Eye\n",
    "from_1.txt": "1 Apply Eye\n3 über\n2 Hitting, kicking\n4 2 steps\n",
    "tabs.txt": "0\tApply Eye\n1\tHitting, kicking\n3\t2 steps\n2\tüber\n",
    "index_name.csv": '2,über\n0,Apply Eye\n1,"Hitting, kicking"\n3,2 steps\n',
    "name_index.csv": 'über,2\nApply Eye,0\n"Hitting, kicking",1\n2 steps,3\n',
    "name_blank_index.txt": "über 2\nApply Eye 0\nHitting, kicking 1\n2 steps 3\n",
    "name_tab_index.txt": "über\t3\nApply Eye\t1\nHitting, kicking\t2\n2 steps\t4\n",
    "header.csv": 'id,name\n2,über\n0,Apply Eye\n1,"Hitting, kicking"\n3,2 steps\n',
    "header_reversed.csv": 'Class Name;Class_ID\nüber;2\nApply Eye;0\nHitting, kicking;1\n2 steps;3\n',
    "header_label.tsv": "label\tname\n0\tApply Eye\n1\tHitting, kicking\n2\tüber\n3\t2 steps\n",
    "header_more.csv": 'id,name,group\n1,Apply Eye,a\n2,"Hitting, kicking",b\n3,über,a\n4,2 steps,c\n',
    "column.csv": 'name\nApply Eye\n"Hitting, kicking"\nüber\n2 steps\n',
    "quoted.txt": '"Apply Eye"\n"Hitting, kicking"\n"über"\n"2 steps"\n',
} | {f"{i}.json": json.dumps(content, ensure_ascii=bool(i % 2), indent=i) for i, content in enumerate(JSON)}


@pytest.mark.parametrize("mark, codec", [(b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (b"", "utf-16"),
                                         (codecs.BOM_UTF16_BE, "utf-16-be"), (b"", "utf-32")])
def test_class_names_in_every_form(tmp_path, mark, codec):
    for name, text in TEXTS.items():
        (tmp_path / name).write_bytes(mark + text.encode(codec))
        assert read_class_names(str(tmp_path / name)) == NAMES, name


@pytest.mark.parametrize("name, content, reason", [
    ("a.txt", b"a\nb\xe9\nc\n", "a.txt:2: byte 0xe9 is no UTF-8. Save the file as UTF-8"),
    ("a.txt", "a\nb\n".encode("utf-16-le"), "zero bytes: it is no text, or UTF-16 without"),
    ("a.txt", b"name\na\nb\n", "a.txt:1: 'name' looks like a header.*Known forms: one name per line"),
    ("a.txt", b"Nummer Klasse\n0 a\n1 b\n2 c\n", "a.txt:1: 'Nummer Klasse' has no index, all other lines"),
    ("a.csv", b"Klasse,Nummer\na,1\nb,2\nc,3\n", "a.csv:1: 'Klasse,Nummer' has no index"),
    ("a.txt", b"0 a\n1\n2 c\n", "a.txt:2: '1' is an index without a name"),
    ("a.csv", b"a,x\nb,y\n", "without a column of indices"),
    ("a.txt", b"a\tx\nb\ty\n", "several columns, and none of them is an index"),
    ("a.csv", b"id,name\n0,a\nb\n", "a.csv:3: 'b' does not have the columns of the header"),
    ("a.csv", b"a,0\nb,2\n", "one is missing or repeated"),
    ("a.json", b"[1, 2]", "no list of names and no object.*Known forms"),
    ("a.json", b'{"a": 0, "b": true}', "no list of names and no object"),
    ("a.json", b'{"0": "1", "1": "0"}', "no list of names and no object"),
    ("a.json", b'{"a": 0, "b": 2}', "one is missing or repeated"),
    ("a.json", b"{", "a.json is no JSON"), ("a.json", b"[" * 99999, "a.json is no JSON"),
    ("a.txt", codecs.BOM_UTF8 + b"\n\n", "no class names"),
    ("a.txt", b"x" * 70000, "a.txt:1: a line of 70000 characters"),
])
def test_class_names_that_could_be_misread_are_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_class_names(str(tmp_path / name))
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_class_names_that_only_look_like_tables(tmp_path, caplog):
    for names in (["class 0", "class 1", "class 2"], ["0", "1", "7"], ["3 pointers", "jump"],
                  ["take 2", "take 1"],
                  ["a, b", "c, d"], ["[sic]", "b"], ["no", "yes"], ["id", "b"], ["one 1", "two 5"]):
        assert parse_class_names("\n".join(names), "x.txt") == names
        assert parse_class_names("\n".join(class_lines(names)), "x.txt") == names
    for names in (["0 a", "1 b"], ["name", "b"], ["b 1", "a 0"], ['"a"', '"b"'], ["label,0", "b,1"],
                  ["{}", "1"]):
        assert parse_class_names("\n".join(class_lines(names)), "x.txt") == names
    for names in (["a ", "b"], ["a\u2028b\n", "c"], [" ", "c"]):
        with pytest.raises(DataError, match="cannot be a line of a text file"):
            class_lines(names)
    (tmp_path / "a.txt").write_text("a\nb\na\n")
    assert len(read_class_names(str(tmp_path / "a.txt"))) == 3
    assert "occur more than once, e.g. 'a'" in caplog.text


# ------------------------------------------------------------------------------------------------ lists
ITEMS = [ListItem("x/a b.mp4", 0, (1,)), ListItem("x/c, d.mp4", 0, (0,)), ListItem("ü/3.mp4", 0, (2,))]


@pytest.mark.parametrize("text", [
    "x/a b.mp4 1\nx/c, d.mp4 0\nü/3.mp4 2\n", "x/a b.mp4,1\r\nx/c, d.mp4,0\r\nü/3.mp4,2",
    "x/a b.mp4\t1\nx/c, d.mp4\t0\n\n\nü/3.mp4\t2\n", "x/a b.mp4;1\nx/c, d.mp4;0\nü/3.mp4;2\n",
    "1 x/a b.mp4\r0 x/c, d.mp4\r2 ü/3.mp4\r", "1,x/a b.mp4\n0,x/c, d.mp4\n2,ü/3.mp4\n",
    'path,label\nx/a b.mp4,1\n"x/c, d.mp4",0\nü/3.mp4,2\n',
    'label,path\n1,x/a b.mp4\n0,"x/c, d.mp4"\n2,ü/3.mp4\n',
    "video label\nx/a b.mp4 1\nx/c, d.mp4 0\nü/3.mp4 2\n",
    'video_path,num_frames,class_id\nx/a b.mp4,9,1\n"x/c, d.mp4",7,0\nü/3.mp4,8,2\n',
])
def test_lists_in_every_form(tmp_path, text):
    for content in (text.encode(), codecs.BOM_UTF8 + text.encode(), text.encode("utf-16")):
        (tmp_path / "list").write_bytes(content)
        assert read_list(str(tmp_path / "list"), "video", False, 3) == ITEMS


@pytest.mark.parametrize("text, reason", [
    ('[{"path": "a.mp4", "label": 0}]', "looks like JSON. A list is text with one line `path label"),
    ("label,youtube_id,split\nx,y,train\n", "l:1: cannot read"),
    ("path,label\na.mp4,jump\n", "l:2: cannot read 'a.mp4,jump'"),
    ("label,path\n1,a.mp4,3\n", "l:2: '1,a.mp4,3' has 3 columns, the header has 2"),
    ("a.mp4 1\nb.mp4 2\nc.mp4 3\n", "l:3: label 3 .* They seem to count from 1: subtract 1"),
    ("a.mp4 0\nb.mp4 3\n", "l:2: label 3 .* Set data.num_classes"),
    (f"a.mp4 {'9' * 5000}\n", "l:1: cannot read"), ("x" * 70000 + " 0\n", "l:1: a line of 70002 characters"),
])
def test_lists_that_could_be_misread_are_refused(text, reason):
    with pytest.raises(DataError, match=reason):
        parse_list(text, "l", "video", False, 3)


def test_files_that_are_far_too_large_are_no_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_BYTES", 10)
    (tmp_path / "l").write_text("a.mp4 0\n" * 2)
    with pytest.raises(DataError, match="has 16 bytes, more than the 10"):
        read_list(str(tmp_path / "l"), "video", False, 3)


def test_a_list_does_not_leave_its_root(tmp_path):
    (tmp_path / "root/in").mkdir(parents=True)
    os.symlink(tmp_path / "root", tmp_path / "link")
    os.symlink(write_video(tmp_path / "secret.mp4", numbered_frames(3)), tmp_path / "root/a.mp4")
    root, link = str(tmp_path / "root"), str(tmp_path / "link")
    for root_now, name in ((root, "../secret.mp4"), (root, "in/../../secret.mp4"), ("", "../secret.mp4"),
                           (root, f"{tmp_path}/secret.mp4"), (root, f"{root}/../secret.mp4"),
                           (root, f"{root}2/x.mp4"), (root, "/etc/passwd"), (root, "..")):
        with pytest.raises(DataError, match="l:1: .* is outside of data.root=.*data.root") as caught:
            parse_list(f"{name} 0\n", "l", "video", False, 3, root_now)
        assert "\n" not in str(caught.value)
    for root_now, name, wanted in ((root, "in/../a.mp4", "a.mp4"), (root, "..a/b..mp4", "..a/b..mp4"),
                                   (root, f"{root}/a.mp4", f"{root}/a.mp4"),
                                   ("", f"{root}/a.mp4", f"{root}/a.mp4"),
                                   (link, f"{link}/a.mp4", f"{link}/a.mp4"),
                                   (link, f"{root}/a.mp4", f"{root}/a.mp4")):
        assert parse_list(f"{name} 0\n", "l", "video", False, 3, root_now)[0].path == wanted
    (tmp_path / "l").write_text("a.mp4 0\n")
    source = make_source(plain_options(data_config(source="list", root=link, train_list=str(tmp_path / "l"),
                                                   num_classes=2)), "train")
    assert source.open(0).num_frames == 3, "a symbolic link may lead anywhere"
    (tmp_path / "l").write_text("../secret.mp4 0\n")
    for tool, arguments in ((check_videos, [f"--list={tmp_path / 'l'}", f"--root={root}"]),
                            (to_array_record, [f"--list={tmp_path / 'l'}", f"--root={root}", "--split=train",
                                               "--num_classes=2", f"--out={tmp_path / 'out'}"]),
                            (make_list, [f"--convert={tmp_path / 'l'}", f"--root={root}",
                                         "--list_format=video",
                                         f"--out={tmp_path / 'l2.txt'}"])):
        with pytest.raises(DataError):
            tool.main(arguments)


@pytest.mark.parametrize("labels, split, said", [
    ([1, 2, 3], "train", "look shifted by one: 0 .'a'. never occurs"), ([1, 2, 3], "val", "look shifted by "
                                                                                          "one"),
    ([0, 1, 3], "train", r"1 of the 4 labels never occur: 2 \(c\)"), ([0, 1, 3], "val", ""),
    ([0, 1, 2, 3], "train", ""),
])
def test_labels_that_may_be_wrong_are_told(tmp_path, caplog, labels, split, said):
    (tmp_path / "x.mp4").write_bytes(b"")
    for name in ("train", "val"):
        (tmp_path / name).write_text("".join(f"x.mp4 {label}\n" for label in labels))
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    make_source(plain_options(data_config(source="list", root=str(tmp_path), train_list="train",
                                          val_list="val",
                                          classes_file="classes.txt")), split)
    assert re.search(said, caplog.text) if said else not caplog.text


# ------------------------------------------------------------------------------ names that are hard to write
ODD = ["nel\u0085x.mp4", "ls\u2028sep.mp4", "nl\nx.mp4", " leading.mp4", "cr\rx.mp4", "trailing .mp4",
       "a,1.mp4",
       "tab\tx.mp4", "\ufeffmark.mp4", "nbsp\u00a0x.mp4", "latin\udce9.mp4", '"quoted".mp4', "10:30.mp4",
       "#x.mp4"]


def test_what_make_list_writes_is_read_back_equal(tmp_path, capsys):
    clip = write_video(tmp_path / "clip.mp4", numbered_frames(3))
    root, out = tmp_path / "videos", tmp_path / "lists"
    for folder in ("0 odd", "1 plain"):
        (root / folder).mkdir(parents=True)
        for name in ODD + ["plain.mp4"]:
            shutil.copy(clip, root / folder / name)
    shutil.copytree(root / "0 odd", root / " x")
    with pytest.raises(DataError, match="class name ' x' cannot be a line"):
        make_list.main([f"--root={root}", f"--out={out}", "--max_broken_share=0.9"])
    shutil.rmtree(root / " x")
    assert make_list.main([f"--root={root}", f"--out={out}", "--max_broken_share=0.9",
                           "--val_share=0.3"]) == 0
    printed = capsys.readouterr().out
    assert "left out 2 of 30" in printed and "a list cannot hold this name" in printed
    assert "nl\\nx.mp4" in printed
    found = set()
    for split in ("train", "val"):
        listed = make_source(plain_options(data_config(
            source="list", root=str(root), train_list=str(out / "train.txt"), val_list=str(out / "val.txt"),
            classes_file=str(out / "classes.txt"))), split)
        assert listed.class_names == ["0 odd", "1 plain"]
        for i in range(len(listed)):
            found.add((os.path.relpath(listed.path(i), root), listed.entry(i).labels))
            assert listed.open(i).num_frames == 3
            listed.entry(i).name.encode("utf-8")
    assert found == {(f"{folder}/{name}", (k,)) for k, folder in enumerate(("0 odd", "1 plain"))
                     for name in ODD + ["plain.mp4"] if name != "nl\nx.mp4"}


def test_any_item_is_listed_equal_or_not_at_all():
    rng = random.Random(0)
    letters = "ab ,;\"\t\r\n\u0085\u2028\ufeff0123.-{}[]é\udce9\x1c"
    listed = 0
    for _ in range(3000):
        name = "".join(rng.choices(letters, k=rng.randint(1, 6)))
        form, several = rng.choice(["video", "frames"]), rng.random() < 0.5
        labels = tuple(rng.sample(range(9), rng.randint(1, 3) if several else 1))
        item = ListItem(name, rng.randint(1, 99) if form == "frames" else 0, labels)
        if can_be_listed(item, form, several):
            listed += 1
            text = f"x.mp4 5 0\n{list_line(item, form)}\nlast.mp4 7 1\n"
            text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
            assert parse_list(text, "l", form, several, 9)[1] == item, item
    assert 1000 < listed < 2900


def test_names_that_are_no_utf8_end_nothing(tmp_path, capsys):
    root = tmp_path / "videos"
    for folder in ("a", "b\udcff"):
        (root / folder).mkdir(parents=True)
        for i in range(3):
            write_video(root / folder / f"{i}\udce9.mp4", numbered_frames(3))
    (root / "a/broken\udce9.mp4").write_bytes(b"")
    out = tmp_path / "broken.txt"
    assert check_videos.main([str(root), f"--out={out}"]) == 1
    assert out.read_text() == "a/broken\\xe9.mp4\tempty file (0 bytes)\n"
    arguments = [f"--root={root}", f"--exclude={out}", "--val_share=0.4"]
    assert make_list.main(arguments + [f"--out={tmp_path / 'lists'}"]) == 0
    assert (tmp_path / "lists/classes.txt").read_text() == "a\nb\\xff\n"
    source = make_source(plain_options(data_config(root=str(root), val_share=0.4)), "val")
    for i in range(len(source)):
        source.entry(i).name.encode("utf-8")
    assert to_array_record.main(arguments + [f"--out={tmp_path / 'shards'}", "--split=train",
                                             "--num_shards=1"]) == 0
    assert extract_frames.main([f"--root={root}", f"--out={tmp_path / 'images'}", "--fps=0",
                                "--height=0"]) == 1
    images = tmp_path / "images/b\udcff/0\udce9"
    assert read_numbers(FrameFolder(images, 3).get([0, 2])) == [0, 2]
    assert "broken\\xe9.mp4" in (tmp_path / "images/broken.txt").read_text()
    assert "broken\\xe9.mp4" in str(VideoError("broken\udce9.mp4", "gone"))
    assert printable("a\nb\udce9 ü\u2028") == "a\\nb\\xe9 ü\\u2028"


def test_predictions_are_written_whatever_the_names_hold(tmp_path):
    config = ConfigDict({"task": "classification", "data": data_config()})
    task = make_task(config, ["a", "b\udce9"])
    rows = {"name": np.array(["x\udce9.mp4"]), "label": np.array([1]), "scores": np.array([[0.25, 0.75]]),
            "gmacs": np.array([1.0])}
    task.write_rows(tmp_path / "p.csv", rows)
    assert "udce9.mp4" in (tmp_path / "p.csv").read_text()


# ------------------------------------------------------------------------------------------ sizes of the rest
@pytest.mark.parametrize("template", ["img.png", "img_{:0999999999}.png", "{:{}}", "{}{}", "{0.x}", "{a}",
                                      "{", 5,
                                      "img_{:" + "0" * 2000 + "5}.png"])
def test_templates_number_frames_in_a_sane_width(tmp_path, template):
    with pytest.raises(DataError, match="data.frame_template=.* must be the name of a frame"):
        check_template("data.frame_template", template)
    check_template("x", "frames/f_{:03}.jpg")
    with pytest.raises(DataError, match="--template=.* must be the name"):
        extract_frames.main([f"--root={tmp_path}", f"--out={tmp_path}", f"--template={template}"])


def test_pictures_that_would_be_huge_are_refused(tmp_path):
    good = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    head = b"IHDR" + (30000).to_bytes(4, "big") * 2 + good[24:29]
    crc = zlib.crc32(head).to_bytes(4, "big")
    (tmp_path / "img_00001.png").write_bytes(good[:12] + head + crc + good[33:])
    with pytest.raises(VideoError, match="img_00001.png is not a readable image"):
        FrameFolder(tmp_path, 1).get([0])


def test_headers_of_records_are_checked(tmp_path):
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    good = encode_record(Record("x", (0,), 25.0, 1, jpegs=(jpeg,), frame_indices=(0,)))
    _, header, payload = records._unpack(good, "x")
    for key, value in (("frame_bytes", [-1]), ("frame_bytes", []), ("frame_bytes", None), ("labels", None),
                       ("fps", "x"),
                       ("labels", ["a"]), ("num_frames", 1e999), ("frame_indices", 3), ("name", None)):
        changed = {**header, key: value}
        if key == "name":
            del changed["name"]
        with pytest.raises(VideoError, match="damaged|bytes of frames"):
            decode_record(records._pack(records.KIND_JPEG, changed, [bytes(payload)]), "x")
    with ShardWriter(tmp_path / "train-0.array_record", ["a"]) as writer:
        writer.write(Record("x", (0,), 25.0, 1, jpegs=(jpeg,), frame_indices=(0,)))
        writer._index["labels"] = 5
    with pytest.raises(DataError, match="ends with an index that is damaged"):
        make_source(plain_options(data_config(source="array_record", root=str(tmp_path))), "train")
