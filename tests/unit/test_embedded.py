"""Comparisons on the embedded benchmark: rows of results, and what is not finished yet."""

import ast
import functools
import json
import os
import sys

import jax
import numpy as np
import pytest

from benchmarks import embedded
from configs import reskd_minik, supervised_minik
from effvid_jax.methods import building, reskd
from effvid_jax.reports import results
from effvid_jax.start import bounds, runs
from effvid_jax.tasks import make_task

sys.path.insert(0, os.path.dirname(embedded.__file__))  # as a script finds its neighbours
import gate_inputs
import peers_config
import peers_embedded
import reskd_embedded
import reskd_pairs
import va_red2_embedded


def test_rows_replace_those_of_their_table(tmp_path):
    path = str(tmp_path / "results.csv")
    one = embedded.row("a: x: top-1 (%)", [50.0, 60.0], ".1f", "c.py:demo", "python b.py", [0, 1])
    params = embedded.row("a: x: params", [1234, 1234], ",.0f", "c.py:demo", "python b.py", [0, 1])
    other = embedded.row("b: y", [1.0], ".2f", "c.py", "python b.py", [0])
    assert (one["value"], one["spread"], one["seeds"]) == ("55.0", "7.1", "0,1")
    assert (params["value"], params["spread"]) == ("1,234", "")
    assert one["command"] == "python b.py --seeds 0,1"
    embedded.replace_table(path, "b", [other])
    embedded.replace_table(path, "a", [params])
    embedded.replace_table(path, "a", [one])
    assert [row["what"] for row in results.read_rows(path)] == ["b: y", "a: x: top-1 (%)"]


def test_only_finished_seeds_are_read(tmp_path):
    (tmp_path / "seed1" / "run").mkdir(parents=True)
    (tmp_path / "seed1" / "run" / "metrics.json").write_text(json.dumps({"val/top1": 0.5}))
    assert embedded.read(str(tmp_path), [0, 1], "run") == [{"val/top1": 0.5}]


