"""From a data set in its official layout to a run: the command, what it prints, its config, an evaluation."""

import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines import open_split
from data_pipelines.prepare import __main__ as prepare
from effvid_jax import cli
from effvid_jax.reports import report
from effvid_jax.start import runs
from effvid_jax.tasks import find_task, make_task
from tests.data.official import HMDB51, JHMDB, LAYOUTS, UCF101, put, ucf101

# What a data set is for the recipe: `:tiny` replaces these fields, the command line gives them back.
OF_THE_DATA = ("source", "root", "train_root", "val_root", "train_list", "val_list", "list_format",
               "frame_template", "start_index", "classes_file", "num_classes", "multi_label", "mask_first",
               "sampling", "flip")
OF_STAGES = ("stage_sizes", "stage_strides", "inflate", "time_strides", "space_strides", "widths")
FLAGS = {name: ["--fps=25", "--height=64"] for name in ("activitynet", "fcvid")}
BROKEN = {"ade20k": 0.5}  # a mask of the miniature is broken, and its config reads the official files
# (training, validation) that can be read; of J-HMDB, key frames
READABLE = {"kinetics400": (3, 2), "mini_kinetics200": (1, 1), "activitynet": (2, 1), "fcvid": (2, 1),
            "something_v1": (2, 1), "something_v2": (2, 1), "ucf101": (2, 1), "hmdb51": (2, 2),
            "moments_in_time": (2, 1), "jhmdb": (40, 42), "ade20k": (3, 2)}
