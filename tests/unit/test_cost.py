"""Static costs against the figures of papers and counters."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from effvid_jax import cost
from effvid_jax.backbones import blocks, make_backbone, trace
from effvid_jax.cost import counting

# mmcv 1.4.0's counter on ResKD's networks, to the last digit; where known by layer kind.
MMCV = [
    ("resnet50", 16, 224, 200, 65_918_427_136,
     {"conv": 65_394_180_096, "linear": 409_600, "norm": 355_647_488, "relu": 153_739_264,
      "pool": 14_450_688}),
    ("resnet50", 16, 112, 200, 17_346_924_544,
     {"conv": 17_213_620_224, "linear": 409_600, "norm": 90_202_112, "relu": 38_957_056,
      "pool": 3_735_552}),
    ("tsm_resnet50", 8, 112, 174, 8_676_108_288, {}),
]
# Table 4 of ResKD (arXiv 2209.12797): TSN-ResNet-50, 16 frames, by resolution; 17.4 is printed for 17.347.
TABLE_4 = {224: 65.918, 144: 28.340, 112: 17.347, 96: 12.108, 72: 8.291, 56: 4.787, 160: 33.632}
OTHER_MMCV = [  # name, T, side, classes, counter, plain multiply-adds
    ("resnet50", 8, 112, 200, 8.674, 8.607), ("resnet152", 16, 224, 200, 185.259, 184.186),
    ("resnet152", 16, 112, 200, 47.182, 46.912), ("tsm_resnet50", 8, 224, 174, 32.962, 32.700),
    ("resnet50", 16, 224, 200, 65.918, 65.395), ("resnet50", 16, 56, 200, 4.787, 4.752),
]


@pytest.mark.parametrize("name,frames,side,classes,total,parts", MMCV)
def test_mmcv_counter_to_the_last_digit(name, frames, side, classes, total, parts):
    model = make_backbone(name, num_classes=classes)
    found = cost.count(model, (frames, side, side, 3), "mmcv")
    assert found.macs == total
    for kind, expected in parts.items():
        assert sum(layer.macs for layer in found.layers if kind in layer.kind) == expected


def test_mmcv_counter_gives_the_figures_of_reskd():
    model = make_backbone("resnet50", num_classes=200)
    for side, expected in TABLE_4.items():
        found = cost.count(model, (16, side, side, 3), "mmcv").gmacs
        assert found == pytest.approx(expected, abs=5.1e-4), side
    for name, frames, side, classes, counter, plain in OTHER_MMCV:
        model, clip = make_backbone(name, num_classes=classes), (frames, side, side, 3)
        assert cost.count(model, clip, "mmcv").gmacs == pytest.approx(counter, abs=5.1e-4)
        assert cost.gmacs(model, clip) == pytest.approx(plain, abs=5.1e-4)


def test_thop_counter_of_a_frame_by_frame_resnet():
    """VA-RED2's 2-D comparison: 65.40 plain, 65.76 with batch norms and adaptive pooling."""
    model, clip = make_backbone("resnet50", num_classes=200, consensus="logits"), (16, 224, 224, 3)
    assert cost.gmacs(model, clip) == pytest.approx(65.40, abs=5e-3)
    assert cost.count(model, clip, "thop").gmacs == pytest.approx(65.76, abs=5e-3)


class Everything(nn.Module):
    """One operation of each kind with hand-sized shapes."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = blocks.relu(blocks.BatchNorm(name="bn")(
            blocks.Conv(4, (3, 3), 1, 1, use_bias=True, name="conv")(x)))
        x = blocks.max_pool(x, (2, 2), (2, 2), (0, 0))  # (1, 2, 4, 4, 4)
        trace.note("layer_norm", ("ln",), x, x)
        trace.note("matmul", (), x, x, macs=1000)
        x = blocks.global_avg_pool(x)
        return blocks.Dense(5, name="fc")(x), {}


@pytest.mark.parametrize("convention,expected", [
    # conv 2*8*8*4*27 = 13824 (bias 512), bn and relu on 512, pool 128 outputs, ln 128, linear 2*4*5 = 40
    ("macs", 13824 + 40), ("macs_attn", 13824 + 40 + 1000),
    ("mmcv", 13824 + 512 + 1024 + 512 + 512 + 256 + 128 + 40),
    ("msdnet", 13824 + 512 + 4 * 128 + 128 + 40 + 10),
    ("thop", 13824 + 512 + 1024 + (16 + 1) * 8 + 40),
])
def test_conventions_by_hand(convention, expected):
    found = cost.count(Everything(), (2, 8, 8, 3), convention)
    assert found.macs == expected
    assert cost.count(Everything(), (2, 8, 8, 3), convention, views=6).macs == 6 * expected
    assert found.params == 3 * 9 * 4 + 4 + 8 + 4 * 5 + 5 and found.stats == 8
    assert sum(layer.params for layer in found.layers) == found.params


def test_shortcuts_of_the_trace_change_no_number():
    """Parameters without initialisers and no elementwise arithmetic: same operations, same variables."""
    for name in ("tsm_mobilenet_v2", "x3d_s", "swin3d_t"):
        model, shape = make_backbone(name, num_classes=5), (4, 64, 64, 3)
        tape, variables = counting.traced(model, shape)
        with trace.recording() as whole:
            expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
        assert tape == whole
        assert variables == expected
    assert jax.nn.relu(-1.0) == blocks.relu(jnp.float32(-1)) == 0  # and nothing of it stays behind
    kernel = blocks.Dense(3).init(jax.random.key(0), jnp.ones((1, 2)))["params"]["kernel"]
    assert jnp.abs(kernel).min() > 0


class Shrinking(nn.Module):
    """Unpadded convolutions that run out of pixels."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        for i in range(3):
            x = blocks.Conv(2, (3, 3), 2, name=f"conv{i}")(x)
        return x.mean(axis=(1, 2, 3)), {}