def test_a_run_starts_as_a_user_would_and_only_once(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(embedded.subprocess, "run", lambda command, **_: started.append(command))
    embedded.train(str(tmp_path), 2, "run", "reskd_minik.py:demo", ["--config.run=student"])
    assert started[0][:3] == [sys.executable, "main.py", "--config=configs/reskd_minik.py:demo"]
    assert "--config.seed=2" in started[0] and started[0][-1] == "--config.run=student"
    (tmp_path / "seed2" / "run").mkdir(parents=True)
    (tmp_path / "seed2" / "run" / "metrics.json").write_text("{}")
    embedded.train(str(tmp_path), 2, "run", "reskd_minik.py:demo", [])
    assert len(started) == 1


@pytest.mark.parametrize("name", peers_config.SYSTEMS)
def test_peers_have_one_budget_and_one_benchmark(name):
    """Learning steps of all stages together, clips, batches; every stage is one that its config has."""
    system, config = peers_config.SYSTEMS[name], peers_config.get_config(f"{name},steps=100")
    names = runs.stage_names(config)
    stages = [runs.stage_config(config, stage, "w") for stage in names] or [config]
    assert sum(stage.train.num_steps for stage in stages) == 100 and len(system.shares) == len(stages)
    assert peers_embedded.last_stage(name) == "/".join([name, *names[-1:]])
    for stage in stages:
        bounds.check_values(stage, complete=True)
        data = stage.data
        assert (data.source, data.batch_size, data.num_frames) == (
            "synthetic_moments", peers_config.BATCH, system.frames), stage.name
        assert dict(data.synthetic) == peers_config.CLIPS and not stage.model.backbone.startswith("tsm_")


def test_peers_columns():
    """Without a saving in multiply-adds nothing is said of its share on the clock."""
    plain = [{"val/top1": 0.5, "val/gmacs": 1.0}]
    saves = peers_embedded.columns_of([{"val/top1": 0.6, "val/gmacs": 0.5, "val/gmacs_paper": 0.4}], [30.0],
                                      plain, [20.0])
    assert {name: value for name, ((value,), _) in saves.items()} == pytest.approx({
        "top-1 (%)": 60, "GMACs (10⁻³)": 500, "as the paper counts": 400, "clips/s": 30,
        "clips/s, plain = 1": 1.5, "saving on the clock (%)": 200 / 3})
    assert "saving on the clock (%)" not in peers_embedded.columns_of(plain, [20.0], plain, [20.0])


def test_va_red2_rows_start_from_their_own_networks(tmp_path, monkeypatch):
    """16 frames from 8 frames of the same row, those from the start; pruning keeps what gates compute."""
    started = []

    def train(workdir, seed, run, config, flags):
        folder = tmp_path / f"seed{seed}" / run
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text('{"val/computed": 0.625}')
            started.append((run, config, [flag for flag in flags if "init" in flag or "keep" in flag]))

    monkeypatch.setattr(va_red2_embedded.embedded, "train", train)
    va_red2_embedded.train(str(tmp_path), 1, 16, "pruning", [])
    root = f"--config.init.checkpoint={tmp_path}/seed1/frames"
    assert [run for run, _, _ in started] == [
        "frames8/start", "frames8/search_space_2", "frames8/pruning", "frames16/search_space_2",
        "frames16/pruning"]
    assert [flags for _, _, flags in started] == [
        [], [root + "8/start"], [root + "8/start", "--config.method.keep=0.6250"],
        [root + "8/search_space_2", "--config.init.skip="],
        [root + "8/pruning", "--config.init.skip=", "--config.method.keep=0.6250"]]
    assert started[-1][1] == "va_red2_minik.py:demo,baseline=pruning,frames=16"


def test_reskd_tables_share_runs_and_their_teacher(tmp_path, monkeypatch, capsys):
    """Table 5 trains no network that Table 6 has; students of class scores have the teacher of the others."""
    started = {}

    def train(workdir, seed, run, config, flags):
        started.setdefault((seed, run), (config, flags))
        for stage in {stage for _, stages in reskd_embedded.TABLES.values() for stage in stages.values()}:
            if stage.partition("/")[0] == run and (seed, run) != (1, "frame"):
                folder = tmp_path / f"seed{seed}" / stage
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "metrics.json").write_text(json.dumps(
                    {"val/top1": 0.5 + 0.1 * seed, "val/gmacs": 0.007, "params": 78720}))

    def run(*flags):
        path = tmp_path / "results.csv"
        monkeypatch.setattr(sys, "argv", ["b.py", f"--workdir={tmp_path}", "--seeds=0,1", f"--results={path}",
                                          *flags])
        reskd_embedded.main()
        return {row["what"]: row for row in results.read_rows(str(path))}

    monkeypatch.setattr(reskd_embedded.embedded, "train", train)
    rows = run("--tables=5")
    assert [run for seed, run in started if seed == 0] == ["reskd", "control", "clip", "frame"]
    config, flags = started[1, "clip"]
    assert config == "reskd_minik.py:demo,ablation=clip"
    assert f"--config.method.teacher={tmp_path}/seed1/reskd/teacher" in flags and "--config.run=" in flags
    clip = rows["reskd_table5: clip (class scores): top-1 (%)"]
    assert (clip["value"], clip["spread"], clip["config"]) == ("55.0", "7.1", config)
    assert "reskd_table5: pixel (maps): top-1 (%)" in rows and not any("frame" in what for what in rows)
    assert "frame (class scores of every frame): not finished" in capsys.readouterr().out
    assert all(what.count(": ") == 2 for what in rows), "table: row: column, as reports.results reads it"
    run("--tables=6")
    rows = run("--tables=stored")
    assert {run for _, run in started} == set(reskd_embedded.RUNS)
    assert rows["reskd_stored: stored, 1 clip a video: top-1 (%)"]["value"] == "55.0"
    assert f"--config.method.teacher_store={tmp_path}/seed1/store" in started[1, "stored_2"][1]
    with pytest.raises(SystemExit, match="no table '7'; there are 6 and 5 and stored"):
        run("--tables=6,7")


