"""Grad-CAM and effective receptive fields against gradients that are written out by hand."""

import csv
import json
import os
import re

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.analysis import __main__ as commands
from effvid_jax.analysis import grad_cam, layers, overlay, receptive_field
from effvid_jax.backbones import make_backbone
from effvid_jax.errors import UserError
from tests.drawn import draw


class Toy(nn.Module):
    """A convolution on every frame, ReLU, mean over everything, a classifier."""

    @nn.compact
    def __call__(self, x):
        maps = nn.relu(nn.Conv(5, (1, 3, 3), padding="SAME", name="conv")(x))
        maps = Named(name="after")(maps)
        return nn.Dense(4, name="fc")(maps.mean(axis=(1, 2, 3))), {"features": maps, "stem": x * 1.0}


class Named(nn.Module):
    def __call__(self, x):
        return 2.0 * x


@pytest.fixture(scope="module")
def toy():
    """(network, variables, clips (2, 3, 6, 6, 3), weights as numpy arrays)."""
    model, rng = Toy(), np.random.default_rng(0)
    clips = rng.standard_normal((2, 3, 6, 6, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), clips)
    variables = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), variables)
    params = variables["params"]
    weights = tuple(params[layer][kind] for layer in ("conv", "fc") for kind in ("kernel", "bias"))
    weights = (weights[0][0], *weights[1:])
    return layers.network(model.apply, variables, (3, 6, 6, 3)), variables, clips, weights


def maps_by_hand(clips, kernel, bias):
    """2 ReLU(conv), and where it is on: (V, T, 6, 6, 5)."""
    padded = np.pad(clips, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    z = sum(padded[:, :, i:i + 6, j:j + 6] @ kernel[i, j] for i in range(3) for j in range(3)) + bias
    return 2 * np.maximum(z, 0), z > 0


def linear(x, axis, size):
    """Half-pixel linear interpolation along an axis, by np.interp."""
    n = x.shape[axis]
    places = (np.arange(size) + 0.5) * n / size - 0.5
    return np.apply_along_axis(lambda line: np.interp(places, np.arange(n), line), axis, x)


def test_layers_are_found_by_name(toy):
    network, *_ = toy
    assert list(network.layers) == ["conv", "after", "features"] and network.last == "features"
    assert network.layer().call == (("after",), "__call__", 0) == network.layer("after").call
    assert network.layer("conv").shape == (3, 6, 6, 5)
    with pytest.raises(UserError, match="--layer=afetr: .*Did you mean after.* Known: conv, after, features"):
        network.layer("afetr")


@pytest.mark.parametrize("target", [-1, 2])
@pytest.mark.parametrize("side", [6, 9])
def test_grad_cam_by_hand(toy, target, side):
    network, variables, clips, (kernel, bias, fc, fc_bias) = toy
    heat, p, k = jax.jit(lambda x: grad_cam.heat(
        network.apply, network.layer(), variables, x, target, side))(clips)
    maps, _ = maps_by_hand(clips.astype(np.float64), kernel, bias)
    z = maps.mean(axis=(1, 2, 3)) @ fc + fc_bias
    each = np.exp(z - z.max(axis=1, keepdims=True))
    each /= each.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, each.mean(axis=0), rtol=1e-4)
    wanted = each.mean(axis=0).argmax() if target < 0 else target
    assert int(k) == wanted
    # d mean_v p_k / d z_vj = p_vk (1[j = k] - p_vj) / V; every position of a frame has the same share of z.
    dz = each[:, [wanted]] * (np.eye(4)[wanted] - each) / len(clips)
    weight = (dz @ fc.T / (3 * 6 * 6))[:, None, None, None, :]
    cam = np.maximum((weight * maps).sum(axis=-1), 0)
    for axis, size in ((1, 3), (2, side), (3, side)):
        cam = linear(cam, axis, size)
    low, high = cam.min(axis=(1, 2, 3), keepdims=True), cam.max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(heat, (cam - low) / (high - low + 1e-20), atol=1e-4)


