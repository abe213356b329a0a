"""Another batch size on the way: steps are counted on, everything else follows the clips that were seen."""

import jax
import numpy as np
import pytest

from configs.recipes import base
from effvid_jax import course, optim
from effvid_jax.course import Course, Position

CLIPS = 50  # of an epoch: 6 whole batches of 8
SIZES = [(8, 16), (8, 4), (8, 6), (8, 7), (8, 6, 5), (8, 4, 8)]
SCHEDULES = {"cosine_epoch": {}, "cosine": {}, "step": {"milestones": (1, 3)}, "constant": {},
             "cosine with warmup": {"warmup_epochs": 2.0}}


def config_of(size, name="cosine", epochs=5.0):
    config = base.defaults()
    config.data.batch_size, config.train.num_epochs = size, epochs
    config.optim.update({"schedule": name.split()[0], **SCHEDULES[name]})
    return config


def switched(name, sizes, steps=7):
    """Courses with each of the sizes for so many steps, and the positions where they begin."""
    position, found = course.begin(sizes[0]), []
    for size in sizes:
        found.append((Course(config_of(size, name), CLIPS, position), position))
        position = position.at(position.step + steps, size)
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_with_one_batch_size_nothing_changes(name):
    config = config_of(8, name)
    whole = Course(config, CLIPS)
    rate = optim.make_schedule(config.optim, 6, 30)
    for at in (whole, Course(config, CLIPS, Position(7, 56, 8, 8))):
        assert (at.num_steps, at.steps_per_epoch, at.skip, at.told()) == (30, 6, 0, "")
        assert [float(at.rate(k)) for k in range(31)] == [float(rate(k)) for k in range(31)]
    w = {"w": np.ones(2)}
    programs = [str(jax.make_jaxpr(tx.update)(w, tx.init(w), w))
                for tx in (whole.optimizer, optim.make_optimizer(config.optim, 6, 30))]
    assert programs[0] == programs[1]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_follows_the_clips(name, sizes):
    courses = switched(name, sizes)
    plain = optim.make_schedule(config_of(8, name).optim, 6, 30)
    for (old, _), (new, position) in zip(courses, courses[1:], strict=False):
        assert float(new.rate(position.step)) == pytest.approx(float(old.rate(position.step)), rel=1e-6)
    new, position = courses[-1]
    for k in range(position.step, new.num_steps + 1):
        clips = position.clips + (k - position.step) * sizes[-1]
        assert float(jax.jit(new.rate)(np.int32(k))) == pytest.approx(float(plain(clips / 8)), rel=1e-5), k
    end = position.clips + (new.num_steps - position.step) * sizes[-1]
    assert 30 * 8 <= end < 30 * 8 + sizes[-1], "the run ends with the batch that has the last clip"


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_first_new_batch_begins_with_the_first_new_clip(sizes):
    for at, position in switched("cosine", sizes):
        assert position.step * at._size + at.skip == position.clips


def test_exact_at_a_boundary_of_epochs_after_many_steps():
    """Thirds of a step do not add up to 2.9999; clips would overflow 32 bits."""
    config = config_of(6, "step", epochs=4e5)
    position = Position(1_000_002, 1_000_002 * 4096, 4096, 4096)
    config.data.batch_size, config.optim.milestones = 3 * 4096, (500_003.0,)
    at = Course(config, 3 * 4096, position)  # 3 steps of the first size are an epoch: the next step is one
    rates = [float(jax.jit(at.rate)(np.int32(1_000_002 + k))) for k in (166_667, 166_668, 166_669, 166_670)]
    assert rates[0] == rates[1] == pytest.approx(0.01) and rates[2] == rates[3] == pytest.approx(0.001)


def test_what_is_said():
    at = Course(config_of(4), CLIPS, Position(7, 56, 8, 8))
    print(at.told())
    assert at.told() == ("config.data.batch_size was 8 and is 4 after step 7: data and learning rate go on "
                         "with clip 57 (epoch 1.167); 46 steps remain, the last is step 53")
    assert Course(config_of(4), CLIPS, Position(9, 64, 4, 8)).told() == "", "said once"
    ended = Course(config_of(16), CLIPS, Position(30, 240, 8, 8))
    assert ended.num_steps == 30 and "0 steps remain" in ended.told()
    assert Course(config_of(16), CLIPS, Position(39, 280, 8, 8)).num_steps < 39, "past its end"
