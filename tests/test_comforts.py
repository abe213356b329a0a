"""Averaged weights, mixed clips, the best state, early ends: alone, and together in a run that is killed."""

import json
import os

import jax
import numpy as np
import pytest

from configs import localise_jhmdb, segment_ade20k, supervised_minik
from data_pipelines import DataError
from data_pipelines.batches import randaugment
from effvid_jax import best, checkpoint, cli, course, losses, mixing, optim, sharding, stored, train
from effvid_jax.errors import UserError
from effvid_jax.log import Log
from effvid_jax.start import bounds, runs
from effvid_jax.state import init_state
from effvid_jax.tasks import find_task, make_task
from tests.made import made

ALL = {"train.best": "val/top1", "train.patience": 2, "train.min_change": 10.0, "train.ema": 0.9,
       "train.mixup": 0.2, "train.cutmix": 1.0, "train.label_smoothing": 0.1, "data.randaugment": 2}


def small(root, **changes):
    """A network that is compiled in no time; an evaluation after every second of at most 20 steps."""
    config = supervised_minik.get_config("tiny")
    config.data.root = root
    config.model.options.update(dict(width=8, stage_sizes=(1,), stage_strides=(2,)))
    config.train.update(dict(num_steps=20, checkpoint_every_steps=5, log_every_steps=1,
                             eval_every_epochs=1 / 3))
    config.update_from_flattened_dict(changes)
    return config


def arrays(folder, step):
    return stored.flatten(stored.read(os.path.join(folder, "checkpoints"), step)[0])


def history(workdir):
    with open(os.path.join(workdir, "metrics.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    return [{name: value for name, value in row.items()
             if name not in ("train/steps_per_second", "train/wait_share")} for row in rows]


class Killed(BaseException):
    """The process is gone."""


def killed_at(monkeypatch, step):
    """Training ends, as a process does that is killed, when this step was made."""
    add = Log.add

    def until(log, at, *args):
        if at == step:
            raise Killed
        add(log, at, *args)

    monkeypatch.setattr(Log, "add", until)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, benchmark_root):
    """Everything at once, undisturbed: (workdir, metrics)."""
    workdir = str(tmp_path_factory.mktemp("whole"))
    return workdir, cli.train(small(benchmark_root, **ALL), workdir)


# ------------------------------------------------------------------------------------ in a whole run
def test_a_killed_run_goes_on_bit_for_bit(whole_run, tmp_path, benchmark_root, monkeypatch, capsys):
    """With all of it, killed between the second evaluation and the one that ends the run."""
    workdir, metrics = whole_run
    assert {f"val/{name}" for name in find_task(small("")).metric_names(small(""))} <= metrics.keys()
    assert metrics["step"] == 6, "the first evaluation and two that were not better by 10"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, 6)
        cli.train(small(benchmark_root, **ALL), str(tmp_path))
    assert cli.train(small(benchmark_root, **ALL), str(tmp_path)) == metrics
    told = capsys.readouterr()
    assert "the run ends after step 6 of 20: no better by more than 10 val/top1 in 2 evaluations " \
           "(config.train.patience=2); the best was after step" in told.out + told.err
    assert history(tmp_path) == history(workdir)
    for folder, step in (("", 6), ("best", metrics["best_step"])):
        a, b = (arrays(os.path.join(root, folder), step) for root in (workdir, tmp_path))
        assert a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_run_that_ended_early_is_only_evaluated_again(whole_run, benchmark_root, monkeypatch):
    workdir, metrics = whole_run
    with monkeypatch.context() as patch:
        killed_at(patch, 7)
        assert cli.train(small(benchmark_root, **ALL), workdir) == metrics
        with pytest.raises(Killed):  # it would go on with more patience
            cli.train(small(benchmark_root, **{**ALL, "train.patience": 3}), workdir)
    assert cli.train(small(benchmark_root, **ALL), workdir) == metrics


def test_the_averages_are_what_is_used(whole_run):
    workdir, metrics = whole_run
    nested, _ = stored.read(os.path.join(workdir, "checkpoints"), 6)
    assert set(nested) == {"params", "stats", "optimizer", "step", "averaged"}
    loaded = checkpoint.load_variables(workdir)[1]
    for ours, theirs in (("params", "params"), ("batch_stats", "stats")):
        jax.tree.map(np.testing.assert_array_equal, loaded[ours], nested["averaged"][theirs])
        different = jax.tree.map(lambda a, b: (a != b).any(), loaded[ours], nested[theirs])
        assert all(jax.tree.leaves(different)), "an average of other weights"
    again = cli.eval(None, workdir)
    assert again == {name: value for name, value in metrics.items() if not name.startswith("best_")}