def test_receptive_field_by_hand(toy):
    """The kernel, seen through the ReLUs that are on at the cell, and nothing outside of it."""
    network, variables, clips, (kernel, bias, *_) = toy
    found = jax.jit(lambda x: receptive_field.gradients(network.apply, network.layer(), variables, x))(clips)
    _, on = maps_by_hand(clips.astype(np.float64), kernel, bias)
    wanted = np.zeros((2, 3, 6, 6))
    for v in range(2):
        for t in range(3):  # cell (3, 3): rows and columns 2 to 4 of the input
            wanted[v, t, 2:5, 2:5] = np.abs(2 * kernel @ on[v, t, 3, 3]).sum(axis=-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_finite_differences(toy):
    """The same, through a whole backbone with batch norms, shortcuts and a temporal shift."""
    model = make_backbone("tsm_resnet18", num_classes=4, width=4, stem="small", stage_sizes=(1, 1),
                          stage_strides=(2, 2), dropout=0.0)
    clip = np.random.default_rng(1).standard_normal((1, 2, 12, 12, 3)).astype(np.float32)
    variables = draw(model, clip)
    network = layers.network(model.apply, variables, clip.shape[1:])
    assert network.layer("stage1").call[0] == ("layer1_0",) and network.last == "features"
    layer = network.layer("stage1")
    found = np.asarray(receptive_field.gradients(network.apply, layer, variables, clip))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
        _, h, w, _ = layer.shape
        total = jax.jit(lambda x: layers.with_map(network.apply, layer, wide, x)[1][
            :, :, h // 2, w // 2].sum())
        for t, y, x in ((0, 6, 6), (1, 7, 5), (0, 0, 0)):
            one = 0.0
            for c in range(3):
                step = np.zeros(clip.shape)
                step[0, t, y, x, c] = 1e-6
                one += abs(float(total(clip + step) - total(clip - step)) / 2e-6)
            assert found[0, t, y, x] == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_measures():
    field = np.zeros((10, 10))
    field[5, 5], field[5, 6], field[4, 5] = 8, 1, 1
    found = receptive_field.measures(field)
    assert (found["area_50"], found["area_90"]) == (0.01, 0.02)
    assert found["side"] == pytest.approx(3**0.5) and found["side_share"] == pytest.approx(3**0.5 / 10)
    assert receptive_field.measures(np.ones((4, 4)))["area_50"] == 0.5
    with pytest.raises(UserError, match="zero everywhere"):
        receptive_field.measures(np.zeros((4, 4)))
    heat = np.zeros((2, 4, 4))
    heat[:, 1, 3] = 1
    assert grad_cam.measures(heat) == {"centre_x": 0.875, "centre_y": 0.375, "area_50": 1 / 32}
    assert np.isnan(grad_cam.measures(0 * heat)["centre_x"])


def test_blend_is_half_and_half():
    frames = np.full((1, 2, 2, 3), 100, np.uint8)
    found = overlay.blend(frames, np.array([[[0.0, 1.0], [0.0, 1.0]]]))
    assert found[0, 0, 0].tolist() == [84, 51, 92]  # viridis' ends
    assert found[0, 0, 1].tolist() == [177, 166, 68]
    red = np.zeros((1, 1, 1, 3), np.uint8)
    red[..., 0] = 200
    grey, cold = 0.5 * 0.299 * 200, np.array([34, 0.5, 42])  # all colour is heat
    np.testing.assert_allclose(overlay.blend(red, np.zeros((1, 1, 1)))[0, 0, 0], cold + grey, atol=1)


def test_videos_stand_apart():
    """Every strip and line of text is there, and the gap between videos is wider than that within one."""
    frames = np.full((4, 8, 8, 3), 100, np.uint8)
    videos = [[(overlay.strip(frames), (f"video {v}", "a $formula$")), (overlay.strip(frames), ("student",))]
              for v in range(2)]
    figure = overlay.strips(videos, "heat")
    figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in figure.axes if axes.images]
    gaps = [above.y0 - below.y1 for above, below in zip(boxes, boxes[1:])]
    assert len(boxes) == 4 and gaps[0] == pytest.approx(gaps[2]) and gaps[1] > 2 * gaps[0] > 0
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["video 0\na \\$formula\\$", "student", "video 1\na \\$formula\\$", "student"]


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def test_commands_before_against_after(tiny_run, tmp_path, capsys):
    """All stages of a run, by one command each; pictures on the screen and for print."""
    for name, more in (("grad_cam", ["--clips=2"]), ("receptive_field", ["--clips=3", "--examples=1"])):
        assert commands.main([name, f"--workdir={tiny_run}", f"--out={tmp_path}", *more]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        rows = rows_of(told[name])
        assert list(dict.fromkeys(row["network"] for row in rows)) == ["teacher", "baseline", "student"]
        assert len(rows) == (6 if name == "grad_cam" else 3)
        for file in (name, "receptive_field_frames" if name == "receptive_field" else name):
            picture = cv2.imread(str(tmp_path / f"{file}_val.png"))
            assert picture.std() > 5 and os.path.getsize(tmp_path / f"{file}_val.svg") > 2000
    by_name = {row["network"]: row for row in rows}
    assert (by_name["teacher"]["resolution"], by_name["student"]["resolution"]) == ("64", "32")
    with np.load(tmp_path / "receptive_field_val.npz") as fields:
        assert {name: fields[name].shape for name in fields} == {
            "teacher": (64, 64), "baseline": (32, 32), "student": (32, 32)}
        assert all(fields[name].max() == 1 for name in fields)
    more = [f"--workdir={tiny_run}/baseline,{tiny_run}/student", f"--out={tmp_path}", "--clips=1"]
    assert commands.main(["grad_cam", *more, "--layer=stage2", "--target=answer"]) == 0
    rows = rows_of(tmp_path / "grad_cam_val.csv")
    assert [row["network"] for row in rows] == ["baseline", "student"]
    assert all(row["answer"] == row["target"] for row in rows)
    capsys.readouterr()
    for wrong, message in ((["--layer=layer9"], "no such layer.*Known: .*stage2"),
                           (["--videos=nobody.mp4"], "--videos=nobody.mp4: .* no such video")):
        assert commands.main(["grad_cam", *more, *wrong]) == 1
        assert re.search(message, capsys.readouterr().err)
    assert commands.main(["grad_cam", f"--workdir={tiny_run}", "--stages=nurse"]) == 1
    assert "no stage nurse; it has teacher, baseline, student" in capsys.readouterr().err


def test_a_network_with_exits_shows_frames_in_order():
    """It takes frames in an order of its own: the map of a layer is put back."""
    layer = layers.Layer("x", ((), "", 0), (4, 1, 1, 1), jnp.float32, (0, 3, 1, 2))
    assert layers.in_time(layer, jnp.array([[0, 3, 1, 2]])).tolist() == [[0, 1, 2, 3]]


def test_names_of_commands(capsys):
    assert commands.main(["grad_cma"]) == 1
    assert "Did you mean grad_cam?" in capsys.readouterr().err
    assert commands.main([]) == 2 and "receptive_field" in capsys.readouterr().out
