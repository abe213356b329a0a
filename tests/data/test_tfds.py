"""TFDS builders over what `data_pipelines.prepare` wrote, built and read without TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import DataError, PixelClasses, make_pipeline, open_split, tfds_builders
from data_pipelines.options import plain_options
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.sources import make_source
from data_pipelines.video.decode import open_video
from tests.data.clip_files import data_config, numbered_frames, write_video
from tests.data.official import LAYOUTS, UCF101, put, ucf101

ROOT = Path(__file__).parents[2]
FLAGS = {name: ["--fps=25", "--height=48"] for name in ("activitynet", "fcvid")}
# Labels of both splits, sorted; where a video has several, all of them.
LABELS = {
    "kinetics400": ([0, 1, 399], [0, 1]), "mini_kinetics200": ([199], [7]),
    "activitynet": ([0, 1, 3], [2]), "fcvid": ([0, 6, 238], [4]), "something_v1": ([0, 173], [1]),
    "something_v2": ([0, 173], [173]), "ucf101": ([0, 36], [0]), "hmdb51": ([0, 50], [0, 50]),
    "moments_in_time": ([0, 1], [338]), "jhmdb": (list(range(20)), list(range(21))), "ade20k": (None, None)}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# A data set of each kind: videos, frames, several labels a video, several splits, images with masks.
QUICK = ("kinetics400", "something_v1", "fcvid", "ucf101", "ade20k")


@pytest.mark.parametrize("name", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(LAYOUTS)])
def test_what_was_prepared_is_built_and_read(clips, name):
    LAYOUTS[name](clips, Path("raw"))
    assert prepare.main([name, "--raw=raw", *FLAGS.get(name, ())]) == 0
    facts = prepare.module_of(name).FACTS
    builder = next(key for key, made in tfds_builders.BUILDERS.items() if made.FACTS is facts)
    assert tfds_builders.main([builder, f"--manual_dir={facts.folder}", "--data_dir=tfds"]) == 0
    classes = Path(facts.folder, f"{name}_classes.txt").read_text().splitlines()
    config = data_config(source="tfds", root="tfds", tfds_name=builder, batch_size=1, eval_batch_size=1,
                         multi_label=facts.multi_label, num_classes=facts.classes)
    for split, expected in zip(("train", "val"), LABELS[name], strict=True):
        source = make_source(plain_options(config), split)
        assert len(source.class_names) == facts.classes and source.class_names[0] in classes[0]
        labels = sorted({label for i in range(len(source)) for label in source.entry(i).labels})
        assert labels == expected if expected else labels and max(labels) < 150
    if name == "ade20k":  # pixel by pixel as the released files
        official = open_split(data_config(source="sceneparse", root="raw/ADEChallengeData2016", num_frames=1,
                                          num_classes=0), "val", PixelClasses(150, 32, 32))
        ours = open_split(config, "val", PixelClasses(150, 32, 32))
        targets = [sorted(split.targets.evaluate(split.entry(i))["classes"].tobytes() for i in range(2))
                   for split in (official, ours)]
        assert targets[0] == targets[1]
    assert next(iter(make_pipeline(config, "val")))["mask"].all()


def test_frames_are_those_of_the_video_and_splits_are_configs(tmp_path, clips):
    long = write_video(tmp_path / "long.avi", numbered_frames(40), codec="mpeg4")
    ucf101(clips | {"avi": long}, Path("raw"))
    assert prepare.main(["ucf101", "--raw=raw"]) == 0
    for split in (1, 2):
        builder = tfds_builders.prepare("ucf101_frames", "data/ucf101", "tfds", f"split{split}")
        names = {example["name"].decode() for example in builder.as_data_source(split="train")}
        assert f"ApplyEyeMakeup/v_ApplyEyeMakeup_g0{split}_c01.avi" in names and len(names) == 2
    config = data_config(source="tfds", root="tfds", tfds_name="ucf101_frames/split2")
    source = make_source(plain_options(config), "val")
    assert source.class_names == UCF101
    with open_video(long) as video, source.open(0) as stored:
        assert stored.num_frames == 32
        indices = [int((k + 0.5) * 40 / 32) for k in range(32)]
        difference = np.abs(stored.get(range(32)).astype(int) - video.get(indices)).mean()
        print(f"mean difference of the JPEG frames {difference:.2f}")
        assert difference < 14  # a texture of noise


def test_tensorflow_is_not_imported(clips):
    ucf101(clips, Path("raw"))
    assert prepare.main(["ucf101", "--raw=raw"]) == 0
    code = ("import runpy, sys\n"
            "try: runpy.run_module('data_pipelines.tfds_builders', run_name='__main__')\n"
            "except SystemExit as end: assert end.code == 0\n"
            "assert 'tensorflow' not in sys.modules")
    done = subprocess.run(
        [sys.executable, "-c", code, "ucf101_frames", f"--manual_dir={Path('data/ucf101').resolve()}",
         f"--data_dir={Path('tfds').resolve()}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train: 2 clips" in done.stdout and "val: 1 clips" in done.stdout


def test_mistakes(tmp_path, clips):
    with pytest.raises(DataError, match="ucf101_prepared.json does not exist.*--manual_dir is the folder"):
        tfds_builders.prepare("ucf101_frames", str(tmp_path), "tfds")
    ucf101(clips, Path("raw"))
    assert prepare.main(["ucf101", "--raw=raw"]) == 0
    broken = "raw/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g04_c01.avi"
    Path(broken).write_bytes(b"")
    with pytest.raises(DataError, match="v_ApplyEyeMakeup_g04_c01.avi: empty file"):
        tfds_builders.prepare("ucf101_frames", "data/ucf101", "tfds")
    put(clips["avi"], broken)
    classes = Path("data/ucf101/ucf101_classes.txt")
    classes.write_text("\n".join(classes.read_text().splitlines()[:100]) + "\n")
    with pytest.raises(DataError, match="has 100 classes, UCF-101 has 101.*to_array_record"):
        tfds_builders.prepare("ucf101_frames", "data/ucf101", "tfds")
    record = Path("data/ucf101/ucf101_prepared.json")
    record.write_text(json.dumps({"files": {}}))
    with pytest.raises(DataError, match="older version: run"):
        tfds_builders.prepare("ucf101_frames", "data/ucf101", "tfds")
