"""Gates that decide alike for every clip, made static: what is equal, what is less, what is refused."""

import contextlib
import json
import os

import flax
import jax
import numpy as np
import pytest

from effvid_jax import checkpoint, cli, export, train
from effvid_jax.gating import folding, freezing
from effvid_jax.methods import Variables
from effvid_jax.predict import Predictor
from effvid_jax.start import runs
from tests.drawn import draw
from tests.made import made


def changed_run(gated_run, workdir, change) -> str:
    """`gated_run` with other parameters: `change(path, array)`."""
    config = runs.read_config(os.path.join(gated_run, "config.json"))
    saved, loaded = checkpoint.load_variables(gated_run)
    params = flax.traverse_util.path_aware_map(change, loaded["params"])
    with contextlib.closing(checkpoint.Checkpointer(str(workdir))) as checkpointer:
        checkpointer.save(3, {"params": params, "stats": loaded["batch_stats"], "step": np.zeros((), int)},
                          config, saved.class_names)
    train.describe_run(config, str(workdir), saved.class_names)
    return str(workdir)


def settled(size: float, reduced=("layer1_0/conv1/conv_s",)):
    """A change: gates that vary by `size` without closing or opening anything; `reduced` layers halve."""
    def change(path, x):
        if path[-2:] == ("fc2", "kernel"):
            return (size * x).astype(np.float32)
        if path[-1] == "beta":
            halved = "/".join(path[:-2]) in reduced
            return np.array([-5, 1, 1, 1] if halved else [1, 1, 1, -5], np.float32)
        return x
    return change


