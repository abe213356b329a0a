"""`effvid_jax.load`: what `--mode=predict` says, from Python; docs/python.md is run as it stands."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import effvid_jax
from effvid_jax import cli
from effvid_jax.errors import UserError
from effvid_jax.predict import Predictor

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tiny_run):
    return effvid_jax.load(tiny_run)


@pytest.fixture(scope="module")
def export_folder(tiny_run):
    return cli.export(None, tiny_run)["export"]


def test_a_video_in_every_form(model, tiny_run, val_videos):
    """A file, its bytes, its frames and a list of them are answered as `--mode=predict` answers."""
    path = list(val_videos.values())[0]
    told, result = Predictor(tiny_run)(path), model.predict(path)
    assert result.told == told and result.video == path and (result.exit, result.exits) == (None, None)
    assert [{"label": label, "prob": round(prob, 6)} for label, prob in result.top()] == told["top5"]
    assert (result.label, result.gmacs) == (told["top5"][0]["label"], told["gmacs"])
    assert result.scores.shape == (len(model.class_names),) and result.scores.sum() == pytest.approx(1)
    same = model.predict([path, pathlib.Path(path).read_bytes()])
    assert [one.video for one in same] == [path, "(no file)"]
    np.testing.assert_array_equal(same[1].scores, result.scores)
    views = model.views(path)
    assert views.shape[:3] == model.clip_shape and views.dtype == np.uint8
    folder = model.predict(os.path.dirname(path))
    assert path in [one.video for one in folder] and folder[0].video == sorted(one.video for one in folder)[0]
    assert result.plot()[:4] == b"\x89PNG"


def test_features_are_what_the_classifier_reads(model, some_video):
    features = model.features(some_video)
    network, variables = model._network, model._network._variables
    head = variables.params["fc"]
    logits = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    scores = network.task.scores(logits[None])[0]
    np.testing.assert_allclose(scores, model.predict(some_video).scores, atol=1e-6)


def test_an_exported_folder(model, export_folder, some_video):
    folder = export_folder
    exported, wanted = effvid_jax.load(folder), model.predict(some_video)
    found = exported.predict(some_video)
    assert exported.class_names == model.class_names and exported.clip_shape == model.clip_shape
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)
    assert found.gmacs == pytest.approx(wanted.gmacs, rel=1e-4)
    assert "runs" not in json.dumps(json.loads(pathlib.Path(folder, "model.json").read_text())["data"])
    with pytest.raises(UserError, match="answers only"):
        exported.features(some_video)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        effvid_jax.load(tmp_path / "nothing")


def test_the_page(tiny_run, export_folder, some_video, tmp_path, monkeypatch):
    """Every block of docs/python.md, in a folder with a run and a video; one in the exported folder."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("runs")
    os.symlink(tiny_run, "runs/demo")
    shutil.copy(some_video, "clip.mp4")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    there, = (block for block in blocks if "from load" in block)
    code = "\n".join(block for block in blocks if block != there)
    exec(compile(code, "docs/python.md", "exec"), {})
    monkeypatch.chdir(export_folder)
    monkeypatch.syspath_prepend(export_folder)
    names = {"frames": np.zeros((9, 48, 64, 3), np.uint8)}
    exec(compile(there, "docs/python.md", "exec"), names)
    assert names["probabilities"].shape[-1] == len(effvid_jax.load(export_folder).class_names)
    assert (tmp_path / "answer.png").stat().st_size > 1000


def test_predicting_imports_no_data_set_library():
    """`import effvid_jax` is quick, and `load` needs neither tensorflow-datasets nor grain."""
    code = ("import sys, effvid_jax; assert 'jax' not in sys.modules; effvid_jax.load; "
            "print([n for n in ('tensorflow_datasets', 'grain', 'matplotlib') if n in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout
