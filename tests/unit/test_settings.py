"""`--mode=config`: every field of a config has a meaning, read where it is defined."""

import json

import pytest

from effvid_jax import cli
from effvid_jax.errors import UserError
from effvid_jax.start import settings
from tests.config_texts.__main__ import load

CODE = '''
def defaults():
    config.seed = 0  # of weights
    # Of both.
    config.data = ConfigDict(dict(
        source="list",  # list | folder |
        # tfds
        root="", share=0.5,  # where, and how much
        bare=3,
        # Inside:
        nested=dict(a=1, b=()),
    ))
'''


def test_defaults_and_comments_are_read():
    defaults, meanings = settings.read_fields(CODE)
    assert defaults == {"seed": 0, "data.source": "list", "data.root": "", "data.share": 0.5, "data.bare": 3,
                        "data.nested.a": 1, "data.nested.b": ()}
    assert meanings["seed"] == "of weights" and meanings["data.source"] == "list | folder | tfds"
    assert meanings["data.root"] == meanings["data.share"] == "where, and how much"
    assert "data.bare" not in meanings and meanings["data.nested.a"] == "Inside:"


@pytest.mark.parametrize("name, arg", [
    ("reskd_minik", ""), ("va_red2_k400", "backbone=x3d_m"), ("dynamic_sthv2", ""),
    ("va_red2_minik", "baseline=cgnet"), ("va_red2_minik", "baseline=pruning")])
def test_every_field_says_what_it_means(name, arg):
    """Of the base recipe and of the method; what a backbone or its exits have of their own is theirs."""
    told = settings.settings(load(name, arg))
    free = ("model.options.", "model.exits.", "stages.", "data.synthetic.", "method.name")
    silent = [s.path for s in told if not s.meaning and not s.path.startswith(free)]
    assert not silent, silent
    assert len(told) > 70


def test_what_is_printed(capsys):
    found = cli.config(load("va_red2_minik", "frames=16"), None)
    text = capsys.readouterr().out
    assert "* config.data.num_frames = 16    (default 8)\n      an integer, at least 1" in text
    assert "  config.method.leak = 0.1\n" in text and "so that it can open again" in text
    assert found["fields"] > 100 and 10 < found["changed"] < 40 and json.dumps(found)
    with pytest.raises(UserError, match="--mode=config needs --config=FILE"):
        cli.config(None, None)