def test_the_best_state_is_a_workdir(whole_run):
    workdir, metrics = whole_run
    rows = [row for row in history(workdir) if "val/top1" in row]
    step = max(rows, key=lambda row: row["val/top1"])["step"]  # the first of equals
    assert (metrics["best_step"], metrics["best_value"]) == (step, max(row["val/top1"] for row in rows))
    folder = os.path.join(workdir, best.FOLDER)
    assert os.listdir(os.path.join(folder, "checkpoints")) == [str(step)]
    found = cli.eval(None, folder)
    assert found["step"] == step and found["val/top1"] == metrics["best_value"]


# ------------------------------------------------------------------------------------- the best, alone
def begun(workdir, rows=(), step=0, saved=False, **changes):
    found = best.Best(small("", **{"train.best": "val/top1"} | changes), str(workdir))
    found.begin(step, [{"step": s, "val/top1": value} for s, value in rows], saved)
    return found


def test_patience_counts_evaluations_since_the_last_better_one(tmp_path):
    found = begun(tmp_path, **{"train.patience": 3, "train.min_change": 0.1})
    values = {2: 0.5, 4: 0.55, 6: 0.61, 8: 0.7, 10: 0.71}
    assert [found.at(step, value) for step, value in values.items()] == [True] * 5
    assert not found.ended, "0.61 is better by more than 0.1; 0.7 and 0.71 are not"
    assert not found.at(12, 0.71) and "no better by more than 0.1 val/top1 in 3 evaluations" in found.ended
    assert found.told() == {"best_step": 10, "best_value": 0.71}
    assert not found.at_the_end(12, {"val/top1": 0.9}), "this step has been looked at"
    with pytest.raises(UserError, match="the evaluation after step 14 has no such metric"):
        found.at(14, None)


@pytest.mark.parametrize("at", [4, 5, 8, 9])
def test_what_was_best_is_read_in_the_history(tmp_path, at, capsys):
    """As it was when the step was saved that a run goes on from, whatever came later."""
    rows = [(2, 0.5), (4, 0.6), (6, 0.6), (8, 0.4), (10, 0.9)]
    os.makedirs(tmp_path / "best" / "checkpoints" / "4")
    found = begun(tmp_path, rows, step=at, **{"train.patience": 2})
    assert (found.step, found.value, bool(found.ended)) == (4, 0.6, at >= 8)
    assert not capsys.readouterr().err


def test_a_best_state_that_is_not_there(tmp_path, capsys):
    """Killed before it was copied, deleted by somebody, or of later than where a run goes back to."""
    for name in ("config.json", "classes.txt", "run.json"):
        (tmp_path / name).write_text("{}")
    state = tmp_path / "checkpoints" / "4" / "state"
    os.makedirs(state)
    os.makedirs(tmp_path / "best" / "checkpoints" / "2")
    found = begun(tmp_path, [(2, 0.5), (4, 0.6)], step=4, saved=True)
    assert found.step == 4 and os.listdir(tmp_path / "best" / "checkpoints") == ["4"]
    (tmp_path / "best" / "checkpoints" / "4").rename(tmp_path / "best" / "checkpoints" / "9")
    found = begun(tmp_path, [(2, 0.5), (4, 0.6)], step=5, saved=True)
    told = capsys.readouterr()
    assert found.step is None and "the next evaluation is the first to be kept" in told.out + told.err
    assert os.listdir(tmp_path / "best" / "checkpoints") == ["9.later"]
    assert found.at(6, 0.1)


@pytest.mark.parametrize("changes, message", [
    ({"best": "val/top2"}, "config.train.best='val/top2': expected one of ['val/top1', 'val/top5', "),
    ({"best": "top1"}, "config.train.best='top1': expected one of"),
    ({"best": "test/top1"}, "config.train.best='test/top1': expected one of"),
    ({"best": "val/top1", "eval_every_epochs": 0.0}, "config.train.eval_every_epochs=0 makes none"),
    ({"patience": 3}, "config.train.patience=3 waits for a better evaluation: say of which metric, such as "
                      "--config.train.best=val/top1"),
    ({"min_change": 0.5}, "config.train.min_change=0.5 waits"),
    ({"patience": -1}, "config.train.patience=-1: expected at least 0"),
    ({"ema": 1.0}, "config.train.ema=1.0: expected less than 1"),
    ({"mixup": -0.1}, "config.train.mixup=-0.1: expected at least 0"),
    ({"label_smoothing": 1.0}, "config.train.label_smoothing=1.0: expected"),
    ({"wandb": "videos"}, "config.train.wandb='videos' needs the package wandb: pip install wandb"),
])
def test_refusals(changes, message, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)  # not installed
    monkeypatch.setattr(bounds, "_check_network", lambda config: None)
    config = small("")
    config.train.update(changes)
    with pytest.raises(UserError) as error:
        bounds.check_run(config)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("make", [localise_jhmdb, segment_ade20k])
