"""`data_pipelines.prepare`: miniatures in official layouts and formats, with their oddities, become runs."""

import importlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from configs.recipes import base
from data_pipelines import BoxTargets, DataError, PixelClasses, open_split
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.prepare import facts as prepare_facts
from data_pipelines.prepare import shared
from tests.data.clip_files import data_config
from tests.data.official import (
    JHMDB,
    UCF101,
    activitynet,
    ade20k,
    fcvid,
    hmdb51,
    jhmdb,
    kinetics,
    mini_kinetics,
    moments_in_time,
    something_v1,
    something_v2,
    text,
    ucf101,
)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """The configs' paths are relative to the current folder."""
    monkeypatch.chdir(tmp_path)


def lines_of(path):
    return Path(path).read_text(encoding="utf-8").splitlines()


def config_of(name, split=1, **fields):
    """The data fields of a small run over a data set of the recipes."""
    found = {key: value.format(split) if key.endswith("_list") else value
             for key, value in base.DATASETS[name].items()}
    small = data_config(num_frames=4, batch_size=2, eval_batch_size=2)
    small.update({**found, "source": "list", "num_frames": 4, **fields})
    return small


def opens(config, train, val):
    """Both splits have so many clips, and all can be read."""
    for name, count in (("train", train), ("val", val)):
        split = open_split(config, name)
        assert len(split) == count
        for i in range(count):
            assert split.views(i).shape[1] == 4
    return split


