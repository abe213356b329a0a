"""Every field of a config has a type and bounds: what cannot work does not start, no value is a traceback."""

import itertools
import math

import pytest

import data_pipelines
from benchmarks.hostile_configs import Fuzz, paths, problem, put
from configs import dynamic_k400, reskd_minik, supervised_minik, va_red2_minik
from configs.recipes import base
from data_pipelines import DataError, Field
from effvid_jax import cli, console, lookup, train
from effvid_jax.errors import UserError
from effvid_jax.methods import SHARED, find_method
from effvid_jax.methods.reskd import Reskd
from effvid_jax.start import bounds, runs
from tests.toys import toy_config


class Accepted(Exception):
    """Training would have started."""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """What `main.py` calls, up to the first stage's data."""
    def begin(*args):
        raise Accepted

    monkeypatch.setattr(train, "train", begin)
    number = itertools.count()
    return lambda config: cli.train(config, str(tmp_path / str(next(number))))


def test_every_field_is_described_once():
    known = {*bounds.FIELDS, *(f"data.{name}" for name in data_pipelines.data_fields)}
    assert set(paths(base.defaults())) <= known
    assert {f"model.exits.{name}" for name in dynamic_k400.get_config().model.exits} <= known
    for name in lookup.known_names("effvid_jax.methods", SHARED):
        settings = find_method(name).Settings
        fields = settings.fields()
        assert set(settings.bounds) <= set(fields)
        for setting, field in fields.items():
            free = setting == "thresholds"  # scores of any size
            numeric = any(f.kind in ("an integer", "a finite number") for f in (field, field.each) if f)
            assert not numeric or free or setting in settings.bounds, f"{name}: {setting} has no bounds"
            default = getattr(settings(), setting)
            assert not field.problem(default), (name, setting)


@pytest.mark.parametrize("config", [supervised_minik, reskd_minik, dynamic_k400, va_red2_minik, toy_config])
def test_what_is_shipped_is_within_its_bounds(config):
    for form in ("", "tiny", "demo")[config is toy_config:]:
        bounds.check_values(config.get_config(form), complete=True)


def test_a_start_that_only_the_user_knows_must_be_given(monkeypatch):
    """`:from_static` trained from scratch with the settings of a start from a trained network."""
    monkeypatch.setattr(bounds, "_check_network", lambda config: None)
    for arg in ("from_static", "from_static,baseline=cgnet", "from_static,tiny", "from_static,demo"):
        config = va_red2_minik.get_config(arg)
        stages = {name: runs.stage_config(config, name, "w") for name in runs.stage_names(config)}
        if stages:  # the embedded forms have a stage to start from
            cli.check_stages(stages)
            continue
        with pytest.raises(UserError, match="config.init.checkpoint is not given: this config starts from "
                                            "the workdir of the static network.*init.checkpoint=DIR") as e:
            cli.check_stages({"": config})
        assert "\n" not in str(e.value)
        config.init.checkpoint = "runs/static"
        cli.check_stages({"": config})


@pytest.mark.parametrize(("path", "value", "words"), [
    ("train.num_steps", -1, "config.train.num_steps=-1: expected at least 0"),
    ("train.num_epochs", math.inf, "config.train.num_epochs=inf: expected a finite number"),
    ("train.log_every_steps", 0, "config.train.log_every_steps=0: expected at least 1"),
    ("train.checkpoint_every_steps", 0, "config.train.checkpoint_every_steps=0"),
    ("train.keep", 0, "config.train.keep=0: expected at least 1"),
    ("train.eval_every_epochs", math.nan, "config.train.eval_every_epochs=nan"),
    ("optim.lr", -0.1, "config.optim.lr=-0.1: expected at least 0"),
    ("optim.lr", True, "config.optim.lr=True: expected a finite number"),
    ("optim.milestones", (3, "a"), r"config.optim.milestones=\(3, 'a'\): .* in entry 2"),
    ("optim.accumulate", 30, "config.optim.accumulate=30: .*nothing would be trained"),
    ("seed", 2**63, "config.seed=9223372036854775808: expected at most"),
    ("seed", 2**32, "config.seed=4294967296: expected at most"),
    ("init.skip", "(", r"config.init.skip='\(': expected a regular expression"),
    ("init.checkpoint", "a\0b", "config.init.checkpoint='a.x00b': expected a text"),
    ("model.dtype", "float64", "config.model.dtype='float64': expected one of float32, bfloat16"),
    ("model.bn_groups", 3, "config.data.batch_size=8 does not divide over .*bn_groups=3.* 6 or 9"),
    ("model.remat", True, "config.model.remat=True: expected a text"),
    ("data.views_per_pass", -1, "data.views_per_pass=-1 must be at least 0"),
    ("train.validation", {"test_crop": "three"}, "config.train.validation, .* data.test_crop='three' takes"),
    ("train.validation", {"test_crop": "five"}, "config.train.validation.test_crop='five': expected one of"),
    ("train.validation", {"eval_batch_size": 3}, "config.train.validation.eval_batch_size=3 does not divide"),
    ("train.validation", {"test_clips": 2}, "config.train.validation, .* data.test_clips=2 has no meaning"),
    ("train.validation", {"test_crops": 2}, "config.train.validation.test_crops=2"),
    ("data.eval_batch_size", 7, "config.data.eval_batch_size=7 does not divide over the 2 devices.* 6 or 8"),
    ("data.batch_size", 1, "config.data.batch_size=1 does not divide over the 2 devices.* 2"),
    ("data.batch_size", 2**20, "data.batch_size=1048576: two batches .* GiB"),
    ("data.frame_template", "{:05", "data.frame_template='{:05' must be a name with a place"),
    ("data.train_list", 5, "data.train_list=5 must be a text"),
    ("data.synthetic", {"seed": math.nan}, "data.synthetic.seed=nan must be a number"),
    ("model.options", {"width": 0}, "config.model.resolution.* empty output"),
    ("model.options", {"width": 2**16}, "arrays of .* GiB"),
    ("model.options", {"stage_sizes": (10**9,)}, "config.model.options.stage_sizes=.*at most 256 in entry 1"),
    ("method.name", "..", r"config.method.name='\.\.'"),
    ("evaluations", {"val": -1}, "config.evaluations.val=-1: expected at least 0"),
    ("data", 5, "config.data=5: expected a group of fields"),
])
def test_values_that_cannot_work(start, path, value, words):
    config = supervised_minik.get_config("tiny")
    put(config, path, value)
    with pytest.raises((UserError, DataError), match=words) as caught:
        start(config)
    assert "\n" not in str(caught.value)