def parsed(value: str):
    """What the command line makes of a flag."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def test_reskd_pairs_fit_together(tmp_path, monkeypatch, capsys):
    """Every flag is a field, and students can be told what the small form of their teacher says."""
    started = []
    monkeypatch.setattr(reskd_pairs.embedded, "train", lambda workdir, seed, *run: started.append(run))
    monkeypatch.setattr(sys, "argv", ["b.py", f"--workdir={tmp_path}", "--seeds=0"])
    reskd_pairs.main()
    assert capsys.readouterr().out.count("not finished") == len(started) == 2 + 2 + 3 * 2
    assert [run for run, *_ in started[:2]] == [
        "teacher_uniformer_s", "plain_tsm_mobilenet_v4_conv_small"]
    for run, path, flags in started:
        module, _, arg = path.partition(".py:")
        config = {"supervised_minik": supervised_minik, "reskd_minik": reskd_minik}[module].get_config(arg)
        for flag in flags:
            field, _, value = flag.removeprefix("--config.").partition("=")
            config.update_from_flattened_dict({field: parsed(value)})
        if run not in ("uniformer_s_tsm_mobilenet_v4_conv_small_position_kl",
                       "videomae_s_movinet_a0_feature"):
            continue  # others trace the same, or are no students
        task = make_task(config, list("abcde"))
        student = building.build_network(config.model, task)
        teacher = building.build_network(
            supervised_minik.get_config(f"demo,backbone={arg.partition('teacher=')[2]}").model, task)
        clip = (4, 8, config.data.crop, config.data.crop, 3)
        one = jax.ShapeDtypeStruct((1, *clip[1:]), "float32")
        taught = jax.eval_shape(teacher.init, jax.random.key(0), one)
        method = reskd.Reskd(config, task, (student, teacher, taught))
        variables = jax.eval_shape(functools.partial(method.init, clip_shape=clip), jax.random.key(0))
        batch = {"video": jax.ShapeDtypeStruct(clip, "uint8"), "label": jax.ShapeDtypeStruct((4,), "int32"),
                 "mask": jax.ShapeDtypeStruct((4,), "float32")}
        loss, _ = jax.eval_shape(method.loss, variables.params, variables, batch, jax.random.key(0))
        assert loss.shape == ()
        assert (reskd.PROJECTION in variables.params) == run.endswith("feature")


def test_flags_after_ours_go_to_main(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["b.py", "--seeds", "3,4", "--config.train.num_steps=5"])
    args, extra = embedded.arguments("Title.\nmore", "runs/x")
    assert args.seeds == [3, 4] and extra == ["--config.train.num_steps=5"] and not args.collect
    with pytest.raises(SystemExit):
        monkeypatch.setattr(sys, "argv", ["b.py", "--help"])
        embedded.arguments("Title.\nmore", "runs/x")


def test_gate_inputs_says_which_clips_cost(tmp_path, capsys):
    """Two clips that are held and two that are not, at costs of which the first are lower."""
    clips = tmp_path / "benchmark" / "16_classes"
    clips.mkdir(parents=True)
    (clips / "val_clips.csv").write_text("path,frames,pictures\n" + "".join(
        f"val/a/{i}.mp4,16,{4 if i < 2 else 16}\n" for i in range(4)))
    for name, cost in (("static", [2.0, 2, 2, 2]), ("mean (the paper's)", [1.0, 1.2, 1.6, 1.8])):
        folder = tmp_path / "seed3" / gate_inputs.folder(name)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"val/top1": 0.75, "val/gmacs": sum(cost) / 4}))
        np.savez(folder / "predictions_val.npz", gmacs=np.array(cost), label=np.zeros(4, int),
                 name=np.array([f"/data/val/a/{i}.mp4" for i in range(4)]),
                 scores=np.eye(2)[[0, 0, 0, 1]])
    gate_inputs.redundancy.cache_clear()
    rows = {row["what"].split(": ", 1)[1]: row["value"] for row in gate_inputs.table(str(tmp_path), [3])}
    assert rows["static: correlation with redundancy"] == "+0.00" and rows["static: spread (points)"] == "0.0"
    paper = {what.removeprefix("mean (the paper's): "): value for what, value in rows.items()}
    assert paper["cost (% of static)"] == "70.0" and paper["against static (points)"] == "+0.0"
    assert paper["held (%)"] == "55.0" and paper["others (%)"] == "85.0"
    assert paper["correlation with redundancy"] == "-0.95" and paper["spread (points)"] == "15.8"
    assert paper["top-1, held (%)"] == "100.0" and paper["top-1, others (%)"] == "50.0"
    assert "all three: not finished" in capsys.readouterr().out


def test_gate_inputs_starts_every_form_from_its_seeds_network(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(gate_inputs.embedded, "train", lambda *args: started.append(args))
    gate_inputs.train(str(tmp_path), 1, "mean + discrete", ["--extra"])
    (_, seed, run, config, flags), (*_, last) = started
    assert (seed, run) == (1, "start") and config.endswith(",static") and not any("init" in f for f in flags)
    assert f"--config.init.checkpoint={tmp_path}/seed1/start" in last and "--extra" in last
    assert "--config.method.discrete=True" in last and "--config.method.target=0.7" in last
