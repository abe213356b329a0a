"""Files of a run: whole or not at all, a full disk and a damaged file are one line that names it."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import reskd_minik
from configs.recipes import base
from effvid_jax import checkpoint, cli, writers
from effvid_jax.errors import UserError
from effvid_jax.reports import mean_of_splits, report
from effvid_jax.start import runs
from tests.made import full_disk


def one_line(error, *parts):
    text = str(error.value)
    print(text)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text, part


# ------------------------------------------------------------------------------------------- writing
def save_arrays(path):
    with writers.whole(path) as part, open(part, "wb") as f:
        np.savez_compressed(f, x=np.arange(100))


WAYS = {
    "bytes": lambda path: writers.write_bytes(path, bytes(100)),
    "lines": lambda path: writers.write_lines(path, [["step", "loss"]] * 9),
    "text": lambda path: writers.write_text(path, "some text that is long enough"),
    "json": lambda path: writers.write_json(path, {"val/top1": 0.123456789}),
    "update": lambda path: writers.update_json(path, {"val/top1": 0.123456789}),
    "csv": lambda path: writers.write_csv(path, [{"step": k, "train/loss": 1.5} for k in range(9)]),
    "arrays": save_arrays,
    "config": lambda path: checkpoint.save_config(base.defaults(), os.path.dirname(path)),
}


@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
def test_a_full_disk_leaves_what_was_there(tmp_path, write):
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(UserError) as error, full_disk():
        write(str(path))
    one_line(error, f"{path} cannot be written: File too large")
    assert path.read_text() == "{}" and os.listdir(tmp_path) == ["config.json"]
    write(str(path))
    assert path.stat().st_size > 10 and os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
def test_killed_before_it_is_whole(tmp_path, write, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    path = tmp_path / "config.json"
    path.write_text("{}")
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(str(path))
    assert path.read_text() == "{}" and os.listdir(tmp_path) == ["config.json"]


def test_what_a_killed_process_had_begun_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = (f"result.json.effvid-{writers._HOST}-{pid}.part" for pid in (gone.pid, os.getppid()))
    others = {living, "result.json.effvid-elsewhere-7.part",
              f"other.json.effvid-{writers._HOST}-{gone.pid}.part"}
    for name in (dead, *others):
        (tmp_path / name).write_text("{")
    writers.write_json(str(tmp_path / "result.json"), {"a": 1})
    assert {*os.listdir(tmp_path)} == {"result.json", *others}


@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
def test_where_nothing_can_be_written(tmp_path, write):
    (tmp_path / "file").write_text("")  # for root no folder is read-only
    path = tmp_path / "file" / "config.json"
    with pytest.raises(UserError) as error:
        write(str(path))
    one_line(error, tmp_path / "file", "cannot be written")


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Only what `whole` began, and nobody can be writing any more."""
    def left(name, pid, host=None, age=0):
        path = tmp_path / f"{name}.effvid-{host or writers._HOST}-{pid}.part"
        path.write_text("cut")
        os.utime(path, (time.time() - age,) * 2)
        return path.name

    killed = subprocess.run([sys.executable, "-c", f"""
import os
from effvid_jax import writers
with writers.whole({str(tmp_path / "metrics.json")!r}) as part, open(part, "w") as f:
    f.write("cut")
    f.flush()
    os.kill(os.getpid(), 9)
"""], cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    assert killed.returncode == -9 and len(os.listdir(tmp_path)) == 1, "a kill leaves one"
    old = {left("a.csv", os.getpid()), left("report.html", 2**22 + 1), left("c", 1, "far-away", 4000)}
    theirs = ("clip.7.part", "metrics.json")
    stay = {left("predictions.npz", os.getppid()), left("d", 1, "far-away", 60), *theirs}
    for name in theirs:
        (tmp_path / name).write_text("a user's")
    assert old < set(os.listdir(tmp_path))
    writers.clear_parts(str(tmp_path), str(tmp_path / "export"))
    assert set(os.listdir(tmp_path)) == stay


def test_a_run_that_starts_clears_its_folders(tmp_path, monkeypatch):
    """Under the lock, those of its stages as well, and only after nothing is refused."""
    cleared, config = [], reskd_minik.get_config("tiny")
    monkeypatch.setattr(writers, "clear_parts", lambda *folders: cleared.extend(folders))
    monkeypatch.setattr(cli, "_train_stages", lambda *_: os.listdir(tmp_path))
    assert "run.lock" in cli.train(config, str(tmp_path))
    assert cleared == [str(tmp_path), *(
        str(tmp_path / name) for name in ("teacher", "baseline", "student", "export"))]
    config.init.step = 3
    with pytest.raises(UserError) as error:
        cli.train(config, str(tmp_path))
    one_line(error, "config.init.step=3: which of the stages teacher, baseline, student",
             "--config.run=student trains one alone")
    config.run = "student"
    assert cli.train(config, str(tmp_path))


def test_metrics_on_a_full_disk(tmp_path):
    """History, table, result and TensorBoard: an error each, and none of them waits for ever."""
    writer = writers.MetricWriter(str(tmp_path))
    writer.write_scalars(1, {"train/loss": 1.0})
    before = (tmp_path / "metrics.jsonl").read_text()
    for name, write in {
            "metrics.jsonl": lambda: writer.write_scalars(2, {"train/loss": 1.0}),
            "metrics.csv": writer._write_csv,
            "metrics.json": lambda: writer.write_final({"val/top1": 0.123456789}),
            "tensorboard": lambda: [writer._board.add(k, "train/loss", 1.0) for k in range(10**4)],
            "metrics.jsonl ": lambda: writers.MetricWriter(str(tmp_path), 1)}.items():
        with pytest.raises(UserError) as error, full_disk():
            write()
        one_line(error, tmp_path / name.strip())
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(UserError) as error:
        writer.write_scalars(3, {"train/loss": 1.0})
    one_line(error, tmp_path / "metrics.csv", "Is a directory")


def test_tensorboard_reads_the_events(tmp_path):
    from tensorboardX.proto import event_pb2

    writer = writers.MetricWriter(str(tmp_path), first_step=4)
    writer.write_scalars(5, {"train/loss": 1.5, "note": "no number"})
    writer.close()
    raw, = (p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    events = []
    while raw:  # length, its checksum, the event, its checksum
        size = int.from_bytes(raw[:8], "little")
        events.append(event_pb2.Event.FromString(raw[12:12 + size]))
        raw = raw[16 + size:]
    assert [e.step for e in events] == [0, 5, 5, 5]
    assert events[2].session_log.status == event_pb2.SessionLog.START, "later steps are hidden"
    value, = events[3].summary.value
    assert (value.tag, value.simple_value) == ("train/loss", 1.5) and events[3].wall_time > 0


# ------------------------------------------------------------------------------------------- reading
DAMAGES = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(path.read_text()[:-9]),
    "bytes": lambda path: path.write_bytes(b"\x80\x00\xff"),
    "a list": lambda path: path.write_text("[1]"),
    "a number": lambda path: path.write_text("3"),
    "deep": lambda path: path.write_text("[" * 10**5),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_json_file(tmp_path, damage, capsys):
    path = tmp_path / "metrics.json"
    writers.write_json(str(path), {"val/top1": 0.5, "step": 3})
    assert writers.read_json(str(path)) == {"val/top1": 0.5, "step": 3}
    damage(path)
    for read in (lambda: writers.read_json(str(path)), lambda: mean_of_splits.read([str(tmp_path)])):
        with pytest.raises(UserError) as error:
            read()
        one_line(error, path)
    writers.update_json(str(path), {"val/top1": 0.7})
    assert json.loads(path.read_text()) == {"val/top1": 0.7} and (tmp_path / "metrics.json.damaged").exists()
    assert f"kept as {path}.damaged" in capsys.readouterr().err

    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    checkpoint.save_config(base.defaults(), str(tmp_path))
    damage(tmp_path / "config.json")
    with pytest.raises(UserError) as error:
        runs.trained(None, str(tmp_path))
    one_line(error, tmp_path / "config.json", "Give --config=FILE")


def test_a_config_that_lacks_something(tmp_path):
    path = tmp_path / "config.json"
    checkpoint.save_config(base.defaults(), str(tmp_path))
    whole = path.read_text()
    assert checkpoint.to_json(runs.read_config(str(path))) == json.loads(whole)
    for field in runs.FIELDS:
        for value in ("gone", None, [1], True):
            changed = json.loads(whole)
            *parents, last = field.split(".")
            group = changed
            for parent in parents:
                group = group[parent]
            group[last] = value
            if value == "gone":
                del group[last]
            path.write_text(json.dumps(changed))
            with pytest.raises(UserError) as error:
                runs.read_config(str(path))
            one_line(error, path, "no data" if (field, value) == ("data", "gone") else f"the field {field} ")
    old = json.loads(whole)
    old["init"]["step"] = 3  # a command of an earlier version wanted it once
    path.write_text(json.dumps(old))
    assert runs.read_config(str(path)).init.step == 0


def test_history_that_cannot_be_read_is_kept(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    sound = [json.dumps({"step": step, "train/loss": 1.0}).encode() for step in (1, 2, 3)]
    wrong = [b'{"step": 2, "tra', b"\x80\xff", b"[1, 2]", b"7", b'{"train/loss": 1.0}', b'{"step": "2"}',
             b"[" * 10**5]
    path.write_bytes(b"\n".join([sound[0], *wrong, b"", *sound[1:]]))
    writer = writers.MetricWriter(str(tmp_path), first_step=2)
    writer.write_scalars(4, {"train/loss": 0.5})
    writer.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 4]
    assert (tmp_path / "metrics.jsonl.unreadable").read_bytes() == b"".join(line + b"\n" for line in wrong)
    assert f"{path}: 7 of 11 lines cannot be read" in capsys.readouterr().err
    assert len(writers.read_csv(str(tmp_path / "metrics.csv"))) == 3


def keys_without(path, key):
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k != key}))


@pytest.mark.parametrize(("name", "damage"), [
    *(("metrics.json", damage) for damage in DAMAGES.values()),
    ("metrics.json", lambda path: keys_without(path, "val/frames")),
    ("metrics.json", lambda path: keys_without(path, "val/top1")),
    ("config.json", DAMAGES["cut"]),
    ("config.json", lambda path: keys_without(path, "method")),
    ("classes.txt", lambda path: path.write_text(path.read_text()[:30])),
    ("classes.txt", DAMAGES["bytes"]),
    ("metrics.csv", lambda path: path.write_text(path.read_text().rpartition(",")[0])),
    ("metrics.csv", lambda path: path.write_text(path.read_text().replace("\n6,", "\n6x,"))),
    ("predictions_val.csv", lambda path: path.write_text(path.read_text().rpartition(",")[0])),
])
def test_a_report_names_the_damaged_file(tiny_run, tmp_path, name, damage):
    run = tmp_path / "run"
    shutil.copytree(os.path.join(tiny_run, "baseline"), run, ignore=shutil.ignore_patterns("checkpoints"))
    damage(run / name)
    with pytest.raises(UserError) as error:
        for network in report.find_networks(str(run)):
            report._numbers(network)
    one_line(error, run / name)
