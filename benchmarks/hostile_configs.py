"""Configs that nobody meant: a field of a tiny config gets a value of any kind. A case is seed and number."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator

from configs import dynamic_k400, reskd_minik, supervised_folder, supervised_minik, va_red2_minik

WILD = (
    None, True, "", "x", "-1", "a\0", "\ud800", "(", "{", "{:9999999999}", "..", "a.b", b"x", 1 + 2j, object,
    -1, 0, 1, 2, 3, 7, 64, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400, -10**30,
    0.5, -0.1, 1e-30, 1e30, math.inf, -math.inf, math.nan,
    (), (1,), (3, "a"), ((1, 2),), [2, [3]], (math.nan,), {}, {"a": 1})
# Arguments after `config.py:`, and flags, that a command line may have instead.
ARGUMENTS = (
    "tny", "tiny,tiny", "tiny,", ",", "tiny,backbone", "tiny,backbone=", "tiny,backbone=../x", "tiny:demo",
    "tiny,resolution=0", "tiny,resolution=-64", "tiny,resolution=1e9", "tiny,resolution=x", "=", "tiny=0",
    "tiny,backbone=resnet9000", "é", "tiny,\n", "tiny=maybe")
FLAGS = (
    ("--mode=trian",), ("--mode",), ("--workdir=",), ("--workdir=/proc/x",), ("--split=val",), ("--nothing",),
    ("stray",), ("--config.nothing=1",), ("--config.data=1",), ("--config.data.nothing.more=1",),
    ("--config=",), ("--noconfig.data.flip=1",),
    ("--config.optim.lr",), ("--mode=eval",), ("--mode=report",),
    ("--mode=predict",), ("--mode=predict", "--video=/nothing"), ("--mode=export",), ("--multihost=maybe",),
    ("--resume_anyway=2",), ("--config.stages.x.y=1",), ("--config.run=a,b",), ("--config.run=,,",),
    ("--config.model.options.width=",), ("--config.train.num_steps=0x10",), ("--config.init.step=7",))


def forms() -> list:
    """Configs whose fields are changed: one method each, the second one in stages."""
    made = [supervised_folder.get_config("tiny"), reskd_minik.get_config("tiny"),
            va_red2_minik.get_config("tiny,static"), dynamic_k400.get_config("tiny"),
            va_red2_minik.get_config("tiny")]
    made[0].model.options.update(dict(width=8, stage_sizes=(1,), stage_strides=(2,)))  # quick to trace
    for form in made[3:]:
        form.run, form.stages = "", {}
    return made


def paths(config, prefix: str = "") -> Iterator[str]:
    """Paths of all fields, groups included."""
    for name, value in config.items():
        yield prefix + name
        if hasattr(value, "items"):
            yield from paths(value, f"{prefix}{name}.")


def get(config, path: str):
    """The value of a field."""
    for name in path.split("."):
        config = config[name]
    return config


def put(config, path: str, value) -> None:
    """Sets a field, whatever its type was."""
    *groups, name = path.split(".")
    with config.unlocked(), config.ignore_type():
        for group in groups:
            config = config[group]
        if name in config:
            del config[name]  # or a number becomes one of the old one's type
        config[name] = value


def draw(rng: random.Random, old):
    """A value: a wild one, or the old one a little changed."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(WILD)
    if kind < 0.6:
        return rng.choice((-1, 1)) * rng.randrange(2 ** rng.randrange(1, 70))
    if kind < 0.7:
        return rng.choice((-1, 1)) * 10 ** rng.uniform(-40, 40)
    if isinstance(old, str):
        return old[:rng.randrange(len(old) + 1)] + rng.choice(("", "_", "\\", "\n", "(", "{}", "/..", "é"))
    if isinstance(old, (list, tuple)):
        return tuple(old) + tuple(rng.choice(WILD) for _ in range(rng.randrange(3)))
    return rng.choice((0, 1, 2, 0.5)) * old if isinstance(old, (int, float)) else old


class Fuzz:
    """Cases by number: which config, which field, which value."""

    def __init__(self, seed: int = 0):
        self._seed, self.forms = seed, forms()
        self._fields = [sorted(paths(form)) for form in self.forms]

    def case(self, number: int):
        """(config to be changed and given back, path, old value, new value)."""
        rng = random.Random(f"{self._seed} {number}")
        k = rng.choices(range(len(self.forms)), (6, 1, 4, 3, 3))[0]
        path = rng.choice(self._fields[k])
        old = get(self.forms[k], path)
        return self.forms[k], path, old, draw(rng, old)


def problem(path: str, value, text: str) -> str:
    """What is wrong with a refusal's text; '' if nothing is."""
    if "\n" in text or len(text) >= 2000:
        return f"{path}={value!r:.100}: not one line: {text[:300]!r}"
    if path.split(".")[-1] not in text and "config." not in text and "data." not in text:
        return f"{path}={value!r:.100}: names no field: {text[:300]}"
    return ""


def command(seed: int, number: int) -> list[str]:
    """Arguments of `main.py`, without a workdir: a run of one step if all is well, which it mostly is not."""
    rng = random.Random(f"command {seed} {number}")
    config = rng.choice((supervised_minik, supervised_folder, dynamic_k400))
    name = config.__name__.rpartition(".")[2]
    step = "--config.train.num_steps=1"
    kind = rng.random()
    if kind < 0.15:
        return [f"--config=configs/{name}.py:{rng.choice(ARGUMENTS)}", step]
    if kind < 0.35:
        return [f"--config=configs/{name}.py:tiny", step, *rng.choice(FLAGS)]
    form = config.get_config("tiny")
    single = [path for path in paths(form) if not hasattr(get(form, path), "items")]
    path = rng.choice(sorted({*single} - {"train.num_steps"}))
    value = draw(rng, get(form, path))
    text = str(value).encode("utf-8", "replace").decode().replace("\0", "0")  # the system takes no others
    return [f"--config=configs/{name}.py:tiny", step, f"--config.{path}={text}"]


def too_large(config) -> str:
    """Why an accepted config is not run here: more work or memory than a campaign has; '' if it is."""
    data = config.data
    volume = data.batch_size * data.num_frames * max(data.crop, data.short_side) ** 2
    views = data.eval_batch_size * data.num_frames * data.test_clips * max(data.test_crop_size,
                                                                           data.test_short_side) ** 2
    if max(volume, views * (2 if data.twice_sample else 1)) > 2**21:
        return "clips"
    if data.num_workers > 2 or data.num_threads > 64:
        return "workers"
    for part, most in ((config.model, 128), (config.method, 2048)):
        numbers = re.findall(r"[\d.]+(?:e\+?\d+)?", json.dumps(part.to_dict(), default=str))
        if any(float(number) > most for number in numbers if number.strip(".")):
            return "network"
    numbers = [x for x in dict(data.get("synthetic", {})).values() if isinstance(x, (int, float))]
    return "data set" if any(x > 100 for x in numbers) else ""
