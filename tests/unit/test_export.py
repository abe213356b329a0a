"""Exported networks: read by a fresh process that has jax and numpy only."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import ClipReader
from effvid_jax import cli, export
from effvid_jax import exported as exporting
from effvid_jax.errors import UserError
from effvid_jax.export import preprocessing
from effvid_jax.methods.clips import Sight
from effvid_jax.predict import Predictor
from effvid_jax.start import runs

STRANGER = """
import importlib.util, sys
for name in ("flax", "orbax", "optax", "grain", "effvid_jax", "data_pipelines", "ml_collections", "absl"):
    sys.modules[name] = None  # as if it were not installed
import numpy as np
file, folder, clips, out = sys.argv[1:]
spec = importlib.util.spec_from_file_location("reader", file)
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
model, clips = reader.load(folder), np.load(clips)
results = {n: model(clips[:n]) for n in (1, len(clips))}
np.savez(out, **{f"{name}{n}": x for n, r in results.items() for name, x in zip(("p", "g"), r)})
"""


@pytest.fixture(scope="module")
def exported(tiny_run):
    result = cli.export(None, tiny_run)
    print(result)
    assert result["export"] == os.path.join(tiny_run, "export")
    return result["export"]


def test_fresh_process_gives_equal_numbers(tiny_run, exported, tmp_path, rng):
    clips = rng.integers(0, 256, (3, 4, 64, 64, 3), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    subprocess.run([sys.executable, "-c", STRANGER, os.path.join(exported, "load.py"), exported,
                    str(tmp_path / "clips.npy"), str(tmp_path / "out.npz")], check=True)
    out = np.load(tmp_path / "out.npz")
    here = exporting.load(exported)
    predictor = Predictor(tiny_run)
    for n in (1, 3):
        probabilities, gmacs = map(np.asarray, here(clips[:n]))
        assert probabilities.shape == (n, 16) and probabilities.dtype == np.float32
        np.testing.assert_allclose(out[f"p{n}"], probabilities, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(out[f"g{n}"], gmacs)
        for clip, row in zip(clips, probabilities, strict=False):
            best = predictor.classify(clip[None])["top5"][0]
            assert best["label"] == here.class_names[row.argmax()]
            assert best["prob"] == pytest.approx(row.max(), abs=2e-6)
    print("largest difference between processes:", np.abs(out["p3"] - probabilities).max())


def test_what_it_says_about_itself(exported, tiny_run):
    assert sorted(os.listdir(exported)) == ["load.py", "model.jaxexport", "model.json", "weights.npz"]
    with open(os.path.join(exported, "model.json")) as f:
        info = json.load(f)
    with open(os.path.join(tiny_run, "student", "metrics.json")) as f:
        metrics = json.load(f)
    assert info["platforms"] == ["cpu", "cuda", "tpu"]
    assert info["input"]["shape"] == ["batch", 4, 64, 64, 3]
    assert info["gmacs_per_clip"] == pytest.approx(metrics["val/gmacs"], rel=1e-5)
    assert info["params"] == metrics["params"] and info["step"] == 6 and len(info["class_names"]) == 16
    assert "resize to 32 pixels" in info["preprocessing"]["inside_the_program"]


@pytest.mark.parametrize("changes", [
    {}, {"twice_sample": True}, {"test_crop": "three", "test_short_side": 64, "test_crop_size": 64},
    {"sampling": "dense", "frame_interval": 3, "test_clips": 4, "quality": 32}, {"test_crop": "whole"},
    {"test_crop": "pad", "sampling": "around", "frame_interval": 2}])
def test_clips_are_prepared_from_the_description_alone(tiny_run, exported, tmp_path, rng, changes):
    """The loader's frames, crops and resizing give the pixels of the evaluation, byte for byte."""
    data = runs.trained(None, tiny_run)[0].data
    data.update(changes)
    shutil.copytree(exported, tmp_path / "export")
    info = json.loads((tmp_path / "export" / "model.json").read_text())
    told = preprocessing(data, Sight(32))
    assert changes or told == info["preprocessing"]
    info["preprocessing"] = told
    (tmp_path / "export" / "model.json").write_text(json.dumps(info))
    model = exporting.load(tmp_path / "export")
    for count, height, width in ((1, 70, 90), (5, 90, 70), (40, 64, 64), (23, 131, 97)):
        frames = rng.integers(0, 256, (count, height, width, 3), np.uint8)
        np.testing.assert_array_equal(model.prepare(frames), ClipReader(data).views(frames))


