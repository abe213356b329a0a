"""Evaluation: rows are kept, any split can be scored, nothing is overwritten; the loop's helpers clean up."""

import contextlib
import json
import os
import re
import threading
import types
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import DataError
from effvid_jax import checkpoint, cli, evaluate, predict, sharding
from effvid_jax.errors import NotFiniteError, UserError
from effvid_jax.fit import differences
from effvid_jax.methods.base import Prediction, Runner
from effvid_jax.start import runs
from effvid_jax.tasks import make_task


def read(*path):
    with open(os.path.join(*path)) as f:
        return json.load(f)


def test_any_metric_can_be_had_again_without_a_network(tiny_run):
    config, stage = runs.trained(None, tiny_run)
    with np.load(os.path.join(stage, "predictions_val.npz")) as file:
        rows = dict(file)
    task = make_task(config, checkpoint.load_variables(stage)[0].class_names)
    wanted, found = read(stage, "metrics.json"), task.metrics(rows)
    print({name: round(float(value), 4) for name, value in found.items()})
    assert found and all(wanted[f"val/{name}"] == value for name, value in found.items())
    assert rows["scores"].shape == (wanted["val/examples"], task.num_outputs)
    with open(os.path.join(stage, "predictions_val.csv")) as f:
        assert [line.split(",")[0] for line in f][1:] == rows["name"].tolist()


def test_another_split_is_written_beside_the_result_of_the_run(tiny_run):
    _, stage = runs.trained(None, tiny_run)
    before = read(stage, "metrics.json"), read(tiny_run, "metrics.json")
    found = cli.eval(None, tiny_run, "train")
    assert found["train/examples"] == 48 and not any(name.startswith("val/") for name in found)
    assert read(stage, "eval_train.json") == found
    assert (read(stage, "metrics.json"), read(tiny_run, "metrics.json")) == before
    for file in ("predictions_train.csv", "predictions_train.npz"):
        assert os.path.exists(os.path.join(stage, file))
    with pytest.raises(DataError, match="unknown split='tset'"):
        cli.eval(None, tiny_run, "tset")


def test_several_evaluations_each_with_its_turn(tiny_run):
    config, stage = runs.trained(None, tiny_run)
    with config.unlocked():
        config.evaluations = {"train": 0.5}
    method, variables, _ = evaluate.restore_for_inference(config, stage)
    mesh, written = sharding.make_mesh(), []
    course = types.SimpleNamespace(steps_per_epoch=4, num_steps=5)
    evaluations = evaluate.Evaluations(config, method, mesh, stage, course)
    log = type("Log", (), {"write": lambda self, step, metrics: written.append((step, sorted(metrics)[0])),
                           "paused": contextlib.nullcontext})()
    variables = sharding.replicate(variables, mesh)
    for step in (1, 2, 3, 4, 5):
        evaluations.at(step, variables, log)
    assert [(step, name.split("/")[0]) for step, name in written] == [(2, "train"), (4, "train")]
    assert {name.split("/")[0] for name in evaluations.final(variables)} == {"val", "train"}


def test_evaluations_during_training_may_have_fewer_views(tiny_run, tmp_path):
    config, stage = runs.trained(None, tiny_run)
    config.data.twice_sample = True
    config.train.validation.update(dict(
        test_clips=1, test_short_side=64, test_crop_size=64, eval_batch_size=4))
    config.train.eval_every_epochs = 0.5
    method, variables, _ = evaluate.restore_for_inference(config, stage)
    mesh, written = sharding.make_mesh(), []
    course = types.SimpleNamespace(steps_per_epoch=4, num_steps=4)
    evaluations = evaluate.Evaluations(config, method, mesh, str(tmp_path), course)
    log = type("Log", (), {"write": lambda self, step, metrics: written.append((step, metrics["val/views"])),
                           "paused": contextlib.nullcontext})()
    variables = sharding.replicate(variables, mesh)
    for step in range(1, 5):
        evaluations.at(step, variables, log)
    final = evaluations.final(variables)
    assert written == [(2, 1)] and final["val/views"] == 2
    assert final["val/gmacs"] == pytest.approx(2 * final["val/gmacs_per_clip"])


def test_reading_ahead_ends_with_its_block():
    mesh, before = sharding.make_mesh(), set(threading.enumerate())
    taken = []

    def batches():
        for k in range(100):
            taken.append(k)
            yield {"video": np.zeros((2, 1), np.uint8), "id": np.array([k, k])}

    with pytest.raises(RuntimeError, match="broken"), sharding.Prefetch(batches(), mesh) as ahead:
        batch, here = next(ahead)
        assert set(batch) == {"video", "id"} and set(here) == {"id"}
        raise RuntimeError("broken")
    assert not set(threading.enumerate()) - before and len(taken) <= 4
    assert ahead._queue.empty(), "no batch stays on the devices"


def test_gathering_traces_once():
    mesh, events = sharding.make_mesh(), []
    jax.monitoring.register_event_duration_secs_listener(lambda name, seconds, **_: events.append(name))
    found = []
    for k in range(3):
        batch = sharding.shard_batch({"id": np.arange(4) + k}, mesh)
        events.clear()
        found.append(sharding.gather(batch, mesh)["id"].tolist())
        if k:
            assert not [name for name in events if "trace" in name or "compile" in name]
    assert found == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]


