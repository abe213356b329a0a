"""The combination: alone a part is its paper's method; together they answer, cost and stop as they say."""

import contextlib
import json
import os
import re
import shutil

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import combined_folder, combined_k400, combined_minik, combined_sthv2
from effvid_jax import checkpoint, cli, exported, predict
from effvid_jax.errors import UserError
from effvid_jax.exits import executor, risk, routes, stopping
from effvid_jax.gating import gates, surroundings, target, variants
from effvid_jax.methods import base, building, combined, dynamic_inference, parts, reskd, supervised, va_red2
from effvid_jax.methods.schedule import Schedule
from effvid_jax.speed import exit_bench
from effvid_jax.start import settings
from effvid_jax.tasks import make_task
from tests.drawn import draw

NAMES = [f"c{k}" for k in range(5)]
CLIP = (2, 4, 16, 16, 3)


def tiny(*parts, order="together", **method):
    """A network of two stages and, with exits, two checkpoints: two frames, then four."""
    config = combined_minik.get_config(f"tiny,parts={'+'.join(parts)},order={order}")
    config.run = ""
    config.data.update(dict(num_frames=4, crop=16, test_crop_size=16))
    config.model.update(dict(resolution=0))
    config.model.options.update(dict(width=8, stage_sizes=(1, 1), stage_strides=(2, 2)))
    if "exits" in parts:
        config.model.exits.update(dict(width=0, route=((2, 1), (4, 2)), stages=(1, 2)))
    config.method.update(dict(teacher_resolution=0, calibration_videos=8, **method))
    return config


def teacher(config):
    """A network like the student without exits, and its variables as shapes."""
    plain = config.copy_and_resolve_references()
    plain.model.exits = {}
    network = building.build_network(plain.model, make_task(config, NAMES))
    params, stats = jax.eval_shape(lambda: building.init_backbone(network, jax.random.key(0), CLIP))
    return network, {"params": params, "batch_stats": stats}


def batch(of=jax.ShapeDtypeStruct):
    return {"video": of(CLIP, np.uint8), "label": of((2,), np.int32), "mask": of((2,), np.float32)}


def programs(kind, config, networks):
    """Texts of initialisation, training step and prediction."""
    method = kind(config, make_task(config, NAMES), *((networks,) if networks else ()))
    frozen = networks[2] if networks else {}

    def init(key):
        found = method.init(key, CLIP)
        return found.params, found.stats

    params, stats = jax.eval_shape(init, jax.random.key(0))
    variables = base.Variables(params, stats, {"teacher": frozen} if frozen else {})
    step = jax.jit(lambda p, v, b: jax.value_and_grad(method.loss, has_aux=True)(p, v, b, jax.random.key(0)))
    views = {"video": jax.ShapeDtypeStruct((2, 2, *CLIP[1:]), np.uint8)}
    init_text = "" if frozen else jax.jit(init).lower(jax.random.key(0)).as_text()
    return (init_text, step.lower(params, variables, batch()).as_text(),
            jax.jit(lambda v, b: method.predict(v, b)).lower(variables, views).as_text())


@pytest.mark.parametrize(("parts", "paper"), [
    ((), supervised.Supervised), (("reskd",), reskd.Reskd), (("exits",), dynamic_inference.DynamicInference),
    (("gates",), va_red2.VaRed2)], ids=str)
def test_one_part_is_that_papers_method_bit_for_bit(parts, paper):
    """The programs are the same text, of a network with dropout: so is every number that they give."""
    config = tiny(*parts)
    config.model.dropout = 0.3
    single = config.copy_and_resolve_references()
    known = {name for name in paper.Settings.fields()}
    single.method = paper.Settings(**{name: tuple(x) if isinstance(x, list) else x
                                      for name, x in config.method.items() if name in known}).to_config()
    networks = (None, *teacher(config)) if "reskd" in parts else None
    for ours, theirs in zip(programs(combined.Combined, config, networks),
                            programs(paper, single, networks), strict=True):
        assert ours == theirs


def test_every_setting_of_the_papers_is_there_and_told():
    config = tiny(*combined.PARTS)
    for paper in combined.PAPERS.values():
        assert set(paper.Settings.fields()) <= set(combined.Combined.Settings.fields())
    told = {one.path: one for one in settings.settings(config)}
    assert "of the distillation" in told["method.weight"].meaning
    assert told["method.gates_from"].default == 0 and "plain" in told["method.gates_from"].meaning
    assert told["method.efficiency_weight"].changed