def test_ucf101(clips, tmp_path, capsys):
    ucf101(clips, tmp_path / "raw")
    assert prepare.main(["ucf101", "--raw=raw", "--link"]) == 0
    printed = capsys.readouterr().out
    assert "classes: 101, names and order as released" in printed and "9,537" in printed
    assert "--config=configs/dynamic_ucf101.py:split=1 --workdir=runs/ucf101 --config.data.classes" in printed
    assert "python main.py" in printed and "data.root" not in printed
    assert lines_of("data/ucf101/ucf101_train_split_2_videos.txt") == [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi 0", "HandstandPushups/v_HandstandPushups_g01_c01.avi 36"]
    assert lines_of("data/ucf101/ucf101_missing.txt") == ["YoYo/v_YoYo_g01_c01.avi\tmissing"]
    for split in (1, 2, 3):
        found = opens(config_of("ucf101", split, classes_file="data/ucf101/ucf101_classes.txt"), 2, 1)
    assert found.class_names == UCF101


def test_hmdb51(clips, tmp_path, capsys):
    odd = hmdb51(clips, tmp_path / "raw")
    assert prepare.main(["hmdb51", "--raw=raw"]) == 0
    printed = capsys.readouterr().out
    assert "classes: 51, names and order as released" in printed
    assert "--config.data.root=raw/hmdb51_org" in printed
    assert lines_of("data/hmdb51/hmdb51_train_split_3_videos.txt") == [f"brush_hair/{odd} 0",
                                                                       f"wave/{odd} 50"]
    assert len(lines_of("data/hmdb51/hmdb51_missing.txt")) == 49
    assert opens(config_of("hmdb51", 3, root="raw/hmdb51_org"), 2, 2).entry(1).labels == (50,)


def test_kinetics400(clips, tmp_path, capsys):
    names = kinetics(clips, tmp_path / "raw")
    assert prepare.main(["kinetics400", "--raw=raw", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "dry run: nothing was written" in printed and not Path("data").exists()
    assert "to do: opening 6 clips" in printed and "246,534" in printed
    assert prepare.main(["kinetics400", "--raw=raw"]) == 0
    printed = capsys.readouterr().out
    assert "classes: 400, but not the released names" in printed
    assert "1 videos are CVDF's replacements" in printed
    assert "repeats 1 lines" in printed and "1 rows without a class" in printed
    assert lines_of("data/kinetics400/kinetics400_train_list_videos.txt") == [
        "train/id-_0000000_000000_000010.mp4 0",
        "replacement/replacement_for_corrupted_k400/id-_0000001_000001_000011.mp4 1",
        "train/massaging person's head/id-_0000399_000399_000409.mp4 399"]
    assert lines_of("data/kinetics400/kinetics400_val_list_videos.txt") == [
        "val/val__000000.mp4 0", "val/val__000001_000005_000015.mp4 1"]
    missing = dict(line.split("\t") for line in lines_of("data/kinetics400/kinetics400_missing.txt"))
    assert len(missing) == 398 and missing["val__000002_000005_000015"] == "missing"
    assert missing["id-_0000002_000002_000012"] != "missing", "it is there, and broken"
    config = config_of("k400", root="raw", classes_file="data/kinetics400/kinetics400_classes.txt")
    assert opens(config, 3, 2).class_names == sorted(names)
    assert prepare_facts.digest(sorted(names)) != prepare.module_of("kinetics400").FACTS.digest


def test_links_into_the_folder_of_the_configs(clips, tmp_path, capsys):
    kinetics(clips, tmp_path / "raw")
    assert prepare.main(["kinetics400", "--raw=raw", "--link"]) == 0
    assert "data.root" not in capsys.readouterr().out.split("train:")[-1]
    assert os.path.islink("data/kinetics400/train") and os.path.islink("data/kinetics400/replacement")
    opens(config_of("k400"), 3, 2)
    assert prepare.main(["kinetics400", "--raw=raw", "--link"]) == 0, "again, with what it wrote itself"
    os.unlink("data/kinetics400/train")
    Path("data/kinetics400/train").mkdir()
    with pytest.raises(DataError, match="--link: data/kinetics400/train exists and is not raw/train"):
        prepare.main(["kinetics400", "--raw=raw", "--link", "--dry_run"])


def test_mini_kinetics200(clips, tmp_path, capsys):
    names = mini_kinetics(clips, tmp_path / "splits", tmp_path / "data/kinetics400")
    assert prepare.main(["mini_kinetics200", "--raw=data/kinetics400", "--annotations=splits"]) == 0
    assert "--config.data.root" not in capsys.readouterr().out
    assert lines_of("data/kinetics400/mini-kinetics/minik_train_videofolder.txt") == [
        "train/id-_0000199_000000_000010.mp4 199"]
    config = config_of("minik", classes_file="data/kinetics400/mini_kinetics200_classes.txt")
    assert opens(config, 1, 1).class_names == names
    text("splits/mini_val_videofolder.txt", "images/val/action 007/val__000001_000005_000015 300 8")
    with pytest.raises(DataError, match=r"mini_val_videofolder.txt:1: .*a label from 0 to 199 of one class; "
                                        r"8 is"):
        prepare.main(["mini_kinetics200", "--raw=data/kinetics400", "--annotations=splits"])


def test_activitynet(clips, tmp_path, capsys, monkeypatch):
    names = activitynet(clips, tmp_path / "raw")
    assert prepare.main(["activitynet", "--raw=raw", "--fps=25", "--height=32", "--dry_run"]) == 0
    assert "to do: extracting 3 clips" in capsys.readouterr().out and not Path("data").exists()
    assert prepare.main(["activitynet", "--raw=raw", "--fps=25", "--height=32"]) == 0
    printed = capsys.readouterr().out
    assert "--config=configs/supervised_actnet.py" in printed and "data.root" not in printed
    lines = lines_of("data/actnet/actnet_png_img_train_split.txt")
    assert lines == ["v_aaaaaaaaaa- 12 3 1", "v__bbbbbbbbbb 12 0"]
    assert lines_of("data/actnet/actnet_png_img_val_split.txt") == ["cccccccccc_ 12 2"]
    assert "gone_video_\tmissing" in Path("data/actnet/activitynet_missing.txt").read_text()
    config = config_of("actnet", classes_file="data/actnet/activitynet_classes.txt")
    split = open_split(config, "train")
    assert split.class_names == names and set(split.entry(0).labels) == {1,
                                                                         3} and split.views(0).shape[1] == 4


def test_extraction_continues_and_does_not_mix(clips, tmp_path, capsys):
    activitynet(clips, tmp_path / "raw")
    flags = ["activitynet", "--raw=raw", "--fps=25", "--height=32"]
    assert prepare.main(flags) == 0
    kept = os.stat("data/actnet/imgs/v_aaaaaaaaaa-/img_00001.png").st_mtime_ns
    shutil.rmtree("data/actnet/imgs/v__bbbbbbbbbb")
    assert prepare.main([*flags, "--dry_run"]) == 0
    assert "to do: extracting 1 clips, 2 are done" in capsys.readouterr().out
    assert prepare.main(flags) == 0
    assert os.stat("data/actnet/imgs/v_aaaaaaaaaa-/img_00001.png").st_mtime_ns == kept
    with pytest.raises(DataError, match=r"--height=32 there, 48 now"):
        prepare.main(["activitynet", "--raw=raw", "--fps=25", "--height=48", "--dry_run"])
    with pytest.raises(DataError, match="another --format"):
        prepare.main([*flags, "--format=jpg"])
    assert prepare.main([*flags, "--format=jpg", "--out=other"]) == 0
    assert "frame_template=img_{:05}.jpg" in capsys.readouterr().out


def test_activitynet_by_the_split_files_of_ar_net(clips, tmp_path):
    activitynet(clips, tmp_path / "raw")
    text("train.txt", "v_aaaaaaaaaa-,900,7,7,2", "v__bbbbbbbbbb,12,0")
    text("val.txt", "v_cccccccccc_,5,199", "v_gone_video_,5,3")
    assert prepare.main(["activitynet", "--raw=raw", "--fps=25", "--height=32", "--split_train=train.txt",
                         "--split_val=val.txt"]) == 0
    assert lines_of("data/actnet/actnet_png_img_train_split.txt") == ["v_aaaaaaaaaa- 12 7 2",
                                                                      "v__bbbbbbbbbb 12 0"]


def test_fcvid(clips, tmp_path):
    raw = tmp_path / "raw"
    rows = fcvid(clips, raw)
    assert prepare.main(["fcvid", "--raw=raw", "--fps=25", "--height=32"]) == 0
    assert lines_of("data/fcvid/fcvid_png_img_train_split.txt") == ["cats/a b 12 0 238", "cats/d 12 6"]
    assert opens(config_of("fcvid"), 2, 1).entry(0).labels == (4,)
    text(raw / "materials/FCVID_Label.txt", *(" ".join(map(str, row)) for row in rows[:4]))
    with pytest.raises(DataError, match="FCVID_Label.txt ends before line 5 of "):
        prepare.main(["fcvid", "--raw=raw"])


def test_something_v1(clips, tmp_path, capsys):
    names = something_v1(clips, tmp_path / "raw")
    assert prepare.main(["something_v1", "--raw=raw", "--link"]) == 0
    assert "1 lines without a class" in capsys.readouterr().out
    assert lines_of("data/sthv1/sthv1_train_list_rawframes.txt") == ["100218 6 0", "48032 5 173"]
    assert lines_of("data/sthv1/something_v1_missing.txt") == ["8\tholds no 00001.jpg"]
    config = config_of("sthv1", classes_file="data/sthv1/something_v1_classes.txt")
    assert opens(config, 2, 1).class_names == names
    text("category.txt", *sorted(names))
    assert prepare.main(["something_v1", "--raw=raw", "--classes=category.txt"]) == 0
    assert lines_of("data/sthv1/sthv1_train_list_rawframes.txt") == [
        f"100218 6 {sorted(names).index(names[0])}", f"48032 5 {sorted(names).index(names[173])}"]


def test_something_v2(clips, tmp_path):
    names = something_v2(clips, tmp_path / "raw")
    assert prepare.main(["something_v2", "--raw=raw", "--link"]) == 0
    assert lines_of("data/sthv2/sthv2_train_list_videos.txt") == ["78687.webm 0", "5.webm 173"]
    assert opens(config_of("sthv2", classes_file="data/sthv2/something_v2_classes.txt"), 2,
                 1).class_names == names
    path = tmp_path / "raw/labels/something-something-v2-train.json"
    text(path, json.dumps([{"id": "5", "template": "Doing 173 with [something]"}]))
    with pytest.raises(DataError, match=r"train.json: template of entry 0 \(5\) is 'Doing 173 with "
                                        r"\[something\]'"):
        prepare.main(["something_v2", "--raw=raw"])


def test_moments_in_time(clips, tmp_path):
    names = moments_in_time(clips, tmp_path / "raw")
    assert prepare.main(["moments_in_time", "--raw=raw", "--link"]) == 0
    assert lines_of("data/mit/mit_train_list_videos.txt")[1] == (
        "training/adult+female+speaking/flickr-1-2.mp4 1")
    found = opens(config_of("mit", classes_file="data/mit/moments_in_time_classes.txt"), 2, 1)
    assert found.class_names == names and found.entry(0).labels == (338,)


def test_jhmdb(clips, tmp_path, capsys):
    jhmdb(clips, tmp_path / "raw")
    assert prepare.main(["jhmdb", "--raw=raw"]) == 0
    printed = capsys.readouterr().out
    assert "--config.data.root=raw" in printed and "classes: 21, names and order as released" in printed
    assert "wave/b_2: " in printed and "puppet_mask.mat" in printed
    assert len(lines_of("data/jhmdb/jhmdb_train_split_1_frames.txt")) == 20
    assert lines_of("data/jhmdb/jhmdb_val_split_1_frames.txt")[0] == (
        "Rename_Images/brush_hair/#20_[x]_(a)_1! 2 0")
    savemat("raw/puppet_mask/wave/b_2/puppet_mask.mat", {"part_mask": np.ones((48, 64, 2), np.uint8)})
    assert prepare.main(["jhmdb", "--raw=raw", "--link"]) == 0
    config = data_config(source="jhmdb", root="data/jhmdb", train_list="splits/*_test_split1.txt",
                         val_list="splits/*_test_split1.txt", num_classes=21, sampling="around", num_frames=4,
                         train_crop="whole", test_crop="whole")
    split = open_split(config, "val", BoxTargets(21, 2))
    assert split.class_names == JHMDB and len(split) == 42


def test_ade20k(clips, tmp_path, capsys):
    ade20k(clips, tmp_path / "raw")
    assert prepare.main(["ade20k", "--raw=raw"]) == 0
    printed = capsys.readouterr().out
    assert "classes: 150" in printed and "20,210" in printed and "ADE_train_00000002.jpg: " in printed
    assert lines_of("data/ade20k/sceneparse_train_pairs.txt")[0] == (
        "images/training/ADE_train_00000001.jpg\tannotations/training/ADE_train_00000001.png")
    assert prepare.main(["ade20k", "--raw=raw", "--link"]) == 0
    config = data_config(source="sceneparse", root="data/ADEChallengeData2016",
                         train_list="data/ade20k/sceneparse_train_pairs.txt",
                         val_list="data/ade20k/sceneparse_val_pairs.txt", num_frames=1, num_classes=0)
    split = open_split(config, "train", PixelClasses(150, 48, 48))
    assert len(split) == 2 and split.class_names[:2] == ["wall", "building"]


# --------------------------------------------------------------------------------------------- all of them
IN_THE_RECIPES = {"kinetics400": "k400", "mini_kinetics200": "minik", "activitynet": "actnet",
                  "fcvid": "fcvid",
                  "something_v1": "sthv1", "something_v2": "sthv2", "ucf101": "ucf101", "hmdb51": "hmdb51",
                  "moments_in_time": "mit"}


@pytest.mark.parametrize("name", prepare.NAMES)
def test_what_is_written_is_what_the_recipes_read(name):
    facts = prepare.module_of(name).FACTS
    assert facts.name == name and facts.counts.keys() == facts.lists.keys()
    if name not in IN_THE_RECIPES:
        path, _, arguments = facts.config.partition(":")
        data = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config(arguments).data
        assert facts.root == data.root
        assert not facts.list_format, "a source of its own reads the official files"
        return
    fields = base.DATASETS[IN_THE_RECIPES[name]]
    assert facts.root == fields["root"] and facts.classes == fields["num_classes"]
    assert facts.list_format == fields.get("list_format", "video")
    assert facts.multi_label == fields.get("multi_label", False)
    for key, file in facts.lists.items():
        split, _, number = key.partition("_")
        assert f"{facts.folder}/{file}" == fields[f"{split}_list"].format(number)
    path, _, arguments = facts.config.partition(":")
    assert os.path.exists(Path(base.__file__).parents[2] / path)
    assert (arguments == "") == ("{}" not in str(fields)), "a split is named where there are several"


def test_every_data_set_of_the_recipes_is_prepared():
    assert set(IN_THE_RECIPES.values()) == base.DATASETS.keys() - {"folder"}


def test_what_is_there_stays(clips, tmp_path):
    ucf101(clips, tmp_path / "raw")
    text("data/ucf101/ucf101_val_split_2_videos.txt", "mine")
    before = sorted((path, path.stat().st_mtime_ns) for path in Path("raw").rglob("*"))
    with pytest.raises(DataError, match="ucf101_val_split_2_videos.txt exists and this command did not write "
                                        "it"):
        prepare.main(["ucf101", "--raw=raw"])
    assert lines_of("data/ucf101/ucf101_val_split_2_videos.txt") == ["mine"]
    assert prepare.main(["ucf101", "--raw=raw", "--overwrite"]) == 0
    assert prepare.main(["ucf101", "--raw=raw"]) == 0, "what it wrote itself it may write again"
    assert sorted((path, path.stat().st_mtime_ns) for path in Path("raw").rglob("*")) == before


def test_an_interrupted_command_continues(clips, tmp_path, monkeypatch, capsys):
    ucf101(clips, tmp_path / "raw")
    opened = []

    def interrupted(path, check):
        opened.append(path)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return real(path, check)

    real = shared.open_clip
    monkeypatch.setattr(shared, "open_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare.main(["ucf101", "--raw=raw", "--workers=1"])
    assert not list(Path("data/ucf101").glob("*.txt"))
    before = len(opened)
    assert prepare.main(["ucf101", "--raw=raw", "--workers=1"]) == 0
    assert "continuing: 2 of 5 were done before" in capsys.readouterr().out
    assert len(opened) == before + 3
    assert not list(Path("data/ucf101").glob("*.journal"))


@pytest.mark.parametrize("change, message", [
    (lambda raw: shutil.rmtree(raw), "--raw=raw is not a folder.*crcv.ucf.edu"),
    (lambda raw: (raw / "ucfTrainTestlist/testlist02.txt").unlink(), "no testlist02.txt.*--annotations"),
    (lambda raw: text(raw / "ucfTrainTestlist/testlist02.txt", "Nothing/v.avi"),
     r"testlist02.txt:1: cannot read 'Nothing': expected one of the 101 classes"),
    (lambda raw: text(raw / "ucfTrainTestlist/trainlist03.txt", "YoYo/a.avi 101", "v_YoYo_g01_c01.avi"),
     r"trainlist03.txt:2: cannot read 'v_YoYo_g01_c01.avi': expected <class>/<video>.avi"),
    (lambda raw: shutil.rmtree(raw / "UCF-101/ApplyEyeMakeup"), "none of the 2 clips of list 'val_1' is "
                                                                "below"),
])
def test_what_is_wrong_is_said(clips, tmp_path, change, message):
    ucf101(clips, tmp_path / "raw")
    change(tmp_path / "raw")
    with pytest.raises(DataError, match=message):
        prepare.main(["ucf101", "--raw=raw"])
    assert not Path("data").exists()


@pytest.mark.parametrize("name, file, content, message", [
    ("kinetics400", "annotations/train.csv", ["label,id", "a,b"], "train.csv:1: .*expected label,youtube_id"),
    ("kinetics400", "annotations/val.csv", ["label,youtube_id,time_start,time_end", "x,abcdefghijk,one,11"],
     r"val.csv:2: .*times in seconds"),
    ("kinetics400", "annotations/val.csv", ["label,youtube_id,time_start,time_end", "x,abc,1,11"],
     r"val.csv:2: .*a YouTube id of 11 letters"),
    ("kinetics400", "annotations/val.csv", ["label,youtube_id,time_start,time_end", "x,abcdefghijk,1,11"],
     r"abcdefghijk_000001_000011 is of class 'x': expected one of the 400 of "),
    ("hmdb51", "testTrainMulti_7030_splits/wave_test_split2.txt", ["a.avi 3"],
     r"wave_test_split2.txt:1: cannot read 'a.avi 3': expected a video and 1 \(training\), 2 \(test\) or 0"),
    ("hmdb51", "testTrainMulti_7030_splits/wave_test_split2.txt", ["a.avi 1", "a.avi 2"],
     r"wave_test_split2.txt:2: 'a.avi' has label \(2,\), in line 1 it has \(1,\)"),
    ("something_v2", "labels/something-something-v2-labels.json", ['{"A": "0", "B": "2"}'],
     "expected 0 to 1, each"),
    ("something_v2", "labels/something-something-v2-train.json", ["[{}]"], "id of entry 0 is None"),
    ("something_v2", "labels/something-something-v2-train.json", ["[{"], "train.json is no json"),
    ("activitynet", "activity_net.v1-3.min.json", ['{"database": {"a": {"subset": "train"}}}'],
     "subset of a is 'train': expected 'training', 'validation' or 'testing'"),
    ("activitynet", "activity_net.v1-3.min.json", ['{"database": []}'], r"database is \[\]: expected an obj"),
])
def test_lines_that_are_wrong_are_named(clips, tmp_path, name, file, content, message):
    make = dict(kinetics400=kinetics, hmdb51=hmdb51, something_v2=something_v2, activitynet=activitynet)[name]
    make(clips, tmp_path / "raw")
    text(tmp_path / "raw" / file, *content)
    with pytest.raises(DataError, match=message):
        prepare.main([name, "--raw=raw"])


def test_split_files_of_mini_kinetics_are_not_replaced(clips, tmp_path):
    mini_kinetics(clips, tmp_path / "splits", tmp_path / "data/kinetics400")
    shutil.move("splits", "data/kinetics400/mini-kinetics")
    for split in ("train", "val"):
        os.rename(f"data/kinetics400/mini-kinetics/mini_{split}_videofolder.txt",
                  f"data/kinetics400/mini-kinetics/minik_{split}_videofolder.txt")
    with pytest.raises(DataError, match="is what this command reads and where it would write"):
        prepare.main(["mini_kinetics200", "--raw=data/kinetics400", "--overwrite"])


def test_classes_in_another_order_must_be_the_same(clips, tmp_path):
    ucf101(clips, tmp_path / "raw")
    text("other.txt", *UCF101[:-1], "Yoyo")
    with pytest.raises(DataError, match="--classes=other.txt names 101 classes.*expected the same names in "
                                        "another"):
        prepare.main(["ucf101", "--raw=raw", "--classes=other.txt"])


@pytest.mark.parametrize("name", prepare.NAMES)
def test_the_document_has_a_row_for_it(name):
    facts = prepare.module_of(name).FACTS
    lines = lines_of(Path(base.__file__).parents[2] / "docs/data.md")
    row, = (line for line in lines
            if line.startswith(f"| `{name}`: {facts.title} | {facts.page} | {facts.size} |"))
    for words in (f"`{facts.folder}/`", f"`{facts.config}`", f"| {facts.classes} |",
                 *(f"{count:,}" for count in facts.counts.values())):
        assert words in row
