"""Dynamic Inference as a method: loss, costs, thresholds, evaluation with real exits, bad input."""

import csv
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import dynamic_k400
from data_pipelines import DataError, VideoError
from data_pipelines.batches import clips
from data_pipelines.options import plain_options
from data_pipelines.sources import make_source
from effvid_jax import checkpoint, cli, cost, exported, predict, sharding, train
from effvid_jax import evaluate as evaluation
from effvid_jax import export as exporting
from effvid_jax.backbones import make_backbone
from effvid_jax.cost.exits import all_heads_cost, route_costs
from effvid_jax.errors import UserError
from effvid_jax.exits import network, routes, rules, stopping
from effvid_jax.methods import base, check_method
from effvid_jax.predict import archive, restored
from effvid_jax.predict.many import Many
from effvid_jax.reports import exit_strips, mean_of_splits, report
from effvid_jax.start import runs
from effvid_jax.state import init_state
from tests.drawn import draw
from tests.made import made

CLASSES = [f"class {k}" for k in range(16)]
JUDGE = 8


def tiny(**method):
    config = dynamic_k400.get_config("tiny")
    config.method.update(method)
    return config


@functools.cache
def initial():
    """Variables of the network, which no setting changes."""
    return made(tiny(), CLASSES).init(jax.random.key(0), (1, 4, 64, 64, 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory, benchmark_root):
    """Workdir of a short training run, and its metrics. Its calibration failed once."""
    config = tiny(search="msdnet")  # a network of 8 steps has no accuracy to search by
    config.data.root = benchmark_root
    config.train.num_steps = 8
    config.model.exits.judge = JUDGE
    workdir = str(tmp_path_factory.mktemp("dynamic"))

    def fail(*_):
        raise OSError("the calibration videos are gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.Evaluations, "calibrated", fail)
        with pytest.raises(OSError, match="videos are gone"):
            cli.train(config, workdir)
    assert checkpoint.load_variables(workdir)[0].step == 8, "saved before anything that can fail"
    return workdir, cli.train(config, workdir)


def evaluate(workdir, search="msdnet", **method):
    with open(f"{workdir}/config.json") as f:
        root = json.load(f)["data"]["root"]
    config = tiny(search=search, **method)
    config.data.root, config.model.exits.judge = root, JUDGE
    return cli.eval(config, workdir)


def test_real_exits_give_the_simulated_metrics(run):
    workdir, trained = run
    metrics = evaluate(workdir)
    assert metrics["val/gmacs"] == trained["val/gmacs"]
    print({k: v for k, v in metrics.items() if "share" in k or "gmacs" in k})
    assert metrics["val/gmacs_min"] < metrics["val/gmacs"] < metrics["val/gmacs_max"]
    for policy in ("compact", "pool"):
        within = {"deadline_ms": 1e7} if policy == "pool" else {}
        real = evaluate(workdir, executor=policy, executor_sizes=(4, 2), **within)
        for name in ("top1", "top5", "gmacs", "examples", "exit1_share", "exit2_share", "exit4_share"):
            assert real[f"val/{name}"] == pytest.approx(metrics[f"val/{name}"], rel=1e-6), (policy, name)
    assert (real["val/cut_share"], real["val/late_share"], real["val/deadline_ms"]) == (0.0, 0.0, 1e7)
    assert 0 < real["val/latency_ms_p50"] <= real["val/latency_ms_p95"] <= real["val/latency_ms_p99"] < 1e7


def test_rules_that_read_the_state_say_the_same_segment_by_segment(run):
    """Simulated and really stopping; the heads of 'learned' are trained, and saved with the network."""
    config = runs.trained(None, run[0])[0]
    config.method.update(dict(rule="patience", patience=2))
    method, variables, _ = evaluation.restore_for_inference(config, run[0])
    np.testing.assert_array_equal(variables.stats["stopping"]["thresholds"], [0.5] * 3 + [-stopping.NEVER])
    video = np.random.default_rng(0).integers(0, 256, (5, 4, 64, 64, 3), np.uint8)
    found = jax.jit(method.predict)(variables, {"video": video[:, None]})
    state, frames = {}, video[:, list(method.model.order)]
    for k, step in enumerate(method.segments.steps):
        state, logits = step.run(variables, state, frames[:, step.start:step.stop])
        for rule in ("patience", "learned", "margin"):
            np.testing.assert_allclose(
                rules.of_state(rule, 4, state, logits),
                found.extra["stop_scores"][:, k, rules.RULES.index(rule)], rtol=1e-4, err_msg=rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["patience", "learned"])
def test_a_rule_is_searched_stops_and_is_exported(run, tmp_path, some_clip, rule):
    workdir, _ = run
    metrics = evaluate(workdir, rule=rule)
    real = evaluate(workdir, rule=rule, executor="pool", executor_sizes=(4, 2))
    for name in ("top1", "gmacs", "exit1_share", "exit2_share", "exit4_share"):
        assert real[f"val/{name}"] == pytest.approx(metrics[f"val/{name}"], rel=1e-6), name
    config = runs.trained(None, workdir)[0]
    config.method.update(dict(rule=rule, patience=2 if rule == "patience" else 0))
    exporting.export(config, workdir, str(tmp_path))
    model, one = exported.load(str(tmp_path)), predict.Predictor(workdir, config)
    for clip in np.random.default_rng(0).integers(0, 256, (4, 4, 64, 64, 3), np.uint8):
        answer = one.classify(clip[None])
        assert model.stop_early(clip)[1:] == (answer["gmacs"], answer["exit"])
    config.method.deadline_ms = 1e7
    unhurried, plain = predict.Predictor(workdir, config)(some_clip), one(some_clip)
    assert not unhurried.pop("cut") and 0 < unhurried.pop("ms") < 1e7 and unhurried == plain
    config.method.update(dict(deadline_ms=1e-3, rule="margin", patience=0, thresholds=(2.0,) * 4))
    hurried = predict.Predictor(workdir, config)(some_clip)
    assert hurried["exit"] == 1 and hurried["cut"] and hurried["ms"] > 1e-3
    config.data.twice_sample = True
    with pytest.raises(UserError, match="config.method.deadline_ms: of 2 views"):
        predict.Predictor(workdir, config)


def test_of_several_processes_each_answers_its_share(run, monkeypatch):
    """What two processes say, one after the other, is what one says; real ones: `benchmarks/agreement.py`."""
    workdir, _ = run
    config = runs.trained(None, workdir)[0]
    method, variables, _ = evaluation.restore_for_inference(config, workdir)
    evaluator = evaluation.Evaluator(config, method, sharding.make_mesh())
    runner = method.runners()["compact"]._replace(sizes=(4, 2))
    one, shares = evaluator.rows(variables, runner), []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(sharding, "rows_of_all", lambda rows: rows)
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        shares.append(evaluator.rows(variables, runner).arrays)
    assert [len(share["id"]) for share in shares] == [8, 8]
    for name in ("id", "name", "label", "exit", "gmacs"):
        assert np.concatenate([share[name] for share in shares]).tolist() == one.arrays[name].tolist(), name
    np.testing.assert_allclose(np.concatenate([share["scores"] for share in shares]), one.arrays["scores"],
                               rtol=1e-5)


def test_the_calibration_is_saved_with_the_last_step(run, monkeypatch):
    """A finished run is only evaluated again, with the thresholds that its checkpoint holds."""
    workdir, metrics = run
    assert int(checkpoint.load_variables(workdir)[1]["batch_stats"]["stopping"]["count"]) > 0
    monkeypatch.setattr(evaluation.Evaluations, "calibrated", None)  # is not called
    config = runs.trained(None, workdir)[0]
    assert cli.train(config, workdir) == metrics


@pytest.mark.parametrize(("changes", "message"), [
    ({"method.budget": 0.01}, "config.method.budget .*less than stopping every video.*Expected: 0.*or more"),
    ({"method.budget_gmacs": 1e-6}, "config.method.budget_gmacs .*less than stopping every video.*Expected"),
    ({"method.budget_gmacs": -1.0}, "config.method.budget_gmacs=-1.0: expected at least 0"),
    ({"method.budget": float("nan")}, "config.method.budget=nan"),
    ({"method.calibration_videos": 0}, "config.method.calibration_videos=0: expected at least 1"),
    ({"data.calib_share": 0.0}, "set data.calib_share"),
    ({"data.calib_share": 0.001}, "0.001 holds out 0 of 48"),
], ids=str)
def test_what_calibration_would_refuse_is_refused_before_the_first_step(
        tmp_path, benchmark_root, monkeypatch, changes, message):
    config = tiny()
    config.data.root = benchmark_root
    config.update_from_flattened_dict(changes)
    monkeypatch.setattr(train, "start", None)  # never comes so far
    with pytest.raises(ValueError, match=message):
        cli.train(config, str(tmp_path))
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_budget_of_a_network_whose_first_exit_is_dear():
    """A 3-D network along its depth; every stage of a run is looked at before the first one trains."""
    config = dynamic_k400.get_config("tiny,backbone=r3d_18,scheme=depth")
    clip = (1, config.data.num_frames, config.data.crop, config.data.crop, 3)
    config.method.budget = 0.2
    with pytest.raises(UserError, match="less than stopping every video.*Expected: (0.[0-9]+) or") as error:
        check_method(config, clip)
    config.method.budget = float(str(error.value).split("Expected: ")[1].split(" ")[0])
    check_method(config, clip)
    config.method.update(dict(budget=0.2, thresholds=(0.5,) * 3))  # by hand: no budget counts
    check_method(config, clip)


def test_the_curve_is_written(run):
    workdir, metrics = run
    with open(f"{workdir}/exits_val.csv") as f:
        rows = list(csv.DictReader(f))
    assert {row["what"] for row in rows} == {
        "msdnet", "accuracy", "full inference", "full inference, all heads",
        "full inference, all heads, the paper's counter", "everything stops at one checkpoint", "chosen"}
    for what, key in (("", ""), (", all heads", "_all_heads"),
                      (", all heads, the paper's counter", "_paper")):
        full = next(row for row in rows if row["what"] == f"full inference{what}")
        assert float(full["gmacs"]) == pytest.approx(metrics[f"val/full_gmacs{key}"], rel=1e-4)
    assert metrics["val/full_gmacs"] < metrics["val/full_gmacs_all_heads"] < metrics["val/full_gmacs_paper"]
    full = next(row for row in rows if row["what"] == "full inference")
    assert float(full["gmacs"]) == pytest.approx(metrics["val/full_gmacs"], rel=1e-4)
    assert float(full["top1"]) == pytest.approx(metrics["val/full_top1"], abs=1e-4)
    with open(f"{workdir}/exits_val.png", "rb") as f:
        assert f.read(4) == b"\x89PNG"
    with open(f"{workdir}/exits_val.svg", encoding="utf-8") as f:
        assert "everything stops at one checkpoint" in f.read(), "the legend, whole"
    report.TIMING_SECONDS = 0.1
    cli.report(None, workdir)
    with open(f"{workdir}/report.html") as f:
        html = f.read()
    assert all(f"{what} of " in html for what in ("Early exits", "Where videos left"))
    assert "Videos of dynamic_inference by exit" in html and ", exit " in html
    for ending in ("png", "svg"):
        assert os.path.getsize(f"{workdir}/exit_strips_val.{ending}") > 2000


def test_exits_are_in_every_output(run):
    """Of each video, of each class and checkpoint, and of a video that is predicted."""
    workdir, _ = run
    metrics = evaluate(workdir)
    with open(f"{workdir}/predictions_val.csv") as f:
        predictions = list(csv.DictReader(f))
    taken = [int(row["exit"]) for row in predictions]
    assert list(predictions[0])[-1] == "exit"
    for k in (1, 2, 3, 4):
        assert taken.count(k) / len(taken) == pytest.approx(metrics[f"val/exit{k}_share"])
    with open(f"{workdir}/exit_classes_val.csv") as f:
        lines = list(csv.DictReader(f))
    assert [line["exit"] for line in lines[:5]] == ["(all)", "1", "2", "3", "4"]
    assert float(lines[0]["accuracy"]) == pytest.approx(metrics["val/top1"], abs=1e-3)
    assert float(lines[0]["gmacs"]) == pytest.approx(metrics["val/gmacs"], rel=1e-4)
    for k, line in enumerate(lines[1:5], 1):
        mine = [row for row in predictions if row["exit"] == str(k)]
        right = np.mean([row["label"] == row["predicted"] for row in mine]) if mine else float("nan")
        assert int(line["videos"]) == len(mine) and (line["frames"], line["depth"]) == (
            str((1, 2, 2, 4)[k - 1]), str((1, 2, 3, 3)[k - 1]))
        np.testing.assert_allclose(float(line["accuracy"]), right, atol=1e-3)
    classes = {row["label"] for row in predictions}
    assert {line["class"] for line in lines} == classes | {"(all)"}
    for name in classes:
        mine = [line for line in lines if line["class"] == name]
        assert sum(float(line["share"]) for line in mine[1:]) == pytest.approx(1, abs=1e-3)
        assert sum(int(line["videos"]) for line in mine[1:]) == int(mine[0]["videos"])
    for ending in ("png", "svg"):
        assert os.path.getsize(f"{workdir}/exit_classes_val.{ending}") > 2000


def test_the_six_checkpoints_of_the_figure_train(tmp_path, benchmark_root):
    """A ResNet along `unified6`, which exits after its stem, too: training, thresholds, shares, costs.

    That its exits really stop with the answers that are evaluated: tests/backbones/test_exits.py.
    """
    config = dynamic_k400.get_config("tiny,scheme=unified6")
    config.data.root = benchmark_root
    config.method.search = "msdnet"
    config.train.num_steps = 4
    trained = cli.train(config, str(tmp_path))
    costs, shares = ([trained[f"val/exit{k}_{what}"] for k in range(1, 7)] for what in ("gmacs", "share"))
    assert costs == sorted(set(costs)) and sum(shares) == pytest.approx(1)
    assert trained["val/gmacs"] == pytest.approx(np.dot(shares, costs), rel=1e-6)
    assert trained["val/full_gmacs"] < costs[-1] and "val/exit7_share" not in trained
    with open(tmp_path / "exit_classes_val.csv") as f:
        lines = list(csv.DictReader(f))[1:7]
    assert [(int(line["frames"]), int(line["depth"])) for line in lines] == [
        (1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (4, 5)]


def test_strips_show_first_middle_and_last_exits():
    assert [exit_strips.stops(range(m)) for m in (1, 2, 4, 5, 6)] == [
        [0], [0, 1], [0, 1, 3], [0, 2, 4], [0, 2, 5]]
    rows = [{"exit": str(k), "label": label, "right": right} for k, label, right in (
        (1, "a", True), (1, "a", True), (1, "b", True), (1, "c", False), (2, "a", True), (4, "a", False))]
    found = exit_strips.choose(rows, lambda row: (row["label"], "", row["right"]))
    assert sorted(found) == [0, 1, 3] and found[1] == [4] and found[3] == [5]
    assert {rows[i]["label"] for i in found[0][:2]} == {"a", "b"} and rows[found[0][2]]["label"] == "a"
    late = exit_strips.choose(rows[4:], lambda row: (row["label"], "", row["right"]))
    assert sorted(late) == [1, 3], "of the checkpoints where videos left"


def test_another_budget_needs_no_new_calibration(run):
    workdir, _ = run
    cheap, dear = evaluate(workdir, budget=0.3), evaluate(workdir, budget=1.0)
    assert cheap["val/gmacs"] < dear["val/gmacs"]
    one = evaluate(workdir, thresholds=(0.0, 0.0, 0.0, 0.0))
    assert one["val/exit1_share"] == 1 and one["val/top1"] == one["val/exit1_top1"]
    last = evaluate(workdir, thresholds=(2.0, 2.0, 2.0, 2.0), rule="entropy")
    assert last["val/exit4_share"] == 1 and last["val/top1"] == last["val/full_top1"]


def test_every_window_has_its_exit(run, some_clip, tmp_path, capsys):
    workdir, _ = run
    cli.predict(None, workdir, some_clip, True, window=0.5, output=str(tmp_path / "rows.csv"))
    *rows, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    costs = predict.Predictor(workdir)._adaptive.gmacs
    assert len(rows) > 1 and all(row["exits"] == 4 and 1 <= row["exit"] <= 4 for row in rows)
    assert [row["gmacs"] for row in rows] == pytest.approx([costs[row["exit"] - 1] for row in rows], rel=1e-5)
    assert last["gmacs"] == pytest.approx(sum(row["gmacs"] for row in rows), rel=1e-5)
    found = list(csv.DictReader(open(tmp_path / "rows.csv")))
    assert [(row["exit"], row["exits"]) for row in found] == [(str(row["exit"]), "4") for row in rows]


def test_predict_decodes_only_what_it_needs(run, monkeypatch):
    workdir, _ = run
    config = json.load(open(f"{workdir}/config.json"))
    predictor = predict.Predictor(workdir)
    assert predictor.stops_early
    read = []
    original = clips.eval_frames
    monkeypatch.setattr(clips, "eval_frames", lambda reader, options, positions: read.append(
        list(positions)) or original(reader, options, positions))
    source = make_source(plain_options(runs.trained(None, workdir)[0].data), "val")
    path = source.path(0)
    predictor._thresholds = np.zeros(4, np.float32)
    first = predictor(path)
    order = routes.frame_order(config["data"]["num_frames"], "unified")
    assert read == [[order[0]]]
    predictor._thresholds = np.full(4, 2.0, np.float32)
    last = predictor(path)
    assert sorted(sum(read[1:], [])) == sorted(order)
    assert first["gmacs"] < last["gmacs"]
    simulated = predictor._predict(predictor._variables, {"video": predictor.reader.views(path)[None]})
    assert simulated.extra["answers"].shape == (1, 4)
    views = predictor.classify(predictor.reader.views(path))
    assert views == last
    assert (first["exit"], last["exit"], last["exits"]) == (1, 4, 4)


def test_many_videos_stop_where_each_alone_does(run, tmp_path, monkeypatch):
    workdir, _ = run
    monkeypatch.setattr(restored, "FEW", 1)
    predictor = predict.Predictor(workdir)
    source = make_source(plain_options(runs.trained(None, workdir)[0].data), "val")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    paths = [source.path(i) for i in range(7)]
    paths.insert(3, str(tmp_path / "broken.mp4"))
    scores = [predictor.scored(path)[0].max() for path in paths if path != paths[3]]
    predictor._thresholds = np.full(4, np.median(scores), np.float32)
    many = Many(predictor, 2)
    found = list(many(paths))
    assert [path for path, _ in found] == paths and isinstance(found[3][1], VideoError)
    alone = [predictor.scored(path) for path in paths if path != paths[3]]
    together = [outcome for _, outcome in found if not isinstance(outcome, VideoError)]
    for (one, told), (other, said) in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert (told["exit"], told["gmacs"]) == (said["exit"], said["gmacs"])
        assert list(told) == list(predictor.columns())
    assert len({told["exit"] for _, told in alone}) > 1 and many.answered == 8
    reader = archive.Reader(predictor.reader)
    rows = archive.Answers(lambda: predictor, 2)(reader(paths))
    assert [row["video"] for row in rows] == paths and set(rows[3]) == {"video", "error"}
    assert [row["exit"] for row in rows if "exit" in row] == [told["exit"] for _, told in alone]


def test_frames_in_parts_are_those_of_the_whole_view(run):
    workdir, _ = run
    options = plain_options(runs.trained(None, workdir)[0].data)
    source = make_source(options, "val")
    with source.open(0) as reader:
        whole = clips.eval_views(reader, options)[0]
        np.testing.assert_array_equal(clips.eval_frames(reader, options, (3, 1)), whole[[3, 1]])
    options.twice_sample = True
    with source.open(0) as reader, pytest.raises(DataError, match="2 test views"):
        clips.eval_frames(reader, options, (0,))


def test_loss_is_the_weighted_sum_of_cross_entropies():
    config = tiny(loss_weights=(1.0, 0.0, 0.5, 2.0))
    method = made(config, CLASSES)
    variables = initial()
    rng = np.random.default_rng(0)
    batch = {"video": rng.integers(0, 256, (8, 4, 64, 64, 3), np.uint8),
             "label": np.arange(8), "mask": np.ones(8, np.float32)}
    value, (stats, scalars) = jax.jit(method.loss)(variables.params, variables, batch, jax.random.key(1))
    parts = [float(scalars[f"loss_{k}"]) for k in (1, 2, 3, 4)]
    assert float(value) == pytest.approx(parts[0] + 0.5 * parts[2] + 2 * parts[3], rel=1e-5)
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)

    distilled = made(tiny(distill_weight=1.0, loss_weights=(0.0, 0.0, 0.0, 0.0)), CLASSES)
    gradient = jax.jit(jax.grad(lambda p: distilled.loss(p, variables, batch, jax.random.key(1))[0]))(
        variables.params)
    size = {name: float(jnp.abs(gradient[name]["kernel"]).max()) for name in ("head_1", "head_4")}
    print("gradient of the distillation", size)
    assert size["head_1"] > 0 and size["head_4"] == 0  # the last checkpoint teaches and does not learn


def test_costs_of_the_routes_on_msdnet_38():
    """Cumulative multiply-adds by hand from the published sizes of blocks and heads."""
    for scheme, expected in [
        ("depth", [9.79, 22.88, 36.40, 47.34, 51.91]),
        ("unified", [2.45, 5.72, 17.67, 23.13, 25.42, 49.36]),
    ]:
        model = network.ExitNet(
            make_backbone("msdnet_38", num_classes=400), 400, routes.scheme_route(scheme, 16, 5),
            routes.frame_order(16, scheme), 8, (1, 2, 3, 4, 5))
        found, full = route_costs(model, (16, 224, 224, 3))
        print(scheme, found.round(3), "full", round(full, 3))
        # A little less: the classifier runs once on the mean, not once a frame.
        np.testing.assert_allclose(found, expected, atol=0.03)
        # "Full" is counted in two ways: the last head alone, or all exits on all frames, the paper's 52 G.
        every = all_heads_cost(model, (16, 224, 224, 3))
        assert round(all_heads_cost(model, (16, 224, 224, 3), "msdnet")) == 52
        assert full < found[-1] <= every + 1e-9 and every == pytest.approx(51.91, abs=0.03)
        # One pass over everything, as an exported program runs it, costs what the last checkpoint does.
        assert cost.gmacs(model, (16, 224, 224, 3)) == pytest.approx(found[-1], rel=1e-9)


def test_calibration_clips_are_held_out(run):
    config = runs.trained(None, run[0])[0]
    options = plain_options(config.data)
    train, calib = (make_source(options, split) for split in ("train", "calib"))
    names = [{source.entry(i).name for i in range(len(source))} for source in (train, calib)]
    assert len(names[1]) == round(options.calib_share * 48) and not names[0] & names[1]
    assert len(names[0]) + len(names[1]) == 48
    again = make_source(options, "calib")
    assert [again.entry(i) for i in range(len(again))] == [calib.entry(i) for i in range(len(calib))]
    for share, message in [(0.0, "set data.calib_share"), (0.001, "0.001 holds out 0 of 48"),
                           (1.0, "holds out 48 of 48")]:
        options.calib_share = share
        with pytest.raises(DataError, match=message):
            make_source(options, "calib")


def test_views_are_averaged_before_stopping():
    config = tiny()
    method = made(config, CLASSES)
    variables = initial()
    video = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 64, 64, 3), np.uint8)
    both = jax.jit(method.predict)(variables, {"video": video})
    single = [jax.jit(method.predict)(variables, {"video": video[:, v:v + 1]}) for v in (0, 1)]
    mean = np.mean([jax.nn.softmax(p.logits) for p in single], axis=0)
    np.testing.assert_allclose(jax.nn.softmax(both.logits), mean, rtol=1e-4)
    np.testing.assert_allclose(both.gmacs, 2 * single[0].gmacs, rtol=1e-6)


