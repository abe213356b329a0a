"""Views of a video that go through a network a few at a time: the same answers, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dynamic_k400, supervised_minik, va_red2_minik
from effvid_jax.methods import make_method
from effvid_jax.start import runs
from effvid_jax.tasks import make_task

CLASSES = list("abcde")
VIEWS = 6


def plain():
    config = supervised_minik.get_config("tiny")
    config.model.resolution = 24  # shrunk on the device, as a student's clips
    return config


def gated(form="mixed", positions=0):
    config = runs.stage_config(va_red2_minik.get_config("tiny"), "dynamic", "w")
    config.init.checkpoint = ""
    config.model.options.update(dict(width=8, stage_sizes=(1, 1), inflate=(1, 1), time_strides=(1, 2),
                                     space_strides=(1, 2)))
    config.method.update(dict(form=form, positions=positions))
    return config


def with_exits():
    return dynamic_k400.get_config("tiny")


def of(config):
    """The method of a config, and what it is applied to: (variables, a batch of two videos)."""
    method = make_method(config, make_task(config, CLASSES))
    side = config.data.crop
    key = config.method.name
    if key not in _VARIABLES:
        _VARIABLES[key] = jax.jit(lambda key: method.init(key, (1, config.data.num_frames, side, side, 3)))(
            jax.random.key(0))
    r = np.random.default_rng(0)
    video = r.integers(0, 256, (2, VIEWS, config.data.num_frames, side, side, 3), dtype=np.uint8)
    return method, (_VARIABLES[key], {"video": jnp.asarray(video)})


_VARIABLES = {}  # by method: a form or a resolution changes none


def compiled(config, at_once):
    """(what `predict` says, bytes of its temporary arrays) with so many views in a pass."""
    config.data.views_per_pass = at_once
    method, inputs = of(config)
    program = jax.jit(method.predict).lower(*inputs).compile()
    return jax.device_get(program(*inputs)), program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("config", [plain, gated, with_exits])
def test_parts_answer_as_the_whole_in_less_memory(config):
    whole, needed = compiled(config(), 0)
    parts, needed_in_parts = compiled(config(), 2)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), parts, whole)
    print(f"{needed:,} bytes at once, {needed_in_parts:,} in three parts")
    assert needed_in_parts < 0.6 * needed


def test_clips_of_gates_that_compute_what_is_asked_for():
    for positions in (0, 2**12):
        whole, parts = (compiled(gated("compact", positions), n)[0] for n in (0, 1))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), parts, whole)


@pytest.mark.parametrize(("limit", "same"), [(4, 3), (5, 3), (6, 0), (100, 0)])
def test_the_limit_is_kept_by_the_largest_part_that_divides_the_views(limit, same):
    """4 of 6 views do not divide: 3 go at a time."""
    programs = []
    for at_once in (limit, same):
        config = plain()
        config.data.views_per_pass = at_once
        method, inputs = of(config)
        programs.append(jax.jit(method.predict).lower(*inputs).as_text())
    assert programs[0] == programs[1]
