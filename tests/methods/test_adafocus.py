"""AdaFocus V2 and Uni-AdaFocus: stopping is the same however it is done, costs are those of the papers."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import adafocus_v2_actnet, adafocus_v2_minik, uni_adafocus_actnet, uni_adafocus_minik
from effvid_jax.errors import UserError
from effvid_jax.exits import executor, record, rules, stopping
from effvid_jax.methods import exiting, make_method
from effvid_jax.methods.base import Variables
from effvid_jax.start import bounds
from effvid_jax.tasks import make_task

CONFIGS = {"adafocus_v2": adafocus_v2_minik, "uni_adafocus": uni_adafocus_minik}
CLASSES = [str(k) for k in range(5)]
VIDEOS = 6


def small(name, **fields):
    """The smallest config of a method, on clips of 32 pixels."""
    config = CONFIGS[name].get_config("tiny,early_exit")
    config.data.update(dict(crop=32, test_crop_size=32, batch_size=4))
    config.model.options = ml_collections.ConfigDict(dict(
        width=4, stem="small", stage_sizes=(1,), stage_strides=(2,), classifier_std=1.0))
    config.model.glance.backbone = "resnet18"
    config.model.glance.options = config.model.options.copy_and_resolve_references()
    config.method.update(dict(patch=16, head_width=16))
    widths = dict(policy_width=8) if name == "adafocus_v2" else dict(
        where_width=4, when_width=4, least_side=8, glanced=3, focused=3)
    config.method.update(widths | fields)
    config.data.num_frames = 3 if name == "adafocus_v2" else 6
    return config


def made_up(shapes):
    """Variables without a compiled `init`."""
    rng = np.random.default_rng(1)

    def leaf(path, shape):
        name, size = path[-1].key, shape.shape
        if name in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.5, 1.5, size), jnp.float32)
        return jnp.asarray(rng.normal(0, 1 / np.sqrt(max(1, np.prod(size[:-1]))), size), jnp.float32)

    params, stats = (jax.tree_util.tree_map_with_path(leaf, tree) for tree in (
        shapes.params, exiting.network(shapes)["batch_stats"]))
    return Variables(params, stats)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def trained(request):
    """(method, variables whose exits answer differently, clips)."""
    name = request.param
    places = (1, 3) if name == "adafocus_v2" else (0, 2, 3)
    config = small(name, exits=places, thresholds=(0.0,) * len(places))
    config.model.bn_groups = 1
    method = make_method(config, make_task(config, CLASSES))
    variables = made_up(jax.eval_shape(lambda: method.init(jax.random.key(0), (1, *method.clip_shape))))
    variables = variables.replace(stats=method.with_record(variables.stats))
    clips = np.random.default_rng(3).integers(0, 256, (VIDEOS, *method.clip_shape), np.uint8)
    return method, variables, clips


def with_thresholds(variables, thresholds):
    record = {**variables.stats[exiting.RECORD], "thresholds": jnp.asarray(thresholds, jnp.float32)}
    return variables.replace(stats={**variables.stats, exiting.RECORD: record})


def test_a_video_that_stops_says_what_the_simulation_says(trained):
    method, variables, clips = trained
    predict = jax.jit(method.predict)
    scores = predict(variables, {"video": clips[:, None]}).extra["stop_scores"][..., 0]
    thresholds = [*(float(np.median(scores[:, k])) for k in range(scores.shape[1] - 1)), -1e8]
    variables = with_thresholds(variables, thresholds)
    simulated = predict(variables, {"video": clips[:, None]})
    assert len(set(np.asarray(simulated.extra["exit"]).tolist())) > 1
    segments, read = method.segments, collections.defaultdict(list)
    run = executor.Executor(segments.steps, segments.score, VIDEOS, (VIDEOS,), "compact", threads=1)

    def load(i, start, stop):
        read[i] += range(start, stop)
        return clips[i, list(segments.order[start:stop])]

    answers = list(run.run(variables, thresholds, [executor.Rows(range(VIDEOS), load=load)]))
    assert [a.error for a in answers] == [None] * VIDEOS
    assert [a.checkpoint for a in answers] == np.asarray(simulated.extra["exit"]).tolist()
    np.testing.assert_allclose([a.logits for a in answers], simulated.logits, rtol=2e-4, atol=2e-5)
    taken = np.asarray(simulated.extra["exit"])
    np.testing.assert_allclose(segments.gmacs[taken], simulated.gmacs, rtol=1e-6)
    for a in answers:  # frames after an exit are never loaded
        assert len(read[a.id]) == segments.steps[a.checkpoint].stop
    run.deadline = 0.0  # the first answer there is; of videos that go on, cut
    hurried = list(run.run(variables, thresholds, [executor.Rows(range(VIDEOS), load=load)]))
    assert [(a.checkpoint, a.cut) for a in hurried] == [(0, k > 0) for k in taken]
    full = jax.jit(segments.full)(variables, clips)
    last = predict(with_thresholds(variables, [1e8] * len(thresholds)), {"video": clips[:, None]})
    np.testing.assert_allclose(full, last.logits, rtol=2e-4, atol=2e-5)
    assert last.extra["crops"].shape == (VIDEOS, 1, 3, 4)
    crops = np.asarray(last.extra["crops"])
    assert (crops >= 0).all() and (crops[..., :2] + crops[..., 2:] <= 1 + 1e-6).all()


@pytest.mark.parametrize("trained", [pytest.param("adafocus_v2", marks=pytest.mark.slow), "uni_adafocus"],
                         indirect=True)
def test_every_part_learns(trained):
    method, variables, clips = trained
    batch = {"video": jnp.asarray(clips[:4]), "label": jnp.arange(4), "mask": jnp.ones(4)}

    def loss(params):
        return method.loss(params, variables, batch, jax.random.key(0))

    (value, (stats, scalars)), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)
    parts = {name: sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree))
             for name, tree in slope.items()}
    assert set(parts) == set(variables.params) and min(parts.values()) > 0, parts
    terms = [x for name, x in scalars.items() if name.startswith("loss_")]
    assert np.isfinite(value) and len(terms) >= 5
    if type(method).__name__ == "UniAdaFocus":
        np.testing.assert_allclose(value, sum(terms), rtol=1e-5)
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)


def gmacs(config, places):
    """Cost in 10^9 multiply-adds at some places to stop, of a config at full size."""
    config.method.update(dict(exits=places, early_exit=True))
    method = make_method(config, make_task(config, [str(k) for k in range(200)]))
    return method.costs


@pytest.mark.slow
def test_published_costs():
    for glance, published in (("mobilenet_v2", (17.615, 26.957, 38.969)),
                              ("resnet50", (24.758, 34.100, 46.112))):
        for patch, cost in zip((96, 128, 160), published):
            config = adafocus_v2_actnet.get_config(f"patch={patch},glance={glance}")
            assert gmacs(config, (16,))[0] == pytest.approx(cost, rel=3e-3), (glance, patch)
    # The release's own formula; it runs all classifiers of the glance, where the last one is enough.
    places = (0, 1, 8, 16)
    released = [16 * 0.299511 + k * 1.334602 + (0.822485 + 0.004130) * (k > 0)
                + 1e-3 * (16 * 5.246976 + 8.392704 * k + 16 * 0.8192 + 1.6384 * k) for k in places]
    assert gmacs(uni_adafocus_actnet.get_config(), places) == pytest.approx(released, rel=3e-3)


@pytest.mark.parametrize("name, fields, words", [
    ("adafocus_v2", {"model.backbone": "tsm_resnet18"}, "config.model.backbone='tsm_resnet18' mixes frames"),
    ("adafocus_v2", {"model.glance.backbone": "r3d_18", "model.glance.options": {}},
     "config.model.glance.backbone='r3d_18' mixes frames"),
    ("adafocus_v2", {"model.glance.backbone": "efficientnet_lite0", "model.glance.options": {}},
     "normalises pixels otherwise"),
    ("adafocus_v2", {"model.glance": {}}, "config.model.glance is empty"),
    ("adafocus_v2", {"method.patch": 64}, "config.method.patch=64 .* expected 32 or less"),
    ("adafocus_v2", {"method.order": (0, 1)}, "config.method.order"),
    ("adafocus_v2", {"method.exits": (2,)}, r"config.method.exits=\(2,\): .* end with 3"),
    ("adafocus_v2", {"method.exits": (1, 3), "method.thresholds": (0.5,)}, "1 entries; .* 2 places"),
    ("adafocus_v2", {"method.search": "risk"}, "rule='logit' has no bounds"),
    ("adafocus_v2", {"method.early_exit": False, "method.executor": "pool"}, "early_exit is False"),
    ("adafocus_v2", {"method.early_exit": False, "method.deadline_ms": 40.0},
     "config.method.deadline_ms=40.0 lets videos stop, but config.method.early_exit is False"),
    ("adafocus_v2", {"method.rule": "learned"}, "rule='learned' reads heads that the networks of method "
     "'adafocus_v2' do not have: expected one of .'logit', 'confidence', 'margin', 'entropy', 'patience'."),
    ("adafocus_v2", {"method.patience": 2}, "config.method.patience=2 is for config.method.rule='patience'"),
    ("uni_adafocus", {"method.patience": 4, "method.rule": "patience"}, "patience=4: no video .* 4 check"),
    ("uni_adafocus", {"method.glanced": 4}, "config.method.glanced=4: expected a half"),
    ("uni_adafocus", {"method.focused": 7}, "config.method.focused=7 is more than"),
    ("uni_adafocus", {"method.least_side": 20}, "patch=16 is less than config.method.least_side=20"),
])
def test_what_does_not_fit_is_refused(name, fields, words):
    config = small(name)
    for path, value in fields.items():
        with config.unlocked(), config.ignore_type():
            *groups, last = path.split(".")
            group = config
            for part in groups:
                group = group[part]
            group[last] = value
    with pytest.raises(UserError, match=words):
        bounds.check_values(config)
        make_method(config, make_task(config, CLASSES))


@pytest.fixture(scope="module")
def calibration():
    """(method that searches by a rule, rows of calibration videos), on the three places of AdaFocus V2."""
    method = make_method(config := small("adafocus_v2", calibration_videos=20), make_task(config, CLASSES))
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(30, 3, 5)).astype(np.float32) * [[[1], [2], [3]]]
    rows = {"stop_scores": np.asarray(method.scores(jnp.asarray(logits))), "label": rng.integers(0, 5, 30),
            "answers": np.asarray(method.task.answers(jnp.asarray(logits)))}

    def by(rule, **fields):
        method.settings = dataclasses.replace(method.settings, rule=rule, **fields)
        method.rule = rules.WITH_LOGIT.index(rule)
        return method

    return by, rows


def test_what_calibration_videos_score_is_kept_by_every_rule(calibration):
    by, rows = calibration
    method = by("logit", budget=0.7, search="accuracy")
    kept = method.calibrate(Variables({}, method.with_record({})), rows).stats[exiting.RECORD]
    assert {name: x.shape for name, x in kept.items()} == {
        "thresholds": (3,), "count": (), "scores": (20, 3, 4), "more_scores": (20, 3, 2), "hits": (20, 3)}
    # A checkpoint of before knew four rules in this order, and not the others.
    older = {name: x for name, x in kept.items() if name != "more_scores"}
    chosen = np.linspace(0, 29, 20).round().astype(int)
    hits = np.asarray(rows["answers"] == rows["label"][:, None])[chosen]
    for column, rule in enumerate(("logit", "confidence", "margin", "entropy", "patience")):
        scores = rows["stop_scores"][chosen][..., column]
        wanted = stopping.thresholds_for_budget(scores, hits, method.costs, method._budget)
        for some in (kept, older)[:1 + (rule != "patience")]:
            found = by(rule).calibrate(Variables({}, {exiting.RECORD: some}), None)
            np.testing.assert_array_equal(found.stats[exiting.RECORD]["thresholds"], wanted, err_msg=rule)
    with pytest.raises(UserError, match="rule='patience': the 20 calibration .* use one of .'logit', 'conf"):
        method.calibrate(Variables({}, {exiting.RECORD: older}), None)
    low = {**kept, "scores": jnp.full_like(kept["scores"], rules.UNKNOWN)}
    assert record.known(low, "logit", rules.WITH_LOGIT) is not None, "a logit may have any value"
    other = {**kept, "thresholds": np.zeros(4, np.float32)}
    with pytest.raises(UserError, match="4 thresholds.*3 checkpoints.*another network"):
        method.calibrate(Variables({}, {exiting.RECORD: other}), None)


def test_where_nothing_was_calibrated(calibration, capsys):
    by, _ = calibration
    method = by("confidence", search="risk")
    variables = method.calibrate(Variables({}, method.with_record({})), None)
    assert "no calibration videos" in "".join(capsys.readouterr())
    assert (variables.stats[exiting.RECORD]["thresholds"] == stopping.NEVER).tolist() == [True, True, False]
    with pytest.raises(UserError, match="trained without it.*give config.method.thresholds or .patience"):
        method.calibrate(Variables({}, {}), None)
    found = by("patience", patience=2).calibrate(Variables({}, {}), None)  # by hand, and no record asked
    np.testing.assert_array_equal(found.stats[exiting.RECORD]["thresholds"], [0.5, 0.5, -stopping.NEVER])
    by("patience", patience=0, search="accuracy")


def test_patience_and_a_deadline(trained):
    """The network's own steps take what the rule remembers; toy ones stop as all at once."""
    before, _, _ = trained
    config = before.config.copy_and_resolve_references()
    config.method.update(dict(rule="patience", patience=before.m - 1, thresholds=(), deadline_ms=40.0))
    method = make_method(config, before.task)
    np.testing.assert_array_equal(method.costs, before.costs)  # traced with all that their states hold
    runners = method.runners()
    assert [runners[policy].deadline for policy in executor.POLICIES] == [0.04, 0.04]
    assert method.runner == "pool" and before.runner == "simulate", "what is simulated knows no deadline"
    logits = np.random.default_rng(0).normal(size=(40, method.m, 3)).astype(np.float32)
    method.steps = lambda: [
        executor.Step(lambda variables, state, frames: ({"left": frames}, frames[:, 0]), k, k + 1)
        for k in range(method.m)]
    del method.all_steps, method.segments
    thresholds = stopping.by_hand(method.settings, method.m)
    run = executor.Executor(method.segments.steps, method.segments.score, 40, (40,), "compact")
    answers = list(run.run({}, thresholds, [executor.Rows(range(40), logits)]))
    taken = stopping.exits_taken(method.scores(jnp.asarray(logits))[..., method.rule], np.array(thresholds))
    assert [a.checkpoint for a in answers] == taken.tolist() and len(set(taken.tolist())) == method.m - 1
    rows = {"exit": np.asarray(taken), "gmacs": method.costs[taken], "seconds": np.linspace(0, 0.05, 40),
            "cut": np.arange(40) < 10}
    found = method.analyse(rows, Variables({}, method.with_record({})), "", "val")
    assert found["deadline_ms"] == 40 and found["cut_share"] == 0.25 and found["late_share"] == 0.2