def test_mistakes_are_named(run):
    workdir, _ = run
    for method, message in [
        (dict(thresholds=(0.5, 0.5)), "thresholds has 2 entries; this route has 4 checkpoints"),
        (dict(loss_weights=(1.0,)), "loss_weights has 1 entries"),
        (dict(rule="luck"), "config.method.rule='luck'"),
        (dict(budget=0.01), "less than stopping every video"),
        (dict(budget=-1.0), "config.method.budget=-1.0"),
        (dict(epsilon=0.0), "config.method.epsilon=0.0"),
        (dict(budget_delta=1.0), "config.method.budget_delta=1.0"),
        (dict(search="luck"), "config.method.search='luck'"),
        (dict(executor="fast"), "config.method.executor='fast'"),
        (dict(deadline_ms=-1.0), "config.method.deadline_ms=-1.0"),
        (dict(patience=2), "config.method.patience=2 is for config.method.rule='patience'"),
        (dict(patience=4, rule="patience"), "patience=4: no video would stop early on a route of 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(workdir, **method)
    with pytest.raises(ValueError, match="rule='learned' reads heads.*config.model.exits.judge=32"):
        made(tiny(rule="learned"), CLASSES)
    config = tiny()
    config.data.num_frames = 8
    with pytest.raises(ValueError, match="config.data.num_frames=8.*for 4 frames"):
        made(config, CLASSES)
    for changes, message in [
        (dict(route=((2, 2), (1, 3), (4, 3))), "steps back"),
        (dict(route=((2, 2), (8, 3))), "a clip has 4"),
        (dict(order=(0, 1, 1, 2)), "no permutation"),
        (dict(groups=3), "does not divide 4 frames"),
        (dict(shift="both"), "exits.shift='both'"),
        (dict(stages=(1, 2)), "ending with the last"),
    ]:
        config = tiny()
        config.model.exits.update(changes)
        with pytest.raises(ValueError, match=message):
            made(config, CLASSES)
    config = tiny()
    config.model.backbone, config.model.options = "r3d_18", type(config.model.options)()
    with pytest.raises(ValueError, match="mixes frames inside"):
        made(config, CLASSES)
    variables = initial()
    stats = {**variables.stats, "stopping": {**variables.stats["stopping"], "thresholds": np.zeros(6)}}
    with pytest.raises(ValueError, match="6 thresholds.*4 checkpoints.*another network"):
        made(tiny(), CLASSES).calibrate(base.Variables({}, stats), None)


@pytest.mark.parametrize("backbone", ["resnet50", "msdnet_38"])
def test_starts_from_a_plain_network_or_from_one_of_its_kind(tmp_path, backbone):
    """Imported ImageNet weights; then a network with exits that was trained for other classes."""
    config = dynamic_k400.get_config(f"tiny,backbone={backbone}")
    small = {k: tuple(v) if isinstance(v, list) else v for k, v in config.model.options.items()}
    plain = make_backbone(config.model.backbone, num_classes=7, **small)
    variables = draw(plain, np.zeros((1, 4, 64, 64, 3), np.float32))
    checkpoint.save_imported(str(tmp_path / "plain"), variables, config, [str(k) for k in range(7)])

    def start(classes, skip):
        config.init.skip = skip
        method = made(config, [str(k) for k in range(classes)])
        shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), (1, 4, 64, 64, 3)))
        method.init = lambda *_: jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes)
        return init_state(method, optax.sgd(0.1), config, (8, 4, 64, 64, 3))

    config.init.checkpoint = str(tmp_path / "plain")
    state = start(16, config.init.skip)
    first = sorted(state.params["backbone"])[0]
    jax.tree.map(np.testing.assert_array_equal, state.params["backbone"][first],
                 variables["params"][first])
    checkpoint.save_imported(str(tmp_path / "exits"), {
        "params": state.params, "batch_stats": state.stats}, config, CLASSES)
    config.init.checkpoint = str(tmp_path / "exits")
    again = start(5, config.init.skip)
    jax.tree.map(np.testing.assert_array_equal, again.params["backbone"], state.params["backbone"])
    assert again.params["head_1"]["bias"].shape == (5,)
    with pytest.raises(ValueError, match="head_1/kernel: file .*16.*model .*5"):
        start(5, "")


