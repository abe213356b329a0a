"""Analyses of a network with gates: statistics against numpy, the commands, their files and refusals."""

import csv
import json
import os

import numpy as np
import pytest

from effvid_jax.analysis import feature_maps, gate_statistics, gates, opening


def read(path):
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


# ------------------------------------------------------------------------------------------ statistics
def test_patterns_and_distribution():
    decisions = np.array([[0, 0], [0, 1], [0, 1], [1, 1]])[:, None, :, None].repeat(2, axis=3)
    found = gate_statistics.patterns(decisions)
    assert found["patterns"] == 3 and found["commonest_pattern"] == 0.5 and found["clips"] == 4
    assert found["effective_patterns"] == pytest.approx(2**1.5)
    costs = np.arange(101).reshape(101, 1)
    found = gate_statistics.distribution(costs)
    assert (found["p5"], found["p95"], found["mean"], found["max"]) == (5, 95, 50, 100)


def test_correlations_are_those_of_ranks(rng):
    cost = rng.normal(size=60)
    found = gate_statistics.correlations(cost, {
        "same": np.exp(cost), "opposite": -cost, "nothing": rng.normal(size=60),
        "constant": np.ones(60), "right": (cost > 0).astype(float)})
    assert found["same"]["spearman"] == pytest.approx(1)
    assert found["opposite"]["spearman"] == pytest.approx(-1)
    assert found["same"]["pearson"] == pytest.approx(np.corrcoef(cost, np.exp(cost))[0, 1])
    assert found["nothing"]["low"] < 0 < found["nothing"]["high"] and found["right"]["spearman"] > 0.5
    assert found["constant"]["spearman"] is None
    np.testing.assert_array_equal(gate_statistics.ranks([5, 1, 5, 7]), [1.5, 0, 1.5, 3])
    mean, error = gate_statistics.by_fifths(np.arange(10.0), -np.arange(10.0))
    np.testing.assert_allclose(mean, [8.5, 6.5, 4.5, 2.5, 0.5])
    np.testing.assert_allclose(error, 1.96 * 0.5)


def test_shares_of_blocks():
    names = ["layer1_0/conv1/conv_s", "layer1_0/conv2/conv_s", "layer2_0/conv1/conv_s"]
    decisions = np.zeros((4, 1, 3, 2), int)
    decisions[:2, :, 0, 0] = 1  # half of the channels of the first layer for two videos
    decisions[:, :, 2, 1] = 2  # a quarter of the frames of the last one for all
    ratios = (0.5 ** decisions.sum(axis=3)).mean(axis=1)
    groups = [("a", np.array([0, 1])), ("b", np.array([2, 3])), ("all", np.arange(4))]
    blocks, shares = gate_statistics.block_shares(names, [300, 100, 50], decisions, ratios, groups)
    assert blocks == ["layer1_0", "layer2_0"]
    np.testing.assert_allclose(shares["channels"], [[0.75, 1], [1, 1], [0.875, 1]])
    np.testing.assert_allclose(shares["frames"], [[1, 0.25]] * 3)
    np.testing.assert_allclose(shares["multiply-adds"], [[0.625, 0.25], [1, 0.25], [0.8125, 0.25]])
    rows = gate_statistics.layer_table(names, [300, 100, 50], decisions, ratios)
    assert [row["varies"] for row in rows] == [1, 0, 0] and rows[0]["channels_1/2"] == 0.5
    assert rows[2]["frames_1/4"] == 1 and rows[0]["computed"] == 0.75
    assert gate_statistics.block_of("backbone/Mixed_3b/b0/conv") == "backbone/Mixed_3b"


# -------------------------------------------------------------------------------------------- commands
@pytest.fixture(scope="module")
def analysed(gated_run, tmp_path_factory):
    """The folder of `gates`, with a moment on the clock."""
    out = tmp_path_factory.mktemp("gates")
    assert gates.main([f"--workdir={gated_run}", f"--out={out}", "--seconds=0.1", "--clips=2"]) == 0
    return out