def test_too_small_a_resolution_is_an_error_that_says_what_fits():
    for function in (cost.count, cost.check_resolution):
        with pytest.raises(ValueError, match="9x9 is too small for Shrinking: conv2.*15x15 pixels"):
            function(Shrinking(), (2, 9, 9, 3))
        function(Shrinking(), (2, 15, 15, 3))
    model = make_backbone("resnet18", num_classes=2)
    with pytest.raises(ValueError, match="16x40 is too small for resnet18: layer4_0.*17x17 pixels"):
        cost.check_resolution(model, (2, 16, 40, 3), "resnet18")
    cost.check_resolution(model, (1, 17, 40, 3))
    small = make_backbone("resnet18", num_classes=2, stem="small")
    cost.check_resolution(small, (1, 16, 16, 3))


def test_mistakes_in_a_call():
    model = Everything()
    with pytest.raises(ValueError, match="convention='flops'"):
        cost.count(model, (2, 8, 8, 3), "flops")
    with pytest.raises(ValueError, match="views=0"):
        cost.count(model, (2, 8, 8, 3), views=0)
    for shape in ((8, 8, 3), (2, 0, 8, 3)):
        with pytest.raises(ValueError, match="expected 4 positive sizes"):
            cost.count(model, shape)


def run_command(capsys, *arguments):
    """(exit code, standard output, standard error or exit message) of the command."""
    try:
        cost.main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    message = code if isinstance(code, str) else ""
    return (1 if message else code), out.out, out.err + message


def test_command_prints_json_and_a_table(capsys):
    arguments = ["--backbone=resnet50", "--input=16x112x112", "--classes=200", "--convention=mmcv"]
    code, out, _ = run_command(capsys, *arguments, "--views=2", "--json")
    found = json.loads(out)
    assert code == 0 and found["backbone"] == "resnet50" and found["convention"] == "mmcv"
    assert found["gmacs"] == 2 * 17.346924544 and found["params"] == 23_917_832
    code, out, _ = run_command(capsys, *arguments)
    lines = out.splitlines()
    assert code == 0 and "17.347 gmacs" in lines[-1]
    assert any(line.startswith("layer3_5 ") for line in lines)
    assert lines[-2].split() == ["total", "17,346,924,544", "23,917,832"]


@pytest.mark.parametrize("arguments,message", [
    (("--backbone=resnet5O", "--input=8x112x112"), "unknown backbone 'resnet5O'"),
    (("--backbone=resnet50", "--input=8x112"), "--input '8x112'"),
    (("--backbone=resnet50", "--input=8x0x112"), "--input '8x0x112'"),
    (("--backbone=resnet50", "--input=8x9x9"), "resolution 9x9 is too small for resnet50"),
    (("--backbone=resnet50", "--input=8x112x112", "--convention=flops"), "invalid choice: 'flops'"),
    (("--backbone=resnet50", "--input=8x112x112", "--classes=0"), "--classes 0"),
])
def test_command_explains_mistakes(capsys, arguments, message):
    code, _, error = run_command(capsys, *arguments)
    assert code != 0 and message in error


def test_command_in_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-m", "effvid_jax.cost", "--backbone", "tsm_mobilenet_v2", "--input",
         "8x112x112", "--classes", "174", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["gmacs"] == 0.649012224
    assert json.loads(done.stdout)["params"] == 2_446_766


def test_functions_work_on_abstract_inputs():
    assert cost.gmacs(Everything(), (2, 8, 8, 3)) == (13824 + 40) / 1e9
    assert jnp.zeros(1).dtype == jnp.float32  # counting leaves no precision setting behind