def test_mean_of_splits(tmp_path, capsys):
    for k, top1 in enumerate((0.5, 0.7)):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "metrics.json").write_text(json.dumps({"step": 5, "val/top1": top1}))
    mean_of_splits.main([str(tmp_path / "0"), str(tmp_path / "1")])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["val/top1"] == pytest.approx(0.6)
    with pytest.raises(SystemExit, match="metrics.json is missing"):
        mean_of_splits.main([str(tmp_path / "0"), str(tmp_path / "2")])
    with pytest.raises(SystemExit, match="given twice"):
        mean_of_splits.main([str(tmp_path / "0"), str(tmp_path / "0")])


def test_never_is_a_threshold_that_can_be_saved():
    assert np.isfinite(np.float32(stopping.NEVER))


def test_costs_in_the_metrics_are_of_whole_videos():
    """`gmacs` counts all views, and so does what it is compared with; an old key keeps its meaning."""
    method = made(tiny(), CLASSES)
    variables = initial()
    for views in (1, 3):
        taken = np.array([0, 3, 1, 3])
        rows = {"exit": taken, "gmacs": np.float32(views * method.costs[taken])}
        found = method.analyse(rows, variables, "", "val")
        assert found["full_gmacs"] == pytest.approx(views * method.full_gmacs)
        assert [found[f"exit{k}_gmacs"] for k in (1, 2, 3, 4)] == pytest.approx(list(views * method.costs))
        assert found["full_gmacs"] < found["exit4_gmacs"] <= found["full_gmacs_all_heads"] + 1e-9