def test_only_a_users_mistake_loses_its_traceback(capsys):
    def raising(error):
        def start():
            raise error
        return start

    assert cli.run(raising(UserError("field=1: expected 2"))) == 1
    assert cli.run(raising(DataError("no such list"))) == 1
    text = capsys.readouterr().err
    assert "error: field=1: expected 2" in text and "error: no such list" in text and "Traceback" not in text
    with pytest.raises(ValueError, match="operands could not be broadcast"):
        cli.run(lambda: np.zeros(3) + np.zeros(2))


def test_differences():
    found = differences({"a": (1,), "b": (2,), "c": (3,)}, {"b": (2,), "c": (4,), "d": ()}, "x".__eq__)
    assert found == (["a"], ["d"], [("c", (4,), (3,))])
    assert found.lines() == [
        "  missing in the file: a", "  unused in the file: d", "  c: file (4,), here (3,)"]
    assert not any(differences({"a": 1}, {"a": 2, "b": 3}, lambda name: True))


def test_costs_of_clips_and_of_videos_have_names():
    """Mean, least and most of a video with its views and of one view, for any network; `predict` as well."""
    def score(views, gmacs, **more):
        rows = evaluate.Rows({"gmacs": np.array(gmacs, np.float32), **more}, views, 8, 64, 0)
        found = evaluate.Evaluator.score(SimpleNamespace(task=SimpleNamespace(metrics=lambda rows: {})), rows)
        return {name: value for name, value in found.items() if "gmacs" in name}

    assert score(1, [2, 2]) == {"gmacs": 2, "gmacs_per_video": 2, "gmacs_per_clip": 2}
    assert score(10, [20, 20]) == {"gmacs": 20, "gmacs_per_video": 20, "gmacs_per_clip": 2}
    limits = {"gmacs_min": 2, "gmacs_max": 4, "gmacs_per_video_min": 2, "gmacs_per_video_max": 4}
    exits = {"gmacs": 3, "gmacs_per_video": 3, "gmacs_per_clip": 1.5, **limits}
    assert score(2, [2, 4]) == exits, "nobody knows how single views differ"
    clips = np.array([[0.5, 1.5], [1.0, 3.0]])
    assert score(2, [2, 4], clip_gmacs=clips) == {
        **exits, "gmacs_per_clip_min": 0.5, "gmacs_per_clip_max": 3.0}
    assert score(1, [2, 4])["gmacs_per_clip_max"] == 4

    task = SimpleNamespace(scores=lambda logits: logits, answer=lambda scores: {})
    this = SimpleNamespace(task=task, _step=3)
    this._checked = lambda *said: predict.Predictor._checked(this, *said)
    assert predict.Predictor._scored(this, "v", np.zeros(2), 3.0)[1] == {"gmacs": 3.0}
    told = predict.Predictor._scored(this, "v", np.zeros(2), 3.0, 2)[1]
    assert told == {"gmacs": 3.0, "gmacs_per_clip": 1.5}


@pytest.mark.parametrize("key", ["scores", "gmacs", "doubt"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error_that_names_video_and_step(tiny_run, key, value):
    config, stage = runs.trained(None, tiny_run)
    method, variables, _ = evaluate.restore_for_inference(config, stage)
    evaluator = evaluate.Evaluator(config, method, sharding.make_mesh())

    def predict(variables, batch):
        n = len(batch["video"])
        hurt = jnp.zeros(n).at[3].set(value)
        said = {"scores": jnp.zeros((n, 16)), "gmacs": jnp.ones(n), "doubt": jnp.zeros((n, 2))}
        said[key] = (said[key].T + hurt).T
        return Prediction(said["scores"], said["gmacs"], {"doubt": said["doubt"]})

    with pytest.raises(NotFiniteError) as error:
        evaluator.evaluate({}, Runner(predict), step=6)
    name = evaluator.split.entry(3).name
    print(error.value)
    assert str(error.value).startswith(f"video {name}: {key} of the network at step 6 are not finite (")
    with pytest.raises(NotFiniteError, match=f"{key} of teacher are not finite"):
        evaluator.rows({}, Runner(predict), "teacher")


def test_a_network_that_overflows_is_told_by_every_command(tiny_run, some_video, monkeypatch, capsys):
    """Weights of 3e38 are finite; evaluation gave a top-1 of 0.14 and prediction the word NaN."""
    _, stage = runs.trained(None, tiny_run)
    original, before = checkpoint.load_variables, read(stage, "metrics.json")

    def load_variables(*args):
        saved, loaded = original(*args)
        loaded["params"]["fc"]["kernel"] = np.full_like(loaded["params"]["fc"]["kernel"], 3e38)
        return saved, loaded

    monkeypatch.setattr(checkpoint, "load_variables", load_variables)
    for command, video in [
            (lambda: cli.eval(None, tiny_run), r".*\.mp4"),
            (lambda: cli.predict(None, tiny_run, some_video, True), re.escape(some_video)),
            (lambda: cli.export(None, tiny_run), r"\(a black clip\)")]:
        with pytest.raises(NotFiniteError, match=f"^video {video}: scores of the network at step 6 are not "):
            command()
    assert capsys.readouterr().out == "" and read(stage, "metrics.json") == before