@pytest.mark.parametrize(("changes", "message"), [
    (dict(parts=("reskd", "boxes")), "'boxes' is unknown"),
    (dict(parts=("gates", "gates")), "each part once"),
    (dict(parts=("gates",)), "config.model.exits is given"),
    (dict(exits_from=0.8, exits_ramp=0.3), "at most 1"),
    (dict(rule="luck"), "config.method.rule='luck'"), (dict(teacher_bn="never"), "config.method.teacher_bn"),
], ids=str)
def test_mistakes_are_named(changes, message):
    config = tiny(*combined.PARTS)
    config.method.update(changes)
    with pytest.raises(UserError, match=message):
        combined.Combined.Settings.read(config.method).check(config)


def test_configs_of_every_pair():
    for module in (combined_minik, combined_sthv2, combined_k400, combined_folder):
        for on in ("reskd", "exits+gates", "reskd+gates", "reskd+exits", ""):
            config = module.get_config(f"parts={on}")
            assert "+".join(config.method.parts) == on and bool(config.model.exits) == ("exits" in on)
            combined.Combined.Settings.read(config.method).check(config)
            assert ("teacher" in config.run) <= ("reskd" in on)
        assert not module.get_config("order=together").method.gates_from
    with pytest.raises(UserError, match="parts='reskd.boxes': 'boxes' is unknown"):
        combined_minik.get_config("parts=reskd+boxes")
    with pytest.raises(UserError, match="teacher=.resnet18. has no meaning"):
        combined_minik.get_config("parts=gates,teacher=resnet18")


@pytest.mark.parametrize("on", [("exits",), ("gates",), ("exits", "gates")])
def test_a_plain_network_is_a_start(on):
    """All that it has is used, or left out by `init.skip`; so is all that it does not have."""
    config = tiny(*on)
    model = combined.Combined(config, make_task(config, NAMES)).model
    ours, theirs = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (
        jax.eval_shape(lambda: building.init_backbone(model, jax.random.key(0), CLIP)[0]),
        teacher(config)[1]["params"]))
    prefix = "backbone/" if "exits" in on else ""
    ours, theirs = ({name for name in names if not re.search(config.init.skip, name)}
                    for names in (ours, {f"{prefix}{name}" for name in theirs}))
    assert ours == theirs and len(ours) > 10


# -------------------------------------------------------------------------------------------- schedule
def test_parts_come_in_when_the_schedule_says():
    plan = combined.Combined.Settings(exits_from=0.5, gates_from=0.2, gates_ramp=0.4)
    schedule, record = Schedule(plan, ("reskd", "exits", "gates")), Schedule.begin(10)
    found = []
    for _ in range(11):
        found.append({name: float(x) for name, x in schedule.shares(record).items()})
        record = Schedule.after(record)
    assert [one["exits"] for one in found] == [0] * 5 + [1] * 6 and "reskd" not in found[0]
    np.testing.assert_allclose([one["gates"] for one in found[:7]], [0, 0, 0, 0.25, 0.5, 0.75, 1], atol=1e-6)
    assert Schedule.begin(0)["steps"] == 0 and float(schedule.shares(Schedule.begin(0))["gates"]) == 1