def test_gates_tells_costs_decisions_and_what_they_go_with(analysed):
    found = json.loads((analysed / "gates_val.json").read_text())
    clip = found["gmacs_per_clip"]
    assert clip["min"] < clip["p5"] <= clip["p50"] <= clip["p95"] <= clip["max"]
    assert clip == found["gmacs_per_video"], "a single view"
    assert found["patterns"] > 1 and found["videos"] == found["clips"] == 16 and found["layers"] == 4
    assert found["saved"] == pytest.approx(1 - clip["mean"] / found["static_gmacs_per_clip"])
    assert set(found["correlation_with_cost"]) == {"difficulty", "loss", "confidence", "right"}
    assert found["speed"]["compact_clips_per_second"] > 0 and found["speed"]["largest_deviation"] < 1e-3
    assert 0 < found["speed"]["gmacs_ratio"] < 1.1
    layers, videos = read(analysed / "gates_val.csv"), read(analysed / "gates_val_videos.csv")
    assert found["never_vary"] == [row["layer"] for row in layers if row["varies"] == "0"]
    assert len(videos) == 16 and 0 < float(videos[0]["difficulty"]) < 1
    mean = np.mean([float(row["gmacs_per_clip"]) for row in videos])
    assert mean == pytest.approx(clip["mean"], rel=1e-4)
    blocks = read(analysed / "gate_blocks_val.csv")
    assert blocks[-1]["class"] == "all" and "layer1_0 channels" in blocks[0] and len(blocks) == 17
    for name in ("gates_val", "gate_blocks_val", "gate_clips_val"):
        assert all((analysed / f"{name}.{kind}").stat().st_size > 5000 for kind in ("png", "svg")), name


def test_only_networks_with_gates_are_analysed(tiny_run, tmp_path, capfd):
    assert gates.main([f"--workdir={tiny_run}", f"--out={tmp_path}"]) == 1
    assert "has no gates: expected a run of va_red2 or cgnet" in capfd.readouterr().err
    assert feature_maps.main([f"--workdir={tiny_run}", f"--out={tmp_path}"]) == 1
    assert "makes no feature maps" in capfd.readouterr().err


def test_feature_maps_are_computed_and_made(gated_run, tmp_path, capfd):
    layer = "layer1_0/conv2/conv_s"
    command = [f"--workdir={gated_run}", f"--out={tmp_path}", "--clip=3"]
    assert feature_maps.main([*command, f"--layer={layer}"]) == 0
    path = tmp_path / f"maps_{layer.replace('/', '_')}_3"
    assert all(os.path.getsize(f"{path}.{kind}") > 5000 for kind in ("png", "svg"))
    rows = read(f"{path}.csv")
    assert feature_maps.main([*command, "--layer=fc"]) == 1
    assert "--layer=fc: expected one of layer1_0/conv1/conv_s," in capfd.readouterr().err

    opened = opening.open_network(gated_run, out=str(tmp_path))
    found = feature_maps.maps(opened.method, opened.variables, opened.split.views(3)[0], layer)
    k = found.computed
    np.testing.assert_allclose(found.whole[..., :k], found.half_channels[..., :k], atol=1e-5)
    np.testing.assert_allclose(found.whole[::2], found.half_frames[::2], atol=1e-5)
    conv = opened.variables.params["layer1_0"]["conv2"]["conv_s"]
    np.testing.assert_allclose(found.half_frames[1::2], found.whole[::2] * conv["cheap_t1"][0], atol=1e-4)
    z = np.pad(found.whole[2, ..., 0], 1)  # channel k is made of channel 0 by a kernel of its own
    made = sum(conv["cheap_c1"][i, j, 0, 0] * z[i:i + z.shape[0] - 2, j:j + z.shape[1] - 2]
               for i in range(3) for j in range(3))
    np.testing.assert_allclose(found.half_channels[2, ..., k], made, atol=1e-4)
    wanted = np.corrcoef(found.whole[..., k].ravel(), found.half_channels[..., k].ravel())[0, 1]
    assert float(rows[0]["correlation"]) == pytest.approx(wanted, abs=1e-3) and rows[0]["number"] == str(k)