@pytest.mark.parametrize("clips, twice", [(1, False), (1, True), (5, True)])
def test_a_budget_in_gmacs_is_of_a_video_as_its_cost_is(clips, twice):
    """With ten views, one was allowed what all of them may cost: ten times the budget."""
    views, config = clips * (1 + twice), tiny(search="msdnet")
    config.data.update(dict(sampling="dense", test_clips=clips, twice_sample=twice))
    method = made(config, CLASSES)
    budget = views * float(method.costs[:2].mean())
    config.method.budget_gmacs = budget
    method, rng = made(config, CLASSES), np.random.default_rng(0)
    variables = initial()
    rows = {"exit": np.zeros(50, int), "label": rng.integers(0, 16, 50),
            "answers": rng.integers(0, 16, (50, 4)), "stop_scores": rng.random((50, 4, 3), np.float32)}
    found = method.calibrate(variables, rows).stats["stopping"]["thresholds"]
    taken = np.asarray(stopping.exits_taken(rows["stop_scores"][..., 0], found))
    gmacs = views * method.costs[taken].mean()  # as `predict` counts them
    print(f"{views} views: {gmacs:.4f} of {budget:.4f} GMACs per video")
    assert 0.8 * budget < gmacs <= budget
    config.method.budget_gmacs = 0.5 * views * float(method.costs[0])
    with pytest.raises(UserError, match="config.method.budget_gmacs allows") as error:
        made(config, CLASSES).check_calibration()
    assert f"first checkpoint costs ({views * method.costs[0]:.4g})" in str(error.value)
    assert ("with its" in str(error.value)) == (views > 1)