def test_gates_that_are_not_in_use_are_no_gates(rng):
    """0: the plain convolution; 1: the gated one; in pieces each decides by itself."""
    conv = gates.GatedConv(6, (3, 3), 1, 1, layers="", leak=0.1, name=None)
    plain = gates.blocks.Conv(6, (3, 3), 1, 1)
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 5, 3)), jnp.float32)
    variables = draw(conv, x)

    def run(x, share=None, pieces=((0, 4),)):
        with surroundings.used(share), surroundings.pieces(pieces):
            y, state = conv.apply(variables, x, mutable=["gates"])
        return y, state["gates"]["decision"]

    kernel = {"params": {"kernel": variables["params"]["kernel"]}}
    y, decision = run(x, 0.0)
    np.testing.assert_allclose(y, plain.apply(kernel, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(decision.ratio, 1)
    whole, decision = run(x)
    np.testing.assert_array_equal(run(x, 1.0)[0], whole)
    assert np.abs(np.asarray(run(x, 0.5)[0] - whole)).max() > 1e-3
    pieces = ((0, 1), (1, 4))
    cut, both = run(x, pieces=pieces)
    alone = [run(x[:, start:stop]) for start, stop in pieces]
    np.testing.assert_allclose(cut, np.concatenate([y for y, _ in alone], axis=1), rtol=1e-6, atol=1e-6)
    assert both.macs == sum(d.macs for _, d in alone) == decision.macs
    np.testing.assert_allclose(both.ratio * both.macs, sum(d.ratio * d.macs for _, d in alone), rtol=1e-6)
    assert np.all(both.overhead <= both.most)


@pytest.mark.parametrize("share", [None, 0.0, 0.5, 1.0])
def test_what_steers_the_cost_waits_until_gates_are_in(share):
    """Otherwise its weight grows to the largest there is before a gate can close."""
    config = tiny("gates", target=0.7)
    part = combined.Combined(config, make_task(config, NAMES)).gates
    before = {target.RECORD: target.begin()}
    decision = variants.Decision(
        V_c=jnp.ones((2, 2)), V_t=jnp.ones((2, 2)), ratio=jnp.ones(2), macs=9.0, overhead=jnp.zeros(2),
        least=0.2, most=0.0)
    seen = parts.Pass(
        None, {}, base.Variables({}, before), {"mask": np.ones(2), "label": np.zeros(2, np.int32)},
        np.zeros(CLIP, np.float32), jnp.eye(2, len(NAMES)), {}, {"gates": {"conv": {"decision": decision}}},
        None, {} if share is None else {"gates": share})
    found = part.term(seen).stats[target.RECORD]
    moved = {name: bool(found[name] != before[target.RECORD][name]) for name in found}
    assert moved["integral"] == (share in (None, 1.0)), found


@pytest.mark.parametrize("scheme", routes.SCHEMES)
def test_pieces_are_all_frames_once_at_every_depth(scheme):
    route = routes.scheme_route(scheme, 8, 5)
    for group in (0, 4):
        for depth in range(1, 6):
            pieces = routes.pieces(route, group, depth)
            frames = [i for start, stop in pieces for i in range(start, stop)]
            assert frames == list(range(max(c.frames for c in route if c.depth >= depth)))


# ------------------------------------------------------------------------------------ exits with gates
@pytest.fixture(scope="module")
def gated():
    """(method in the compact form, variables with gates that differ, views): exits, gates, a learned rule."""
    config = tiny("exits", "gates", form="compact", executor_sizes=(2,), rule="learned")
    config.model.exits.judge = 4
    method = combined.Combined(config, make_task(config, NAMES))
    drawn = draw(method.model, np.zeros((1, *CLIP[1:]), np.float32))
    params = flax.traverse_util.path_aware_map(
        lambda path, a: a * 0 if path[-1] == "beta" else a * 3 if "fc2" in path else a, drawn["params"])
    stats = method.exits.init(base.Variables(params, drawn["batch_stats"]), None, CLIP).stats
    r = np.random.default_rng(0)
    video = r.normal(size=(4, 1, *CLIP[1:])) + 3 * r.normal(size=(4, 1, 1, 1, 1, 3))
    return method, base.Variables(params, stats), video.astype(np.float32)


def with_threshold(variables, score):
    record = {**variables.stats["stopping"], "thresholds": jnp.array([score, -stopping.NEVER])}
    return variables.replace(stats={**variables.stats, "stopping": record})


def test_real_exits_answer_and_cost_as_predict_says(gated, capsys):
    method, variables, video = gated
    look = jax.jit(method.predict)
    first = look(variables, {"video": video})
    middle = float(np.sort(np.asarray(first.extra["stop_scores"])[:, 0, method.exits.rule])[1:3].mean())
    variables = with_threshold(variables, middle)
    found = jax.device_get(look(variables, {"video": video}))
    assert sorted(found.extra["exit"].tolist()) == [0, 0, 1, 1]
    costs, static = found.extra["exit_gmacs"], method.exits.costs
    least, most = method.exits.limits
    assert np.ptp(costs[:, 1]) > 0, "clips decide differently"
    assert np.all(costs < static) and np.all(costs >= least * 0.999999) and np.all(costs <= most)
    np.testing.assert_allclose(found.gmacs, costs[np.arange(4), found.extra["exit"]], rtol=1e-6)
    # What training sees, all frames and depths in one pass, says the same.
    dense = method.model.apply(method.network(variables), method.sight(video[:, 0]), mutable=["gates"])[0][1]
    answers = np.asarray(jnp.argmax(dense["checkpoints"], axis=-1))
    np.testing.assert_array_equal(answers, found.extra["answers"])

    read = []
    segments, order = method.segments, method.model.order
    run = executor.Executor(segments.steps, segments.score, 4, (2,), "compact")
    rows = executor.Rows(range(4), load=lambda i, start, stop: (
        read.append((i, start, stop)), video[i, 0, list(order[start:stop])])[1])
    said = list(run.run(variables, np.asarray(segments.thresholds(variables)), [rows]))
    assert [a.checkpoint for a in said] == found.extra["exit"].tolist() and segments.own_costs
    np.testing.assert_allclose([a.logits for a in said], found.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([segments.spent(a) for a in said], found.gmacs, rtol=1e-5)
    late = {i for i, start, _ in read if start}
    assert late == set(np.flatnonzero(found.extra["exit"]).tolist()), "other frames are never asked for"

    row = exit_bench.measure(segments, variables, video[:, 0], 4, thresholds=segments.thresholds(variables),
                             policies=("compact",), sizes=(2,), seconds=0)[-1]
    assert row["flops_speedup"] == pytest.approx(segments.full_gmacs / found.gmacs.mean(), rel=1e-5)


def test_thresholds_are_chosen_by_what_each_video_costs(gated):
    method, _, _ = gated
    r = np.random.default_rng(0)
    scores, hits = np.float32(r.uniform(size=(400, 2))), r.uniform(size=(400, 2)) < (0.7, 0.9)
    costs = np.stack([r.uniform(1, 2, 400), r.uniform(3, 6, 400)], axis=1)
    budget = 3.0
    found = stopping.thresholds_for_budget(scores, hits, costs, budget)
    taken = np.asarray(stopping.exits_taken(scores, found))
    assert 0.97 * budget < costs[np.arange(400), taken].mean() <= budget
    same = np.broadcast_to([1.0, 4.0], (400, 2))
    for search in stopping.SEARCHES:
        np.testing.assert_array_equal(stopping.thresholds_for_budget(scores, hits, same, 2.5, search),
                                      stopping.thresholds_for_budget(scores, hits, [1.0, 4.0], 2.5, search))
    kept = risk.thresholds_for_budget(scores, hits, costs, budget, "accuracy", 0.1, (1.0, 6.0))
    taken = np.asarray(stopping.exits_taken(scores, kept))
    assert costs[np.arange(400), taken].mean() < budget
    with contextlib.suppress(UserError):
        method.exits.check_calibration()


# ------------------------------------------------------------------------------------------ a whole run
@pytest.mark.slow
def test_from_training_to_answers(tmp_path, benchmark_root):
    """All three, on a schedule: training that goes on, evaluation that stops, a prediction, a program."""
    config = combined_minik.get_config("tiny")
    config.data.root = benchmark_root
    config.run = "teacher,student"
    config.method.search, config.train.num_steps, config.train.checkpoint_every_steps = "msdnet", 6, 3
    metrics = cli.train(config, str(tmp_path))
    assert metrics["val/gmacs"] < metrics["val/full_gmacs"] and metrics["step"] == 6
    student = str(tmp_path / "student")
    with open(os.path.join(student, "metrics.jsonl")) as f:
        shares = [row["train/share/gates"] for row in map(json.loads, f) if "train/share/gates" in row]
    assert shares and max(shares) <= 1
    whole = checkpoint.load_variables(student)[1]
    for folder in os.listdir(os.path.join(student, "checkpoints")):
        if folder != "3":
            shutil.rmtree(os.path.join(student, "checkpoints", folder))  # as if it was killed after step 3
    assert cli.train(config, str(tmp_path))["val/gmacs"] == metrics["val/gmacs"]
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_variables(student)[1], whole)
    real = combined_minik.get_config("tiny")
    real.data.root, real.run, real.method.search = benchmark_root, config.run, "msdnet"
    real.method.executor = "compact"
    again = cli.eval(real, str(tmp_path))
    for name in ("top1", "gmacs"):
        assert again[f"val/{name}"] == pytest.approx(metrics[f"val/{name}"], rel=1e-4)
    network = predict.Predictor(str(tmp_path))
    clip = np.random.default_rng(0).integers(0, 256, (9, 72, 72, 3), np.uint8)
    told = network(clip)
    assert told["exits"] == 4 and 0 < told["gmacs"] <= network._method.exits.limits[1][-1] * 1.001
    program = exported.load(cli.export(None, str(tmp_path))["export"])
    probabilities, gmacs, number = program.stop_early(program.prepare(clip)[0])
    assert number == told["exit"] and gmacs == pytest.approx(told["gmacs"], rel=1e-3)
    assert cli.report(None, str(tmp_path))