@pytest.mark.parametrize("field, value", [("train.mixup", 0.2), ("train.cutmix", 1.0),
                                          ("train.label_smoothing", 0.1), ("data.randaugment", 2)])
def test_answers_that_lie_in_the_picture_are_not_mixed(make, field, value, monkeypatch):
    monkeypatch.setattr(bounds, "_check_network", lambda config: None)
    config = make.get_config("tiny")
    names = runs.stage_names(config)
    config = runs.stage_config(config, names[-1], "w") if names else config
    config.init.checkpoint = ""
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"config.{field}={value} is for the task 'classification'"):
        bounds.check_run(config)


def test_pairs_need_two_clips(monkeypatch):
    monkeypatch.setattr(bounds, "_check_network", lambda config: None)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with pytest.raises(UserError, match="config.train.mixup=0.2 mixes clips of a batch in pairs"):
        bounds.check_run(small("", **{"train.mixup": 0.2, "data.batch_size": 1}))


# ------------------------------------------------------------------------------------------- averages
@pytest.mark.parametrize("every", [1, 3])
def test_averages_by_hand(every, rng):
    values = rng.normal(size=(12, 4)).astype(np.float32)
    found = {"w": values[0], "n": np.int32(0)}
    wanted = values[0].astype(np.float64)
    for step, new in enumerate(values):
        found = optim.averaged(found, {"w": new, "n": np.int32(step)}, np.int32(step), 0.3, every)
        if (step + 1) % every == 0:
            n = (step + 1) // every
            decay = min(0.3, (1 + n) / (10 + n))
            wanted = decay * wanted + (1 - decay) * new
        np.testing.assert_allclose(found["w"], wanted, rtol=1e-5)
    assert found["w"].dtype == np.float32 and int(found["n"]) == 11


def test_without_it_the_program_is_as_it_was(benchmark_root):
    """A config that does not know these fields trains with the same program."""
    programs, shape = [], (8, 4, 32, 32, 3)
    for old in (False, True):
        config = small(benchmark_root)
        if old:
            with config.unlocked():
                for name in ("best", "patience", "min_change", "ema", "label_smoothing", "mixup", "cutmix",
                             "wandb", "fsdp"):
                    del config.train[name]
        method = made(config, [str(k) for k in range(12)])
        at = course.Course(config, 48)
        state = jax.eval_shape(lambda method=method, at=at, config=config: init_state(
            method, at.optimizer, config, shape))
        batch = {"video": jax.ShapeDtypeStruct(shape, np.uint8),
                 "label": jax.ShapeDtypeStruct((8,), np.int32),
                 "mask": jax.ShapeDtypeStruct((8,), np.float32)}
        step = train.jit_train_step(method, at.optimizer, 0, sharding.make_mesh(), state)
        programs.append(str(step.trace(state, batch).jaxpr))
        assert set(state.saved()) == {"params", "stats", "optimizer", "step"}
    assert programs[0] == programs[1]


# ---------------------------------------------------------------------------------------- mixed clips
def batch_of(rng, b=64, side=16):
    return {"video": rng.integers(0, 256, (b, 2, side, side, 3)).astype(np.uint8),
            "label": np.arange(b, dtype=np.int32) % 5}


def test_mixup_by_hand(rng):
    batch = batch_of(rng)
    found = mixing.mixed(batch, jax.random.key(1), 0.4, 0.0)
    share = np.asarray(found["share"])
    assert (share >= 0.5).all() and (share <= 1).all() and share.std() > 0.05
    video, other = batch["video"].astype(np.float32), np.roll(batch["video"], 1, axis=0)
    s = share[:, None, None, None, None]
    assert np.abs(np.asarray(found["video"], np.float32) - (s * video + (1 - s) * other)).max() <= 0.5001
    assert found["video"].dtype == np.uint8
    np.testing.assert_array_equal(found["other_label"], np.roll(batch["label"], 1))
    np.testing.assert_array_equal(found["label"], batch["label"])


