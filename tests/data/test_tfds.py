import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import DataError, make_pipeline, tfds_builders
from data_pipelines.options import plain_options
from data_pipelines.sources import make_source
from data_pipelines.video.decode import open_video
from tests.data.clip_files import data_config, numbered_frames, write_video

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered_frames(40))


def copies(clip, folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, folder / name)


def lines(path, *content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in content))


def ucf101(clip, folder):
    """Three clips of class 2 and one of class 101 in the official layout."""
    classes = [f"Class{i:03d}" for i in range(1, 102)]
    lists = folder / "ucfTrainTestlist"
    lines(lists / "classInd.txt", *(f"{i} {name}" for i, name in enumerate(classes, 1)))
    for split in (1, 2, 3):
        lines(lists / f"trainlist0{split}.txt", f"Class002/v_Class002_g0{split}_c01.avi 2",
              "Class101/v_Class101_g01_c01.avi 101")
        lines(lists / f"testlist0{split}.txt", "Class002/v_Class002_g04_c01.avi")
    copies(clip, folder / "UCF-101", [f"Class002/v_Class002_g0{i}_c01.avi" for i in (1, 2, 3, 4)]
           + ["Class101/v_Class101_g01_c01.avi"])


def something_v2(clip, folder):
    """Two clips; templates with brackets, labels by their number."""
    labels = {f"Doing {i} with something": str(i) for i in reversed(range(174))}
    for name, content in {
            "labels": labels,
            "train": [{"id": "7", "template": "Doing 3 with [something]"}],
            "validation": [{"id": "8", "template": "Doing 173 with [something]"}]}.items():
        lines(folder / f"labels/{name}.json", json.dumps(content))
    copies(clip, folder / "20bn-something-something-v2", ["7.webm", "8.webm"])


def mini_kinetics(clip, folder):
    lines(folder / "classes.txt", *(f"class number {i}" for i in range(200)))
    lines(folder / "train.txt", "train/a b.mp4 199")
    lines(folder / "val.txt", "val/c.mp4 0")
    copies(clip, folder, ["train/a b.mp4", "val/c.mp4"])


@pytest.mark.parametrize("name, write, labels, first_class", [
    ("ucf101_frames", ucf101, {"train": [1, 100], "val": [1]}, "Class001"),
    ("something_something_v2_frames", something_v2, {"train": [3], "val": [173]},
     "Doing 0 with something"),
    ("mini_kinetics_frames", mini_kinetics, {"train": [199], "val": [0]}, "class number 0"),
])
def test_prepared_data_is_read_by_the_pipeline(tmp_path, clip, name, write, labels, first_class):
    write(clip, tmp_path / "manual")
    assert tfds_builders.main([name, f"--manual_dir={tmp_path / 'manual'}",
                               f"--data_dir={tmp_path / 'tfds'}"]) == 0
    config = data_config(source="tfds", root=str(tmp_path / "tfds"), tfds_name=name, batch_size=1,
                         eval_batch_size=1)
    for split, expected in labels.items():
        source = make_source(plain_options(config), split)
        assert sorted(source.entry(i).labels[0] for i in range(len(source))) == expected
        assert source.class_names[0] == first_class
    with open_video(clip) as video, source.open(0) as stored:
        assert stored.num_frames == 32
        indices = [int((k + 0.5) * 40 / 32) for k in range(32)]
        difference = np.abs(stored.get(range(32)).astype(int) - video.get(indices)).mean()
        print(f"{name}: mean difference of the JPEG frames {difference:.2f}")
        assert difference < 14  # a texture of noise
    assert sum(batch["mask"].sum() for batch in make_pipeline(config, "val")) == 1


def test_the_official_splits_of_ucf101_are_configs(tmp_path, clip):
    ucf101(clip, tmp_path / "manual")
    for split in (1, 2):
        builder = tfds_builders.prepare("ucf101_frames", str(tmp_path / "manual"),
                                        str(tmp_path / "tfds"), f"split{split}")
        names = {example["name"].decode() for example in builder.as_data_source(split="train")}
        assert f"UCF-101/Class002/v_Class002_g0{split}_c01.avi" in names and len(names) == 2


def test_tensorflow_is_not_imported(tmp_path, clip):
    mini_kinetics(clip, tmp_path / "manual")
    code = ("import runpy, sys\n"
            "try: runpy.run_module('data_pipelines.tfds_builders', run_name='__main__')\n"
            "except SystemExit as end: assert end.code == 0\n"
            "assert 'tensorflow' not in sys.modules")
    done = subprocess.run(
        [sys.executable, "-c", code, "mini_kinetics_frames", f"--manual_dir={tmp_path / 'manual'}",
         f"--data_dir={tmp_path / 'tfds'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train: 1 clips" in done.stdout and "val: 1 clips" in done.stdout


def test_mistakes(tmp_path, clip):
    with pytest.raises(DataError, match="classInd.txt does not exist.*--manual_dir must hold"):
        tfds_builders.prepare("ucf101_frames", str(tmp_path), str(tmp_path / "tfds"))
    mini_kinetics(clip, tmp_path)
    (tmp_path / "train/a b.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="train/a b.mp4: empty file"):
        tfds_builders.prepare("mini_kinetics_frames", str(tmp_path), str(tmp_path / "tfds"))
