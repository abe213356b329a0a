"""The redundancy table: its numbers against numpy's, the command on a trained network and on a config."""

import csv
import json

import numpy as np
import pytest

from effvid_jax.analysis import redundancy


def by_hand(maps_TPC, axis, threshold):
    """CC, RMSE and RP map by map, with `np.corrcoef`."""
    T, _, C = maps_TPC.shape
    cc, rmse = [], []

    def scaled(m):
        return (m - m.min()) / (m.max() - m.min())

    for t in range(T):
        for c in range(C):
            others = [(u, c) for u in range(T) if u != t] if axis == "time" else [
                (t, d) for d in range(C) if d != c]
            mine = maps_TPC[t, :, c]
            others = [maps_TPC[u, :, d] for u, d in others if np.ptp(maps_TPC[u, :, d])]
            if not np.ptp(mine) or not others:
                continue
            found = [np.corrcoef(mine, other)[0, 1] for other in others]
            best = int(np.argmax(found))
            cc.append(found[best])
            rmse.append(np.sqrt(np.mean((scaled(mine) - scaled(others[best])) ** 2)))
    return [np.mean(cc), np.mean(rmse), np.mean(np.array(cc) >= threshold)]


@pytest.mark.parametrize("axis", redundancy.AXES)
def test_numbers_are_numpys(rng, axis):
    base = rng.normal(size=(1, 30, 1))
    maps = (base + rng.uniform(0.2, 2, (4, 1, 5)) * rng.normal(size=(4, 30, 5))).astype(np.float32)
    maps[2, :, 3] = 0.7  # a constant map
    wanted = by_hand(maps.astype(np.float64), axis, 0.5)
    assert 0 < wanted[2] < 1
    np.testing.assert_allclose(redundancy.similarity(maps, axis, 0.5), wanted, rtol=1e-4)
    copies = np.repeat(maps[:1, :, :1], 3, axis=0 if axis == "time" else 2) * np.float32(2)
    np.testing.assert_allclose(redundancy.similarity(copies, axis, 0.85), [1, 0, 1], atol=1e-3)
    assert np.isnan(redundancy.similarity(maps[:1, :, :1], axis, 0.85)).all(), "nothing to compare with"


def test_table_of_a_trained_network(gated_run, tmp_path, capfd):
    out = tmp_path / "found"
    command = [f"--workdir={gated_run}", f"--out={out}", "--clips=3"]
    assert redundancy.main(command) == 0
    with open(out / "redundancy_val.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    names = [row["layer"] for row in rows]
    assert names[-1] == "mean" and len(names) == len(set(names))
    assert names[0] == "conv1/conv_s" and names.index("layer1_0/conv1/conv_s") < names.index(
        "layer2_0/conv1/conv_s"), "in the order of the network"
    means = json.loads((out / "redundancy_val.json").read_text())
    layers = np.array([float(row["time_cc"]) for row in rows[:-1] if row["time_cc"]])
    assert means["time_cc"] == pytest.approx(layers.mean(), rel=1e-3) and means["clips"] == 3
    assert means["layers"] == len(rows) - 1 and 0 <= means["channel_rp"] <= 1
    assert all((out / f"redundancy_val.{kind}").stat().st_size > 10000 for kind in ("png", "svg"))
    assert "| channel |" in capfd.readouterr().out.replace("  ", " ").replace("  ", " ")
    assert redundancy.main([*command, "--layers=nothing"]) == 1
    assert "'nothing' matches no convolution" in capfd.readouterr().err


def test_network_of_a_config(benchmark_root, tmp_path, capfd):
    command = ["--config=configs/supervised_sthv2.py:tiny", "--clips=1",
               f"--config.data.root={benchmark_root}"]
    assert redundancy.main(command) == 1
    assert "--out=DIR is missing" in capfd.readouterr().err
    assert redundancy.main([*command, f"--out={tmp_path}", "--layers=.*conv1"]) == 0
    found = json.loads((tmp_path / "redundancy_val.json").read_text())
    assert found["network"] == "tsm_resnet18" and found["workdir"] == "not trained" and found["layers"] > 1
    assert redundancy.main(["--clips=1"]) == 1
    assert "--workdir=RUN is missing" in capfd.readouterr().err
