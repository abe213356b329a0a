"""Clips are normalised as the network's backbone asks for, wherever something looks at them."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import effvid_jax
from configs import reskd_minik, supervised_minik
from effvid_jax.backbones.facts import FACTS, IMAGENET, Pixels, facts
from effvid_jax.methods import Variables, base, building, make_method
from effvid_jax.methods.reskd import Reskd
from effvid_jax.tasks import make_task

ODD = Pixels((127.0, 120.0, 110.0), (128.0, 60.0, 50.0))


@pytest.fixture
def odd(monkeypatch):
    """The small member that trains in `:tiny`, with a normalisation of its own."""
    monkeypatch.setitem(FACTS, "tsm_resnet18", FACTS["tsm_resnet18"]._replace(pixels=ODD))


def by_numpy(video, pixels):
    return ((video.astype(np.float64) - np.array(pixels.mean)) / np.array(pixels.std)).astype(np.float32)


def clips(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_values(odd):
    video = clips(2, 5, 4, 3)
    assert facts("resnet50").pixels == facts("of_no_row").pixels == IMAGENET
    model = supervised_minik.get_config("tiny").model
    assert model.backbone == "tsm_resnet18"
    np.testing.assert_allclose(base.Sight.of(model)(video), by_numpy(video, ODD), atol=1e-5)
    model.backbone = "resnet50"
    np.testing.assert_allclose(base.Sight.of(model)(video), by_numpy(video, IMAGENET), atol=1e-5)
    assert base.Sight.of(model, 8)(video).shape == (2, 8, 8, 3)
    floats = jnp.ones((1, 4, 4, 3))
    assert base.Sight()(floats) is floats, "floating-point clips are taken as normalised"


def test_a_method_sees_them(odd):
    """Views at a time, features, clips to train on: as the network answers what numpy has normalised."""
    config = supervised_minik.get_config("tiny")
    config.data.views_per_pass = 1
    method = make_method(config, make_task(config, ["a", "b", "c"]))
    variables = jax.jit(method.model.init)(jax.random.key(0), jnp.zeros((1, 2, 32, 32, 3)))
    variables = Variables(variables["params"], variables["batch_stats"])
    video = clips(1, 2, 2, 32, 32, 3)
    logits, maps = jax.jit(method.model.apply)(variables.network, by_numpy(video[0], ODD))
    found = jax.jit(method.predict)(variables, {"video": video})
    np.testing.assert_allclose(found.logits[0], method.task.mean_of_views(logits[None])[0], atol=1e-5)
    np.testing.assert_allclose(jax.jit(method.features)(variables, {"video": video})[0],
                               maps["pooled"].mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(method._clips({"video": video[0]}), by_numpy(video[0], ODD), atol=1e-5)


def test_a_teacher_and_its_student_each_see_their_own(odd):
    config = reskd_minik.get_config("tiny")
    task = make_task(config, ["a", "b", "c"])
    student = building.build_network(config.model, task)
    method = Reskd(config, task, (student, student, {}))
    assert method.guide.sight == base.Sight(config.method.teacher_resolution, ODD)
    config.model.backbone = "resnet18"
    assert Reskd(config, task, (student, student, {})).sight == base.Sight(config.model.resolution, IMAGENET)


def test_nothing_else_normalises():
    """What looks at clips goes through `Sight`: a second place would forget what a backbone asks for."""
    root = Path(effvid_jax.__file__).parent
    calls = {name for name in (str(path.relative_to(root)) for path in root.rglob("*.py"))
             if not name.startswith("backbones/")  # where it is of maps
             and re.search(r"(?<![\w.])normalise\(|clips\.normalise\(", (root / name).read_text("utf-8"))}
    assert calls == {"methods/clips.py"}
