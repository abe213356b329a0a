"""No recipe changes unseen: the resolved text of every config, in its three forms, is committed."""

import glob

import pytest

from tests.config_texts import __main__ as texts


@pytest.mark.parametrize("form", texts.FORMS)
@pytest.mark.parametrize("name", texts.names())
def test_text_is_the_committed_one(name, form):
    with open(texts.path(name, form), encoding="utf-8") as f:
        committed = f.read()
    assert texts.text(texts.load(name, form)) == committed, (
        "a recipe changed: if that is meant, run python -m tests.config_texts and read its difference")


def test_no_text_is_left_over():
    wanted = {texts.path(name, form) for name in texts.names() for form in texts.FORMS}
    assert set(glob.glob(f"{texts.FOLDER}/*.txt")) == wanted
    print(f"{len(wanted)} texts of {len(texts.names())} configs")