def test_predict_and_export_tell_the_cost_of_what_they_compute(run, tmp_path):
    """A program that computes every exit told the cost of the one where the rule stops."""
    workdir, _ = run
    config = runs.trained(None, workdir)[0]
    config.method.thresholds = (0.0, 0.0, 0.0, 0.0)  # everything stops at once
    told = exporting.export(config, workdir, str(tmp_path))
    model = exported.load(str(tmp_path))
    clips_ = np.random.default_rng(0).integers(0, 256, (2, 4, 64, 64, 3), np.uint8)
    _, gmacs = model(clips_)
    method = made(config, CLASSES)
    every = pytest.approx(method.costs[-1], rel=1e-5)
    assert model.info["exits"]["thresholds"] == [0.0] * 4
    assert list(np.asarray(gmacs)) == [every] * 2 and told["gmacs"] == model.info["gmacs_per_clip"] == every
    assert model.info["exits"]["gmacs"] == pytest.approx(list(method.costs), rel=1e-5)
    assert model.info["exits"]["full_gmacs"] == pytest.approx(method.full_gmacs, rel=1e-5)

    for thresholds in ((0.0,) * 4, (1.0, 0.0, 0.0, 0.0), (1.0,) * 4):  # the export really stops, as predict
        config.method.thresholds, asked = thresholds, []
        model.info["exits"]["thresholds"], one = thresholds, predict.Predictor(workdir, config)
        probabilities, gmacs, number = model.stop_early(
            lambda positions: asked.extend(positions) or clips_[0][positions])  # noqa: B023
        answer = one.classify(clips_[:1])
        assert (number, gmacs) == (answer["exit"], answer["gmacs"])
        best = [guess["prob"] for guess in answer["top5"]]
        np.testing.assert_allclose(-np.sort(-probabilities)[:5], best, atol=2e-6)
        assert asked == list(method.model.order)[:method.model.route[number - 1].frames]
    config.method.thresholds = (0.0,) * 4
    one = predict.Predictor(workdir, config)
    answer = one.classify(clips_[:1])
    assert answer["gmacs"] == pytest.approx(method.costs[0], rel=1e-5)
    assert set(answer) == {"top5", "gmacs", "exit", "exits"} and (answer["exit"], answer["exits"]) == (1, 4)
    config.data.twice_sample = True  # two views: all exits of both are computed
    two = predict.Predictor(workdir, config)
    assert not two.stops_early
    answer = two.classify(clips_)
    assert answer["gmacs"] == pytest.approx(2 * method.costs[-1], rel=1e-5)
    assert answer["gmacs_where_it_stops"] == pytest.approx(2 * method.costs[0], rel=1e-5)