def test_wrong_clips_are_refused(exported):
    model = exporting.load(os.path.join(exported, "model.jaxexport"))
    for clips in (np.zeros((1, 4, 32, 32, 3), np.uint8), np.zeros((4, 64, 64, 3), np.uint8),
                  np.zeros((1, 4, 64, 64, 3), np.float32)):
        with pytest.raises(ValueError, match=r"takes uint8 \(B, 4, 64, 64, 3\)"):
            model(clips)


@pytest.mark.parametrize("weight, sound", [(1.0, True), (np.nan, False), (3e38, False)])
def test_users_of_a_file_are_told_of_results_that_are_not_finite(tmp_path, weight, sound):
    def program(weights, clips):
        z = (clips.astype(jnp.float32).sum(axis=(1, 2, 3))[:, :2] * weights["w"]) * jnp.array([1.0, 2.0])
        return jax.nn.softmax(z), jnp.ones(clips.shape[0])

    spec = (jax.ShapeDtypeStruct((), np.float32),
            jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), 1, 2, 2, 3), np.uint8))
    saved = jax.export.export(jax.jit(program))({"w": spec[0]}, spec[1])
    (tmp_path / exporting.PROGRAM).write_bytes(saved.serialize())
    np.savez(tmp_path / exporting.WEIGHTS, w=np.float32(weight))
    (tmp_path / exporting.INFO).write_text(json.dumps({
        "name": "n", "step": 7, "class_names": ["a", "b"], "input": {"shape": ["batch", 1, 2, 2, 3]}}))
    model, clips = exporting.load(str(tmp_path)), np.zeros((3, 1, 2, 2, 3), np.uint8)
    clips[1] = 200
    if sound:
        assert np.isfinite(np.asarray(model(clips)[0])).all()
    else:
        bad = r"\[0, 1, 2\].*3 of 3" if np.isnan(weight) else r"\[1\].*1 of 3"
        with pytest.raises(ValueError, match=f"probabilities of clips {bad}.*step 7"):
            model(clips)
    assert model(clips, check=False)[0].shape == (3, 2)
    assert jax.jit(lambda x: model(x)[0].sum())(clips).shape == ()  # while traced nothing is checked


# ------------------------------------------------------------------------------------------ TensorFlow
def of_format(tiny_run, name):
    config, stage = runs.trained(None, tiny_run)
    config.export.format = name
    return config, stage


def test_without_tensorflow_it_is_one_line(tiny_run, tmp_path, monkeypatch):
    """Before anything is restored or written."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="config.export.format='savedmodel' needs TensorFlow: pip install "
                                        "tensorflow-cpu") as error:
        export.export(*of_format(tiny_run, "savedmodel"), str(tmp_path / "export"))
    assert "\n" not in str(error.value) and not (tmp_path / "export").exists()


def test_a_saved_model_answers_as_the_program_beside_it(tiny_run, tmp_path, rng):
    tf = pytest.importorskip("tensorflow")
    result = export.export(*of_format(tiny_run, "savedmodel"), str(tmp_path))
    assert result["savedmodel_difference"] <= 1e-5
    model = tf.saved_model.load(str(tmp_path / "saved_model"))
    here = exporting.load(str(tmp_path))
    for n in (1, 3):
        clips = rng.integers(0, 256, (n, 4, 64, 64, 3), np.uint8)
        answer = model.signatures["serving_default"](clips=tf.constant(clips))
        probabilities, gmacs = here(clips)
        np.testing.assert_allclose(answer["output"], probabilities, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(answer["gmacs"], gmacs)
