"""The train loop: frozen teachers, refusals before the first step, fine-tuning, loud stops."""

import json
import os
import queue
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import reskd_minik, supervised_minik
from effvid_jax import checkpoint, cli, evaluate, sharding, stored
from effvid_jax.errors import Interrupted, TrainingError, UserError
from effvid_jax.start import workdirs
from effvid_jax.train import train


def tiny(get_config, root, arg="", steps=2, **changes):
    """Two blocks are enough here, and compiled sooner."""
    config = get_config(f"tiny,{arg}")
    config.model.options.update(dict(stage_sizes=(1, 1), stage_strides=(2, 2)))
    config.data.root = root
    config.run = ""
    config.train.update(dict(num_steps=steps, checkpoint_every_steps=steps))
    config.update_from_flattened_dict(changes)
    config.lock()
    return config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, benchmark_root):
    """A teacher of two steps."""
    workdir = str(tmp_path_factory.mktemp("teacher"))
    train(tiny(supervised_minik.get_config, benchmark_root, "backbone=resnet152"), workdir)
    return workdir


def student(root, teacher, **changes):
    return tiny(reskd_minik.get_config, root, **{"method.teacher": teacher} | changes)


def test_teacher_is_frozen_and_not_in_the_checkpoint(teacher, tmp_path, benchmark_root):
    before = checkpoint.load_variables(teacher)[1]
    metrics = train(student(benchmark_root, teacher), str(tmp_path))
    nested, meta = stored.read(str(tmp_path / "checkpoints"), 2)
    assert set(nested) == {"params", "stats", "optimizer", "step"}
    after = checkpoint.load_variables(teacher)[1]
    jax.tree.map(np.testing.assert_array_equal, before, after)
    with open(tmp_path / "metrics.jsonl") as f:
        first = json.loads(f.readline())
    assert first["step"] == 0 and "teacher/top1" in first, "the teacher is evaluated at step 0"
    assert metrics["val/resolution"] == 32 and first["teacher/resolution"] == 64
    assert meta["config"]["method"]["loss"] == "feature" and "jax" in meta["versions"]
    for file in ("config.json", "run.json", "classes.txt", "parameters.txt", "predictions_val.csv"):
        assert (tmp_path / file).exists(), file


def test_frozen_variables_do_not_move_in_a_step(teacher, benchmark_root):
    from effvid_jax.optim import make_optimizer
    from effvid_jax.state import init_state
    from effvid_jax.train import jit_train_step
    from tests.made import made

    config = student(benchmark_root, teacher)
    method = made(config, checkpoint.load_variables(teacher)[0].class_names)
    tx = make_optimizer(config.optim, 6, 20)
    mesh = sharding.make_mesh()
    state = sharding.replicate(init_state(method, tx, config, (8, 4, 64, 64, 3)), mesh)
    frozen = jax.tree.map(np.array, state.frozen)
    params = jax.tree.map(np.array, state.params)
    step = jit_train_step(method, tx, 0, mesh, state)
    batch = {"video": np.random.default_rng(0).integers(0, 256, (8, 4, 64, 64, 3), dtype=np.uint8),
             "label": np.arange(8), "mask": np.ones(8, np.float32), "id": np.arange(8)}
    for _ in range(3):
        state, scalars = step(state, sharding.shard_batch(batch, mesh))
    assert np.isfinite(float(scalars["loss"])) and int(state.step) == 3
    jax.tree.map(np.testing.assert_array_equal, frozen, jax.tree.map(np.array, state.frozen))
    moved = jax.tree.map(lambda a, b: bool((a != np.array(b)).any()), params, state.params)
    assert all(jax.tree.leaves(moved)), "every trained array moves"


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"method.teacher": "/nowhere"}, "no checkpoint here"),
    ({"method.loss": "mse"}, "config.method.loss='mse'"),
    ({"model.resolution": 4}, "resolution 4x4 is too small.*config.model.resolution.*5x5"),
    ({"model.backbone": "tsm_resnet19"}, "unknown backbone 'tsm_resnet19'.*tsm_resnet18"),
    ({"model.options.width": 8}, "16 channels.*32.*position_kl"),
    ({"data.batch_size": 7}, "batch_size"),
    ({"optim.groups": "tms"}, "config.optim.groups='tms'"),
    ({"train.min_reference_ratio": 30.0}, "teacher at step 0 has top-1 .*min_reference_ratio"),
    ({"init.checkpoint": "/nowhere"}, "no checkpoint here"),
])
def test_refusals_before_the_first_step(teacher, tmp_path, benchmark_root, changes, wanted):
    config = student(benchmark_root, teacher, **changes)
    with pytest.raises((ValueError, TrainingError), match=f"(?s){wanted}") as error:
        train(config, str(tmp_path))
    print(error.value)
    assert not os.path.exists(tmp_path / "checkpoints" / "1")


def test_teacher_of_other_classes(tmp_path, benchmark_root):
    variables = {"params": {"fc": {"bias": np.zeros(3)}}, "batch_stats": {}}
    model = supervised_minik.get_config("tiny").model
    checkpoint.save_imported(str(tmp_path / "t"), variables, {"model": model.to_dict()}, list("abc"))
    with pytest.raises(ValueError, match="3 classes, the data has 16"):
        train(student(benchmark_root, str(tmp_path / "t")), str(tmp_path / "s"))
    names = [f"other_{i}" for i in range(16)]
    checkpoint.save_imported(str(tmp_path / "u"), variables, {"model": model.to_dict()}, names)
    with pytest.raises(ValueError, match="other_0.*same order"):
        train(student(benchmark_root, str(tmp_path / "u")), str(tmp_path / "s"))


def test_fine_tuning_from_a_checkpoint(teacher, tmp_path, benchmark_root):
    config = tiny(supervised_minik.get_config, benchmark_root, "backbone=resnet152",
                  **{"init.checkpoint": teacher, "optim.lr": 0.0})
    train(config, str(tmp_path / "a"))
    ours, theirs = (checkpoint.load_variables(str(p))[1]["params"] for p in (tmp_path / "a", teacher))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)  # lr 0: nothing moved since
    with pytest.raises(ValueError, match="(?s)does not fit the model.*fc/kernel"):
        from effvid_jax.fit import merge
        merge({"fc": {"kernel": jnp.zeros((4, 3))}}, {"fc": {"kernel": jnp.zeros((4, 2))}}, "", "x")


def test_a_classifier_that_is_fitted_first_and_layers_that_stay(teacher, tmp_path, benchmark_root, capsys):
    """Of two steps from the teacher: its stem is the teacher's, the rest has moved, the classifier is new."""
    config = tiny(supervised_minik.get_config, benchmark_root, "backbone=resnet152",
                  **{"init.checkpoint": teacher, "init.probe": True, "optim.frozen": "^(conv1|bn1)/"})
    train(config, str(tmp_path))
    assert "classifier: fitted to 48 clips" in capsys.readouterr().err
    ours, theirs = (checkpoint.load_variables(str(p))[1]["params"] for p in (tmp_path, teacher))
    for stays in ("conv1", "bn1"):
        jax.tree.map(np.testing.assert_array_equal, ours[stays], theirs[stays])
    assert (ours["layer1_0"]["conv1"]["kernel"] != theirs["layer1_0"]["conv1"]["kernel"]).any()
    assert np.abs(ours["fc"]["kernel"] - theirs["fc"]["kernel"]).mean() > 0.01
    config.optim.frozen = "^convl/"
    with pytest.raises(UserError, match="config.optim.frozen='\\^convl/' matches none of the"):
        cli.train(config, str(tmp_path / "b"))


def test_another_batch_size_on_the_way(tmp_path, benchmark_root, capsys):
    """Two steps of 8 clips, then 4 at a time: the rest of the 24 clips, and the history goes on."""
    config = tiny(supervised_minik.get_config, benchmark_root,
                  **{"train.log_every_steps": 1, "model.bn_groups": 2, "optim.schedule": "cosine"})
    with config.unlocked():
        config.model.options.update(dict(width=8, stage_sizes=(1,), stage_strides=(2,)))
    train(config, str(tmp_path))
    config.train.num_steps, config.data.batch_size = 3, 4
    with pytest.raises(UserError, match="config.data.batch_size was 8, now 4.*--resume_anyway"):
        train(config, str(tmp_path))
    assert train(config, str(tmp_path), resume_anyway=True)["step"] == 4
    assert ("batch_size was 8 and is 4 after step 2: data and learning rate go on with clip 17 (epoch 0.3333)"
            "; 2 steps remain, the last is step 4") in capsys.readouterr().err
    with open(tmp_path / "metrics.jsonl") as f:
        rows = [json.loads(line) for line in f]
    rates = {row["step"]: row["train/lr"] for row in rows if "train/lr" in row}
    wanted = [config.optim.lr * 0.5 * (1 + np.cos(np.pi * x / 3)) for x in (2, 2.5)]
    assert list(rates) == [1, 2, 3, 4] and np.allclose([rates[3], rates[4]], wanted)
    saved = stored.read_meta(str(tmp_path / "checkpoints" / "4"))
    assert saved["seen"] == {"clips": 24, "first_batch_size": 8}
    assert train(config, str(tmp_path))["step"] == 4, "the run is at its end, with nothing to refuse"


def test_not_finite_stops_with_step_and_clips(tmp_path, benchmark_root):
    config = tiny(supervised_minik.get_config, benchmark_root, steps=6,
                  **{"optim.lr": 1e30, "optim.clip_norm": 0.0, "train.checkpoint_every_steps": 6})
    with pytest.raises(TrainingError, match=r"not finite at step \d of 6.*Clips of that batch: .*mp4"):
        train(config, str(tmp_path))
    assert not os.path.exists(tmp_path / "checkpoints" / "6")


@pytest.mark.parametrize(("before", "wanted"), [
    (0, "by SIGTERM before the first step"), (2, "by SIGTERM after step 2 of 6; the state is saved")])
def test_a_signal_while_data_is_late_saves(before, wanted, tmp_path, benchmark_root, monkeypatch):
    config = tiny(supervised_minik.get_config, benchmark_root, "backbone=resnet152", steps=6)
    original, taken = sharding.Prefetch.__next__, []

    def late(self):
        if len(taken) == before:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            queue.Queue().get(timeout=60)
        taken.append(1)
        return original(self)

    monkeypatch.setattr(sharding.Prefetch, "__next__", late)
    with pytest.raises(Interrupted, match=wanted):
        train(config, str(tmp_path))
    assert checkpoint.Checkpointer(str(tmp_path)).steps() == ([before] if before else [])


def test_a_signal_in_an_evaluation_saves_and_the_evaluation_is_made_up_for(
        tmp_path, benchmark_root, monkeypatch):
    config = tiny(supervised_minik.get_config, benchmark_root, "backbone=resnet152", steps=4,
                  **{"train.eval_every_epochs": 1 / 3, "train.log_every_steps": 1})
    original, asked = evaluate.Evaluator._whole, []

    def signalled(self, *arguments):
        asked.append(os.kill(os.getpid(), signal.SIGTERM))
        return original(self, *arguments)

    def history():
        with open(tmp_path / "metrics.jsonl") as f:
            return [(row["step"], "val/top1" in row) for row in map(json.loads, f)]

    monkeypatch.setattr(evaluate.Evaluator, "_whole", signalled)
    with pytest.raises(Interrupted, match="by SIGTERM after step 2 of 4; the state is saved"):
        train(config, str(tmp_path))
    assert checkpoint.Checkpointer(str(tmp_path)).steps() == [2] and len(asked) == 1
    assert history() == [(1, False), (2, False)]
    with pytest.raises(Interrupted, match="what was trained is saved"):  # while it is made up for
        train(config, str(tmp_path))
    monkeypatch.setattr(evaluate.Evaluator, "_whole", original)
    train(config, str(tmp_path))
    assert history() == [(1, False), (2, False), (2, True), (3, False), (4, False), (4, True)]


def test_classes_and_length_are_compared_before_anything_is_written(teacher, benchmark_root, monkeypatch):
    before = {name: open(os.path.join(teacher, name), "rb").read() for name in ("config.json", "classes.txt")}
    config = tiny(supervised_minik.get_config, benchmark_root, "backbone=resnet152")
    config.train.num_steps = 1
    with pytest.raises(UserError, match="trained up to step 2, the config asks for 1"):
        train(config, teacher, resume_anyway=True)
    config.train.num_steps = 2
    names = {"class_names": [f"other {k}" for k in range(16)]}
    monkeypatch.setattr(workdirs, "_newest_meta", lambda workdir: names)
    with pytest.raises(UserError, match="class 0 was 'other 0' and is now"):
        train(config, teacher)
    assert before == {name: open(os.path.join(teacher, name), "rb").read() for name in before}


@pytest.mark.parametrize("changes", [
    {"model.dtype": "bfloat16"}, {"optim.accumulate": 2}, {"optim.name": "adamw", "optim.lr": 1e-3},
    {"model.bn_groups": 4}, {"method.loss": "position_kl"}, {"method.teacher_bn": "running"},
], ids=str)
def test_options_train(teacher, tmp_path, benchmark_root, changes):
    metrics = train(student(benchmark_root, teacher, **changes), str(tmp_path))
    assert metrics["step"] == 2 and np.isfinite(metrics["val/top1"])


def test_a_finished_run_is_only_evaluated_again(teacher, benchmark_root):
    config = tiny(supervised_minik.get_config, benchmark_root, "backbone=resnet152")
    first = json.load(open(os.path.join(teacher, "metrics.json")))
    assert train(config, teacher) == first
    assert cli.eval(None, teacher)["val/top1"] == first["val/top1"]
