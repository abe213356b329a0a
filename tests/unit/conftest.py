"""A trained run that several files of tests look at."""

import pytest

from configs import reskd_minik
from data_pipelines.options import plain_options
from data_pipelines.sources import make_source
from effvid_jax import cli
from effvid_jax.reports import report
from effvid_jax.start import runs


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, benchmark_root):
    """Workdir of `configs/reskd_minik.py:tiny`: teacher, baseline and student, a few steps each."""
    workdir = str(tmp_path_factory.mktemp("tiny_run"))
    config = reskd_minik.get_config("tiny")
    config.data.root = benchmark_root
    config.train.num_steps = 6
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