def test_cutmix_shows_a_box_of_another_clip_in_all_frames(rng):
    batch = batch_of(rng)
    found = mixing.mixed(batch, jax.random.key(2), 0.0, 1.0)
    video, other = batch["video"], np.roll(batch["video"], 1, axis=0)
    mixed = np.asarray(found["video"])
    pasted = (mixed != video).any(axis=-1)
    assert (mixed[pasted] == other[pasted]).all()
    for clip, share in zip(pasted, np.asarray(found["share"]), strict=True):
        rows, columns = clip.any(axis=(0, 2)), clip.any(axis=(0, 1))
        area = rows.sum() * columns.sum() / clip[0].size
        assert area == pytest.approx(1 - share, abs=0.02) and share >= 0.45
    assert pasted.any()


def test_one_of_the_two_by_chance(rng):
    batch = batch_of(rng)
    found = mixing.mixed(batch, jax.random.key(3), 0.4, 1.0)
    alone = [mixing.mixed(batch, jax.random.key(3), *a)["video"] for a in ((0.4, 0.0), (0.0, 1.0))]
    which = [np.asarray((found["video"] == one).all(axis=(1, 2, 3, 4))) for one in alone]
    assert (which[0] | which[1]).all() and which[0].any() and which[1].any()


def test_the_loss_is_that_of_soft_labels(rng):
    k, smoothing = 5, 0.2
    config = small("", **{"train.label_smoothing": smoothing})
    task = make_task(config, [str(i) for i in range(k)])
    logits = rng.normal(size=(4, k)).astype(np.float32)
    batch = {"label": np.array([0, 1, 2, 3]), "other_label": np.array([3, 0, 2, 4]),
             "share": np.array([0.5, 0.7, 0.9, 1.0], np.float32)}
    hot = np.eye(k)
    soft = batch["share"][:, None] * hot[batch["label"]] + (1 - batch["share"])[:, None] * hot[
        batch["other_label"]]
    target = (1 - smoothing) * soft + smoothing / k
    wanted = -(target * np.asarray(jax.nn.log_softmax(logits))).sum(axis=1)
    np.testing.assert_allclose(task.loss(logits, batch), wanted, rtol=1e-5)
    plain = task.loss(logits, {"label": batch["label"]})
    np.testing.assert_allclose(plain, losses.cross_entropy(logits, batch["label"], smoothing))


# ---------------------------------------------------------------------------------------- RandAugment
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_an_operation_is_the_same_for_all_frames(name, rng):
    frame = (rng.integers(0, 200, (1, 24, 32, 3)) + 20).astype(np.uint8)
    clip, operation = np.repeat(frame, 3, axis=0), randaugment.OPERATIONS[name]
    for level, sign in ((0.5, 1), (1.0, -1)):
        out = operation(clip, level, sign)
        assert out.shape == clip.shape and out.dtype == np.uint8
        assert (out == out[:1]).all(), "frames that were equal are equal"
        assert (out != clip).any() == (name != "identity")
    if name not in ("auto_contrast", "equalize"):
        assert (operation(clip, 0.0, 1) == clip).all(), "no strength, no change"
    flat = np.full((2, 8, 8, 3), 90, np.uint8)  # nothing to measure
    assert operation(flat, 0.0, 1).dtype == np.uint8


def test_geometry_by_hand():
    frames = np.zeros((1, 21, 21, 3), np.uint8)
    frames[0, 10, 15] = 255
    turned = randaugment.OPERATIONS["rotate"](frames, 1.0, 1)[0, ..., 0].astype(float)
    y, x = np.unravel_index(turned[4:17, 4:17].argmax(), (13, 13))
    assert abs(np.hypot(y + 4 - 10, x + 4 - 10) - 5) < 1, "30 degrees around the centre"
    moved = randaugment.OPERATIONS["translate_x"](frames, 331 / 150 / 21 * 3, 1)
    assert moved[0, 10, 12, 0] == 255 and (moved[0, 0, 20] == (124, 116, 104)).all()


def test_clips_are_drawn_anew_and_the_same_again(rng):
    clip = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    seen = [randaugment.randaugment(clip, 2, 9.0, np.random.default_rng(k)).tobytes() for k in range(12)]
    assert len(set(seen)) > 6
    again = randaugment.randaugment(clip, 2, 9.0, np.random.default_rng(5))
    assert again.tobytes() == seen[5]
    assert (randaugment.randaugment(clip, 0, 9.0, np.random.default_rng(5)) == clip).all()
    with pytest.raises((UserError, DataError), match="randaugment_magnitude"):
        bounds.check_values(small("", **{"data.randaugment_magnitude": 11.0}))
