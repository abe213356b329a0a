"""A trained run that several files of tests look at."""

import contextlib
import functools

import flax
import jax
import numpy as np
import pytest

import data_pipelines
from configs import reskd_minik, va_red2_minik
from data_pipelines.options import plain_options
from data_pipelines.sources import make_source
from effvid_jax import checkpoint, cli, train
from effvid_jax.reports import report
from effvid_jax.start import runs
from tests.drawn import draw
from tests.made import made, online_config, save_untrained


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, benchmark_root):
    """Workdir of `configs/reskd_minik.py:tiny`: teacher, baseline and student, a few steps each."""
    workdir = str(tmp_path_factory.mktemp("tiny_run"))
    config = reskd_minik.get_config("tiny")
    config.data.root = benchmark_root
    config.train.num_steps = 6
    for model in (config.model, config.stages.teacher.model):  # two blocks: less to compile
        model.options.update(dict(stage_sizes=(1, 1), stage_strides=(2, 2)))
    report.TIMING_SECONDS = 0.1
    assert cli.train(config, workdir)["step"] == 6
    return workdir


@pytest.fixture(scope="session")
def val_videos(tiny_run):
    """Paths of its validation clips by the names that evaluation gives them."""
    config = runs.trained(None, tiny_run)[0]
    source = make_source(plain_options(config.data), "val")
    return {source.entry(i).name: source.path(i) for i in range(len(source))}


@pytest.fixture(scope="session")
def some_video(val_videos):
    """Path of one validation clip."""
    return next(iter(val_videos.values()))


@pytest.fixture(scope="session")
def online_run(tmp_path_factory):
    """Workdir of a small network with an online shift and the classes a to e that is not trained."""
    workdir = str(tmp_path_factory.mktemp("online_run"))
    save_untrained(online_config(), ("a", "b", "c", "d", "e"), workdir)
    return workdir


@pytest.fixture(scope="session")
def frames():
    """35 frames of 48 x 64 pixels that change every half a second, at 10 a second."""
    pictures = np.random.default_rng(0).integers(0, 256, (7, 6, 8, 3), np.uint8)
    return pictures.repeat(5, 0).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="session")
def video(tmp_path_factory, frames):
    """Path of a video of these frames."""
    path = str(tmp_path_factory.mktemp("clips") / "clip.mp4")
    data_pipelines.write_frames(path, frames, 10.0)
    return path


@pytest.fixture(scope="session")
def gated_run(tmp_path_factory, benchmark_root):
    """Workdir of a small network of `configs/va_red2_minik.py:tiny` that is not trained: its gates are set.

    Biases stand in the middle of what the first clips ask for, so that decisions differ.
    """
    workdir = str(tmp_path_factory.mktemp("gated_run"))
    config = va_red2_minik.get_config("tiny")
    config = runs.stage_config(config, "dynamic", workdir)
    config.init.checkpoint, config.data.root = "", benchmark_root
    config.model.options.update(dict(width=8, stage_sizes=(1, 1), inflate=(1, 1), time_strides=(1, 2),
                                     space_strides=(1, 2)))
    split = data_pipelines.open_split(config.data, "val")
    method = made(config, split.class_names)
    clips = np.stack([split.views(i)[0] for i in range(8)])
    variables = draw(method.model, np.zeros(clips[:1].shape, np.float32))
    look = jax.jit(functools.partial(method.model.apply, mutable=["intermediates", "gates"],
                                     capture_intermediates=lambda module, _: module.name == "fc2"))
    flat = flax.traverse_util.flatten_dict(variables["params"])
    for _ in range(3):  # layers read what others have decided
        _, seen = look({**variables, "params": flax.traverse_util.unflatten_dict(flat)},
                       method.sight(clips))
        for path, x in flax.traverse_util.flatten_dict(seen["intermediates"]).items():
            middle = np.median(x[0], axis=0)
            flat[path[:-2] + ("beta",)] = np.where([True, False] * (len(middle) // 2), -middle,
                                                   0.5 - np.min(x[0], axis=0)).astype(np.float32)
    state = {"params": flax.traverse_util.unflatten_dict(flat), "stats": variables["batch_stats"],
             "step": np.zeros((), int)}
    with contextlib.closing(checkpoint.Checkpointer(workdir)) as checkpointer:
        checkpointer.save(3, state, config, split.class_names)
    train.describe_run(config, workdir, split.class_names)
    return workdir