# Names in the released order, where the miniature has them.
NAMES = {"ucf101": UCF101, "hmdb51": HMDB51, "jhmdb": JHMDB}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """The configs' paths are relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "TIMING_SECONDS", 0.1)


def prepared(name, clips, capsys):
    """Prepares a miniature; returns (module of the config, its arguments, flags) of the printed command."""
    made = LAYOUTS[name](clips, Path("raw"))
    if name == "jhmdb":
        (Path("raw/puppet_mask/wave/b_2")).rmdir()
        for split in (1, 2, 3):  # without the video that has lost its mask
            path = Path(f"raw/splits/wave_test_split{split}.txt")
            path.write_text("".join(line for line in path.open() if not line.startswith("b_2")))
    assert prepare.main([name, "--raw=raw", *FLAGS.get(name, ())]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:2] == ["python", "main.py"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
    path, _, argument = flags.pop("config").partition(":")
    del flags["workdir"]
    config = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    fields = {key.removeprefix("config.data."): value for key, value in flags.items()}
    assert all(key.startswith("config.data.") for key in flags)
    return config, argument, fields, made


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_batch_through_the_printed_command(clips, capsys, name):
    """The config of the paper, untouched but for the size of its batches, reads what was written."""
    module, argument, fields, made = prepared(name, clips, capsys)
    config = module.get_config(argument)
    config.data.update(fields | dict(batch_size=2, eval_batch_size=2, num_threads=2, prefetch=1,
                                     max_broken_share=BROKEN.get(name, 0.0)))
    if config.data.calib_share:  # a share of two or three clips
        config.data.calib_share = 0.5
    facts = prepare.module_of(name).FACTS
    names = open_split(config.data, "train").class_names
    assert len(names) == facts.classes
    if name in NAMES:
        assert names == NAMES[name]
    elif isinstance(made, list):
        assert sorted(names) == sorted(made)
    task = make_task(config, names)
    for split, count in zip(("train", "val"), READABLE[name], strict=True):
        opened = open_split(config.data, split, task.targets)
        assert len(opened) == count - round(config.data.calib_share * count * (split == "train"))
        with opened.batches() as batches:
            batch = next(batches)
        side = config.data.crop if split == "train" else config.data.test_crop_size
        assert batch["video"].shape[-4:] == (config.data.num_frames, side, side, 3)
        assert batch["mask"].any() and batch["video"].any()
        wanted = getattr(task.targets, "train_fields" if split == "train" else "evaluate_fields")
        for field, (shape, kind) in wanted.items():
            assert batch[field].shape[1:] == tuple(shape) and batch[field].dtype == kind


def tiny(module, argument, fields, name):
    """`:tiny` on the data set that was prepared, as its flags would have it."""
    config = module.get_config(",".join(filter(None, (argument, "tiny"))))
    full = module.get_config(argument)
    config.data.update({key: full.data[key] for key in OF_THE_DATA})
    config.data.update(fields | dict(batch_size=2, eval_batch_size=2, max_broken_share=BROKEN.get(name, 0.0)))
    if name == "jhmdb":  # with many key frames
        config.data.update(dict(batch_size=8, eval_batch_size=14, crop=48, short_side=48, test_crop_size=48,
                                test_short_side=48))
    if config.data.calib_share:  # a share of two or three clips
        config.data.calib_share = 0.5
    config.train.update(dict(num_steps=0, num_epochs=1.0))
    options = config.model.options  # a narrow network of two stages, but for what exits need: soon compiled
    for field in {*OF_STAGES} & {*options} if not config.model.exits else ():
        if len(options[field]) == 3:  # of four stages none can go
            options[field] = options[field][:2]
    if "width" in options:
        options.width = 8
    return config


# The one with the cheapest network.
CHEAP = ("mini_kinetics200",)


@pytest.mark.parametrize("name", [
    name if name in CHEAP else pytest.param(name, marks=pytest.mark.slow) for name in sorted(LAYOUTS)])
def test_an_epoch_and_an_evaluation(clips, tmp_path, capsys, name):
    """`:tiny` of its config trains on what the command wrote, saves, and is evaluated from the workdir."""
    module, argument, fields, _ = prepared(name, clips, capsys)
    config = tiny(module, argument, fields, name)
    stages = runs.stage_names(config)
    config.run = stages[0] if stages else ""
    workdir = str(tmp_path / "run")
    metrics = cli.train(config, workdir)
    headline = f"val/{find_task(config).headline}" if "task" in config else "val/top1"
    count = READABLE[name][0] - round(config.data.calib_share * READABLE[name][0])
    assert metrics["step"] == max(1, count // config.data.batch_size) and 0 <= metrics[headline] <= 100
    again = cli.eval(None, workdir)
    assert again[headline] == metrics[headline]
    classes = prepare.module_of(name).FACTS.classes
    assert len(next(Path(workdir).rglob("classes.txt")).read_text().splitlines()) == classes


ROOT = Path(__file__).parents[2]
SMALL = {  # what a miniature is trained with, so that it takes minutes
    "--mode=bench": ["--config.bench.seconds=5", "--config.bench.batch_size=2",
                     "--config.bench.workers=(1,)"],
    "--config.run=teacher,baseline,student": ["--config.train.num_epochs=1", "--config.data.batch_size=4",
                                              "--config.data.eval_batch_size=4",
                                              "--config.train.min_reference_ratio=0"]}


@pytest.mark.slow
def test_the_path_of_the_document(clips, tmp_path):
    """The commands of docs/data.md from UCF-101's files to a student, as they stand there but for the
    network: README.md's page of test_documents.py trains the one of `:pretrained`."""
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    section = text.split("## From UCF-101's files to a distilled student")[1]
    block = section.split("```sh\n")[1].split("```")[0]
    commands = [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert len(commands) == 7
    raw = tmp_path / "big/ucf101"
    ucf101(clips, raw)
    put(clips["avi"], raw / "UCF-101/YoYo/v_YoYo_g01_c01.avi")
    for name in ("configs", "data_pipelines", "effvid_jax", "main.py"):
        os.symlink(ROOT / name, tmp_path / name)
    for command in commands:
        words = shlex.split(command.replace("/big/ucf101", str(raw)).replace(":pretrained", ":tiny"))
        more = next((flags for key, flags in SMALL.items() if key in words), [])
        done = subprocess.run([sys.executable, *words[1:], *more], cwd=tmp_path, capture_output=True,
                              text=True)
        print(command, done.stdout[-1500:], sep="\n")
        assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert len(answer["top5"]) == 5
    for stage in ("teacher", "baseline", "student"):
        assert json.loads((tmp_path / f"runs/ucf101/{stage}/metrics.json").read_text())["val/examples"] == 2
