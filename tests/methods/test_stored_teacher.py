"""What a teacher says of clips that come again: stored as it would say it, once, and for nobody else."""

import glob
import itertools
import json
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import reskd_minik, supervised_minik
from data_pipelines import DataError, open_split
from data_pipelines.batches.stored import _opened
from effvid_jax.errors import UserError
from effvid_jax.methods import reskd
from effvid_jax.train import train
from tests.made import made, save_untrained

CLASSES, CLIPS = 16, 12


def small(get_config, root, arg="", **changes):
    """Two blocks of a network, 12 clips of 4 frames, each in two forms."""
    config = get_config(f"tiny,{arg}")
    config.model.options.update(dict(stage_sizes=(1, 1), stage_strides=(2, 2)))
    config.run, config.data.root = "", root
    config.data.update(dict(batch_size=4, fixed_views=2))
    config.data.synthetic.update(dict(train_clips=CLIPS, val_clips=4))
    config.train.update(dict(num_steps=2, checkpoint_every_steps=2))
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, root):
    """Two workdirs of random weights."""
    found = []
    for width in (16, 24):
        workdir = str(tmp_path_factory.mktemp("teacher"))
        config = small(supervised_minik.get_config, root, "backbone=resnet152",
                       **{"model.options.width": width})
        save_untrained(config, open_split(config.data, "train").class_names, workdir)
        found.append(workdir)
    return found


def student(root, teacher, store, **changes):
    return small(reskd_minik.get_config, root, **{
        "method.teacher": teacher, "method.teacher_bn": "running",
        "method.teacher_store": str(store)} | changes)


def prepared(config):
    """(method, split as it is trained on)."""
    split = open_split(config.data, "train")
    method = made(config, split.class_names)
    method.check_split(split)
    return method, method.prepare(split.with_targets(method.task.targets))


def files_of(folder):
    return {path: os.stat(path).st_mtime_ns for path in glob.glob(f"{folder}/**/*.f16", recursive=True)}


@pytest.mark.parametrize("loss", reskd.LOSSES)
def test_what_is_stored_is_what_it_would_say(root, teachers, tmp_path, loss):
    config = student(root, teachers[0], tmp_path, **{"method.loss": loss})
    method, split = prepared(config)
    assert method.guide.store.kind == {"clip_kl": "scores", "frame_kl": "frames"}.get(loss, "maps")
    config.method.teacher_store = ""
    live, _ = prepared(config)
    assert live.guide.store is None and set(method.batch_fields) == {"label", "teacher"}
    with split.batches() as batches:
        seen = list(itertools.islice(batches, 6))  # both forms of all clips
    assert seen[0]["teacher"].dtype == np.float16 and seen[0]["teacher"].shape[1:] == {
        "scores": (CLASSES,), "frames": (4, 1, 1, 32), "maps": (4, 8, 8, 32)}[method.guide.store.kind]
    rng = np.random.default_rng(0)
    out_s = {"features": rng.standard_normal((4, 4, 4, 4, 32)).astype(np.float32)}
    head = 0.1 * rng.standard_normal((32, CLASSES)).astype(np.float32)

    def distance(of):
        return jax.jit(lambda batch: reskd.distillation_loss(
            of.settings, out_s, of.guide.answer(of.guide.variables, batch, None), *[lambda f: f @ head] * 2))

    ours, theirs = distance(method), distance(live)
    for batch in seen:
        batch = {name: batch[name] for name in ("video", "teacher")}
        np.testing.assert_allclose(ours(batch), theirs(batch), rtol=2e-3)
    written = files_of(tmp_path)
    assert len(written) == 2, "a file a view"
    prepared(student(root, teachers[0], tmp_path, **{"method.loss": loss}))
    assert files_of(tmp_path) == written, "the teacher is not asked again"


def test_it_is_made_whole_after_an_interruption(root, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.batches.stored.FILE_ROWS", 5)
    config = student(root, teachers[0], tmp_path, **{"method.loss": "clip_kl"})
    prepared(config)
    whole = {path: np.fromfile(path, np.float16) for path in files_of(tmp_path)}
    assert sorted(len(rows) // CLASSES for rows in whole.values()) == [2, 2, 5, 5, 5, 5]
    times, gone = files_of(tmp_path), sorted(whole)[1::2]
    for path in gone:
        os.remove(path)
    prepared(config)
    assert {path for path, time in files_of(tmp_path).items() if time != times[path]} == set(gone)
    for path, rows in whole.items():
        np.testing.assert_allclose(np.fromfile(path, np.float16), rows, rtol=1e-2, atol=1e-3)
    prepared(student(root, teachers[0], tmp_path, **{"method.loss": "clip_kl", "data.fixed_views": 3}))
    assert len(files_of(tmp_path)) == 9, "more forms are added to those that are there"


def test_it_is_of_one_teacher_and_of_its_clips(root, teachers, tmp_path):
    same = {"method.loss": "clip_kl"}
    prepared(student(root, teachers[0], tmp_path, **same))
    for changes, wanted in ((dict(), "of another teacher: name another folder, or remove this one"),
                            ({"data.seed": 5}, "of seed=0, not 5: name another"),
                            ({"data.synthetic.train_clips": 11}, "of videos=12, not 11: name another"),
                            ({"method.teacher_resolution": 48}, "of teacher_resolution=64, not 48: name")):
        teacher = teachers[0 if changes else 1]
        with pytest.raises(UserError, match=wanted):
            prepared(student(root, teacher, tmp_path, **same, **changes))
    assert len(files_of(tmp_path)) == 2


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"data.fixed_views": 0}, "data.fixed_views=0 no clip comes twice: .* --config.data.fixed_views=4"),
    ({"method.teacher_bn": "batch"}, "depend on the other clips .*--config.method.teacher_bn=running"),
    ({"train.mixup": 0.2}, "config.train.mixup=0.2 makes new ones of them"),
])
def test_what_changes_a_teachers_answer_is_refused(root, teachers, tmp_path, changes, wanted):
    with pytest.raises(UserError, match=wanted):
        made(student(root, teachers[0], tmp_path, **changes), [f"class {k}" for k in range(CLASSES)])
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_told_before_anything_is_computed(root, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="needs 0.0 GiB and has 0.0 free: .*clip_kl"):
        prepared(student(root, teachers[0], tmp_path))
    assert not files_of(tmp_path)


def test_a_student_learns_from_it(root, teachers, tmp_path):
    """Through the loop: the losses of a run are those with the teacher beside it."""
    def losses(workdir, **changes):
        train(student(root, teachers[0], tmp_path / "store", **changes), str(workdir))
        with open(workdir / "metrics.jsonl") as file:
            rows = [json.loads(line) for line in file]
        return [row["train/loss_kd"] for row in rows if "train/loss_kd" in row]

    steps = {"train.num_steps": 6, "train.log_every_steps": 1, "data.num_workers": 0}
    ours = losses(tmp_path / "a", **steps)
    assert len(ours) == 6 and len(files_of(tmp_path / "store")) == 2
    theirs = losses(tmp_path / "b", **steps, **{"method.teacher_store": ""})
    np.testing.assert_allclose(ours, theirs, rtol=5e-3)
    for path in files_of(tmp_path / "store"):
        with open(path, "r+b") as file:
            file.truncate(200)
    _opened.cache_clear()
    with pytest.raises(DataError, match="remove it, and the same command computes it again"):
        losses(tmp_path / "c", **steps)