def test_a_stage_is_checked_before_the_first_one_trains(start):
    config = reskd_minik.get_config("tiny")
    put(config, "stages.baseline.optim.groups", "tsn")
    with pytest.raises(UserError, match="stage baseline: config.optim.groups='tsn': expected one of single"):
        start(config)
    config = reskd_minik.get_config("tiny")
    del config.optim["lr"]
    with pytest.raises(UserError, match="config.optim.lr is missing"):
        start(config)


def test_a_teacher_that_does_not_fit_is_refused_before_it_trains(start):
    config = reskd_minik.get_config("tiny,teacher=resnet50")
    put(config, "stages.teacher.model.options", {**config.model.options.to_dict(), "width": 8})
    with pytest.raises(UserError, match="stage student: config.method.loss='feature' .* channels"):
        start(config)
    config.method.loss = "position_kl"
    with pytest.raises(Accepted):
        start(config)


def test_a_method_without_a_name_is_refused_in_runs_with_stages_too():
    config = reskd_minik.get_config("tiny")
    config.method = {}
    with pytest.raises(UserError, match="config.method.name is missing"):
        bounds.check_values(config)


@pytest.mark.parametrize("of", ["supervised_minik", "reskd_minik"])
@pytest.mark.parametrize("group", ["data", "model", "method", "optim", "train", "init", "bench"])
@pytest.mark.parametrize("value", [{}, {"a": 1}], ids=["empty", "another field"])
def test_a_group_without_its_fields_is_refused_or_does_without(start, monkeypatch, of, group, value):
    monkeypatch.setattr(bounds, "_check_network", lambda config: None)
    config = {"supervised_minik": supervised_minik, "reskd_minik": reskd_minik}[of].get_config("tiny")
    if group not in config:
        return
    with config.unlocked():
        config[group] = value
    try:
        start(config)
    except Accepted:
        pass
    except (UserError, DataError) as error:
        assert f"config.{group}" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("value", [(), None, 0, False, 0.0, {}])
def test_a_teacher_that_is_no_text_is_refused(start, value):
    config = reskd_minik.get_config("tiny")
    with config.unlocked():
        config.method = {**config.method.to_dict(), "teacher": value}
    with pytest.raises(UserError, match="config.method.teacher"):
        start(config)


def test_no_value_is_a_traceback(start, monkeypatch):
    """5,000 values in all fields, through what `main.py` calls: refused in one line, or accepted.

    Values are what it is about: networks, which take most of the time, are built for one in fifty.
    """
    build, beside, number = bounds._check_network, Reskd.check_beside, 0
    monkeypatch.setattr(bounds, "_check_network", lambda *args: number % 50 or build(*args))
    monkeypatch.setattr(Reskd, "check_beside", lambda *args: number % 50 or beside(*args))
    monkeypatch.setattr(console, "say", lambda text: None)
    fuzz, count = Fuzz(), dict.fromkeys(("accepted", "refused"), 0)
    for number in range(5000):
        config, path, old, value = fuzz.case(number)
        put(config, path, value)
        try:
            start(config)
        except Accepted:
            count["accepted"] += 1
        except (UserError, DataError) as error:
            count["refused"] += 1
            assert not problem(path, value, str(error))
        except Exception as error:
            raise AssertionError(f"{path}={value!r}: {type(error).__name__}") from error
        finally:
            put(config, path, old)
    print(count)
    assert count["accepted"] > 200 and count["refused"] > 2000


def test_only_known_numbers_exceed_32_bits():
    """An integer of more bits gets into no array: of such a field it must become a float on its way."""
    for name in lookup.known_names("effvid_jax.methods", SHARED):
        settings = find_method(name).Settings
        whole = {field: 1 for field, kind in settings.fields().items() if kind.kind == "a finite number"
                 and not kind.problem(1)}
        read = settings.read({"name": name, **whole})
        assert all(isinstance(getattr(read, field), float) for field in whole), name
    large = {path for path, field in bounds.FIELDS.items() if not field.problem(2**40)}
    assert large <= {"optim.clip_norm"}, "test_optim has the one that there is"


def test_words_of_bounds():
    assert Field.integer(1).problem(0) == "at least 1" and not Field.integer(1).problem(1)
    assert Field.integer(0, 5).problem(2.0) == "an integer, at least 0 and at most 5"
    assert Field.number(above=0).problem(0) == "more than 0"
    assert Field.number(0, below=1).problem(1) == "less than 1"
    assert Field.number().problem(10**400) == "a finite number"
    assert Field.many(Field.integer(1)).problem((1, 0)) == "at least 1 in entry 2"
    assert data_pipelines.shown("a\n" * 100).count("\n") == 0
