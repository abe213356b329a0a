"""Lists that are read at once say what they say line by line; whatever is not plain goes that way."""

import random

import pytest

from data_pipelines import DataError
from data_pipelines.sources import files, lists, long_lists
from data_pipelines.sources.items import distinct_labels
from data_pipelines.sources.text_files import read_text

PATHS = ("a.mp4", "class name/b c.avi", "x 5", "d/e,f.mp4", "[new] g", "视频/一.mp4", "é", "7", "a,1",
         "h'i\"j", "b..c/d", '"k l"', "m\u3000n", "o\u00a05", "./p", "/abs/q", "../r", "s,", "t;", "label",
         "+5", "u -3")
BLANKS = (" ", "  ", "\t", ", ", ",", " \t ")


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(long_lists, "LONG", 0)


def by_line(path, *arguments):
    return lists.parse_list(read_text(path, names_files=True), str(path), *arguments)


def outcome(function, *arguments):
    try:
        return list(function(*arguments))
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("list_format", ["video", "frames"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_same_items_as_line_by_line(tmp_path, at_once, list_format, multi_label):
    """Of hundreds of files, half of them plain, the others maybe with a line that is not."""
    r, plain = random.Random(f"{list_format} {multi_label}"), 0
    for k in range(160):
        odd, lines = k % 2, []
        for _ in range(r.randint(1, 4)):
            path = r.choice(PATHS if odd else PATHS[:6])
            blank = r.choice(BLANKS) if odd else r.choice(BLANKS[:3])
            numbers = [str(r.randint(0, 12 if odd else 9)) for _ in range(r.randint(0 if odd else 2, 4))]
            lines.append(r.choice(("", " ")) + blank.join([path, *numbers]) + r.choice(("", " ", "\t")))
        text = r.choice(("\n", "\n", "\r\n")).join(lines) + r.choice(("", "\n"))
        (file := tmp_path / f"{k}.txt").write_bytes(("\ufeff" * (k % 7 == 0) + text).encode())
        arguments = list_format, multi_label, 10, r.choice(("", "/abs", str(tmp_path)))
        wanted, found = outcome(by_line, file, *arguments), outcome(lists.read_list, file, *arguments)
        assert found == wanted, (text, arguments)
        try:
            plain += len(long_lists.read(str(file), *arguments)) > 0
        except long_lists.NotPlain:
            pass
    assert 40 < plain < 160, "both ways are taken"


def test_a_long_list_is_a_sequence(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(long_lists, "_BLOCK", 1000)
    (path := tmp_path / "list.txt").write_text("".join(f"{i}.mp4 {i % 7}\n" for i in range(500)))
    found = lists.read_list(str(path), "video", False, 7)
    assert isinstance(found, long_lists.LongList) and len(found) == 500
    assert found[-1] == ("499.mp4", 0, (499 % 7,)) and found[498:] == [found[498], found[499]]
    assert [item.path for item in found] == [f"{i}.mp4" for i in range(500)]
    assert distinct_labels(found) == set(range(7)) == distinct_labels(list(found))
    assert lists.read_list(str(path), "video", False, 7) is found, "read once"
    with pytest.raises(DataError, match="label 6 of '6.mp4' is out of range"):
        lists.read_list(str(path), "video", False, 6)
    source = files.FileSource(found, "videos", list("abcdefg"), description="", check_command="")
    assert source.entry(3) == ("3.mp4", (3,)) + source.entry(3)[2:] and source.path(3) == "videos/3.mp4"


def test_a_list_that_is_too_long_to_be_read_line_by_line_says_why(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(lists, "MAX_BYTES", 10)
    (path := tmp_path / "list.txt").write_text("a.mp4 1\nb.mp4 2\nc.mp4 x\n")
    with pytest.raises(DataError, match="must be plain text, every line `path label.*shape: 'c.mp4 x'"):
        lists.read_list(str(path), "video", False, 7)