def test_constant_gates_become_a_smaller_static_network_with_equal_answers(gated_run, some_clip, tmp_path):
    workdir = changed_run(gated_run, tmp_path / "run", settled(0.0))
    out = str(tmp_path / "frozen")
    found = cli.freeze(None, workdir, out)
    assert found["frozen"] == found["layers"] == 4 and found["largest_change"] < 1e-6
    assert found["params"] < found["before/params"] and found["val/gmacs"] < found["before/gmacs"]
    _, loaded = checkpoint.load_variables(out)
    names = flax.traverse_util.flatten_dict(loaded["params"], sep="/")
    assert not any("/gate/" in name for name in names)
    width = len(names["layer1_0/conv1/bn_s/scale"])
    assert names["layer1_0/conv1/conv_s/kernel"].shape[-1] == -(-width // 2)
    assert not any(name.endswith("layer1_0/conv2/conv_s/cheap_t1") for name in names), "never used"
    again = cli.eval(None, out)
    assert again["val/gmacs"] == pytest.approx(found["val/gmacs"]) and again["params"] == found["params"]
    assert again["val/top1"] == found["val/top1"] == found["before/top1"]
    answers = [Predictor(path)(some_clip)["top5"][0] for path in (workdir, out)]
    assert answers[0]["label"] == answers[1]["label"]
    assert answers[0]["prob"] == pytest.approx(answers[1]["prob"], abs=5e-6)
    cli.export(None, out)
    loaded = export.load(os.path.join(out, "export"))
    video = np.zeros((2, *loaded.info["input"]["shape"][1:]), np.uint8)
    probabilities, gmacs = loaded(video)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(gmacs, found["val/gmacs"], rtol=1e-6)
    assert json.loads(open(os.path.join(out, "freeze.json")).read())["params"] == found["params"]
    with pytest.raises(ValueError, match="holds a network already"):
        cli.freeze(None, workdir, out)


def test_decisions_that_never_vary_freeze_with_their_gates(gated_run, tmp_path):
    """The weights vary: as means they are another function, with their gates the same one."""
    workdir = changed_run(gated_run, tmp_path / "run", settled(0.2))
    kept = cli.freeze(None, workdir, str(tmp_path / "kept"), keep_gates=True)
    assert kept["frozen"] == 4 and kept["largest_change"] < 1e-6 and kept["params"] < kept["before/params"]
    means = cli.freeze(None, workdir, str(tmp_path / "means"))
    assert means["largest_change"] > 1e-6 and means["params"] < kept["params"]


def test_some_layers_freeze_where_some_vary(gated_run, tmp_path, capsys):
    first, second, none = (str(tmp_path / name) for name in ("first", "second", "none"))
    found = cli.freeze(None, gated_run, first)
    assert found["frozen"] == 1 and "clips that agree" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no layer decides alike for 100% of the clips.*--share=0"):
        cli.freeze(None, first, none)
    assert not os.path.exists(none)
    found = cli.freeze(None, first, second, share=0.3)
    assert found["frozen"] == found["layers"] == 4 and found["params"] < found["before/params"]
    with pytest.raises(ValueError, match="--share=0: expected more than 0"):
        cli.freeze(None, gated_run, none, share=0)
    with pytest.raises(ValueError, match="needs --out=DIR"):
        cli.freeze(None, gated_run, None)


def test_other_methods_have_nothing_to_freeze(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="which has no gates to freeze"):
        cli.freeze(None, tiny_run, str(tmp_path / "none"))


@pytest.mark.parametrize("entries, message", [
    (("layer1_0/conv1/conv_s",), "expected PATH:CHANNELS/FRAMES"),
    (("nowhere:01/10",), "'nowhere' is no gated convolution")])
def test_wrong_entries_are_named(gated_run, entries, message):
    config = runs.read_config(os.path.join(gated_run, "config.json"))
    config.method.frozen = entries
    with pytest.raises(ValueError, match=message):
        method = made(config, list("abcd"))
        jax.eval_shape(lambda: method.init(jax.random.key(0), (1, 8, 32, 32, 3)))


def test_a_frozen_network_trains_and_folds(gated_run, rng):
    config = runs.read_config(os.path.join(gated_run, "config.json"))
    config.method.frozen = ("layer1_0/conv1/conv_s:01/11", "layer2_0/conv2/conv_s:11/01+gate")
    method = made(config, list("abcd"))
    clips = rng.normal(size=(2, 8, 32, 32, 3)).astype(np.float32)
    drawn = draw(method.model, clips[:1])
    variables = Variables(drawn["params"], drawn["batch_stats"])
    batch = {"video": clips, "label": np.arange(2), "mask": np.ones(2)}
    gradient, _ = jax.jit(jax.grad(method.loss, has_aux=True))(
        variables.params, variables, batch, jax.random.key(0))
    moved = gradient["layer1_0"]["conv1"]["conv_s"]
    assert "gate" not in moved and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert np.abs(moved["weights"]).max() > 0
    wanted = jax.jit(method.model.apply)(drawn, clips)[0]
    folded, less = folding.fold(method.model, drawn, clips.shape[1:])
    np.testing.assert_allclose(jax.jit(folded.apply)(less, clips)[0], wanted, atol=1e-4 * abs(wanted).max())


def test_entries_are_those_of_the_most_frequent_decision():
    V_c = np.array([[0, 0.5, 0], [0, 0.2, 0.1], [0.3, 0, 0.1], [0, 0.5, 0]])
    seen = {"a": freezing.Seen(V_c, np.ones((4, 1)))}
    assert freezing.freeze(seen) == () and freezing.agreement(seen["a"]) == 0.75
    assert freezing.freeze(seen, 0.75) == ("a:011/1",)
    assert freezing.freeze(seen, 0.7, True) == ("a:011/1+gate",)
    assert freezing.spread(seen["a"]) == pytest.approx(0.3)
    fixed = freezing.read(("a:011/1",))["a"]
    assert (fixed.ratio, fixed.stride, fixed.gate) == (1, 0, False)
    dead = freezing.read(("a:00/10",))["a"]
    assert dead.ratio == 1, "nothing is open: the cheapest"