def test_without_early_exit_nothing_is_kept_for_it():
    config = small("adafocus_v2", early_exit=False)
    method = make_method(config, make_task(config, CLASSES))
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), (1, *method.clip_shape)))
    assert not method.calibrates and set(method.runners()) == {"simulate"}
    assert exiting.RECORD not in shapes.stats
    found = jax.eval_shape(method.predict, Variables(shapes.params, shapes.stats),
                           {"video": jax.ShapeDtypeStruct((2, 1, *method.clip_shape), jnp.uint8)})
    assert set(found.extra) == {"crops"} and found.logits.shape == (2, 5)


def moving_patterns(rng, count, frames=2, side=32):
    """Clips uint8 whose class is the fine pattern of a small red square that moves; nothing else tells it."""
    at = np.indices((7, 7))
    patterns = np.stack([at[0] % 2, at[1] % 2, at.sum(axis=0) % 2, (at[0] // 2 + at[1] // 2) % 2])
    clips = rng.integers(96, 160, (count, frames, side, side, 3), np.uint8)
    labels = rng.integers(0, len(patterns), count)
    places, phases = rng.integers(0, side - 6, (count, frames, 2)), rng.integers(0, 2, (count, frames, 2))
    for clip, label, way, phase in zip(clips, labels, places, phases):
        for frame, (y, x), (a, b) in zip(clip, way, phase):
            frame[y:y + 6, x:x + 6, 0] = 255
            frame[y:y + 6, x:x + 6, 1:] = 200 * patterns[label][a:a + 6, b:b + 6, None]
    return clips, labels


@pytest.mark.slow
def test_learned_crops_beat_random_ones():
    """One trained network says what its focus sees in crops of the policy and in crops anywhere; paired."""
    import optax

    config = small("adafocus_v2", early_exit=False)
    config.data.num_frames, config.model.bn_groups = 2, 1
    network = dict(width=16, stem="small", stage_sizes=(1,), classifier_std=0.1)
    config.model.options = ml_collections.ConfigDict(network | dict(stage_strides=(2,)))
    config.model.glance.options = ml_collections.ConfigDict(network | dict(stage_strides=(1,)))
    config.model.glance.resolution = 8  # sees where the square is, hardly what is in it
    config.method.update(dict(patch=14, policy_width=32, head_width=64))
    method = make_method(config, make_task(config, CLASSES[:4]))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(variables, state, batch, rng):
        (_, (stats, _)), slope = jax.value_and_grad(method.loss, has_aux=True)(
            variables.params, variables, batch, rng)
        change, state = optimizer.update(slope, state)
        return variables.replace(params=optax.apply_updates(variables.params, change), stats=stats), state

    @jax.jit
    def answers(variables, video, rng):
        clips = method.sight(video)
        anywhere = jax.random.uniform(rng, (*clips.shape[:2], 2))
        _, out = method.model.apply(exiting.network(variables), clips, others=(anywhere,))
        return [branch["local_logits"].mean(axis=1).argmax(axis=-1) for branch in out["branches"]]

    init = jax.jit(lambda key: method.init(key, (1, *method.clip_shape)))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        variables = init(jax.random.key(seed))
        state = optimizer.init(variables.params)
        for number in range(200):
            video, labels = moving_patterns(rng, 64)
            batch = {"video": video, "label": labels, "mask": np.ones(64, np.float32)}
            variables, state = step(variables, state, batch, jax.random.key(number))
        video, labels = moving_patterns(rng, 512)
        learned, anywhere = ((np.asarray(said) == labels).mean()
                             for said in answers(variables, video, jax.random.key(99)))
        print(f"seed {seed}: crops of the policy {learned:.3f}, crops anywhere {anywhere:.3f}")
        assert learned > anywhere + 0.1
