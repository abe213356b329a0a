"""Every backbone of the registry: shapes, gradients, size and cost. A new one adds a row to `FACTS`."""

import dataclasses
import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax import cost
from effvid_jax.backbones import BACKBONES, blocks, make_backbone, shifts, trace
from effvid_jax.cost import counting
from tests.drawn import shapes_of

# (T, H, W), classes, parameters, multiply-adds with attention. Integers are those of the reference
# implementations (golden cases, torchvision's model cards); rounded costs are published figures.
FACTS = {
    "resnet18": [((1, 224, 224), 1000, 11_689_512, 1_814_073_344),
                 ((8, 112, 112), 200, 11_279_112, 3_878_883_328)],
    "resnet34": [((1, 224, 224), 1000, 21_797_672, 3.66e9)],
    "resnet50": [((1, 224, 224), 1000, 25_557_032, 4_089_184_256),
                 ((2, 224, 224), 400, 24_327_632, 8_175_091_712),
                 ((8, 112, 112), 200, 23_917_832, 8_607_219_712)],
    "resnet101": [((1, 224, 224), 1000, 44_549_160, 7.80e9)],
    "resnet152": [((1, 224, 224), 1000, 60_192_808, 11_513_626_624),
                  ((8, 112, 112), 200, 58_553_608, 23_456_104_448)],
    "tsm_resnet18": [((1, 224, 224), 1000, 11_689_512, 1_814_073_344)],
    "tsm_resnet50": [((8, 112, 112), 174, 23_864_558, 8_609_660_928)],
    "tsm_resnet101": [((1, 224, 224), 1000, 44_549_160, 7.80e9)],
    "mobilenet_v2": [((1, 224, 224), 1000, 3_504_872, 0.301e9)],
    "tsm_mobilenet_v2": [((8, 112, 112), 174, 2_446_766, 649_012_224)],
    "mobilenet_v3_large": [((1, 160, 160), 1000, 5_483_032, 112_472_000),
                           ((1, 224, 224), 1000, 5_483_032, 0.217e9)],
    "mobilenet_v3_small": [((1, 128, 128), 174, 1_696_206, 19_002_368)],
    "tsm_mobilenet_v3_small": [((1, 128, 128), 174, 1_696_206, 19_002_368)],
    "mobilenet_v4_conv_small": [((1, 160, 160), 1000, 3_774_024, 96_129_600)],
    "efficientnet_lite0": [((1, 224, 224), 1000, 4_652_008, 385_187_552),
                           ((1, 90, 90), 50, 3_435_058, 68_987_728)],
    "efficientnet_lite1": [((1, 240, 240), 50, 4_199_730, 598_969_232)],
    "efficientnet_lite2": [((1, 260, 260), 50, 4_875_122, 858_520_272)],
    "tsm_efficientnet_lite0": [((4, 64, 64), 50, 3_435_058, 125_613_568)],
    "movinet_a0": [((8, 112, 112), 600, 3_111_799, 177_402_112)],
    "movinet_a0_stream": [((8, 112, 112), 600, 3_748_031, 168_527_104)],
    "movinet_a1": [((50, 172, 172), 600, 4_690_296, 5.87e9)],
    "movinet_a1_stream": [((50, 172, 172), 600, 6_447_352, 5.54e9)],
    "movinet_a2": [((6, 128, 128), 101, 4_227_111, 455_359_232)],
    "movinet_a2_stream": [((6, 96, 96), 101, 6_304_511, 253_167_360)],
    "slowonly_resnet50": [((8, 112, 112), 400, 32_454_096, 10_994_188_288)],
    "i3d_resnet50": [((32, 112, 112), 400, 28_043_472, 8_530_395_136)],
    "r2plus1d_18": [((16, 112, 112), 400, 31_505_325, 40_519_080_960)],
    "r2plus1d_34": [((8, 112, 112), 400, 63_759_281, 10_295_232_000)],
    "r3d_18": [((16, 112, 112), 400, 33_371_472, 40_696_553_472)],
    "mc3_18": [((16, 112, 112), 400, 11_695_440, 43_342_635_008)],
    "i3d": [((16, 224, 224), 400, 12_697_264, 27_787_978_752)],
    "s3d": [((16, 224, 224), 400, 8_320_048, 17_978_771_456)],
    "x3d_m": [((16, 112, 112), 400, 3_794_322, 1_260_192_128)],
    "tpn_slowonly_resnet50": [((8, 112, 112), 400, 91_498_336, 13_781_303_296)],
    "corrnet_26": [((8, 112, 112), 400, 30_583_280, 10_681_335_808)],
    "ir_csn_50": [((8, 64, 64), 400, 13_131_152, 864_241_664), ((32, 224, 224), 400, 13_131_152, 42.3e9)],
    "ir_csn_152": [((32, 224, 224), 400, 29_703_568, 74.0e9)],
    "ip_csn_50": [((8, 48, 48), 174, 13_933_102, 561_208_320)],
    "ip_csn_152": [((32, 224, 224), 400, 33_016_592, 83.3e9)],
    "swin3d_t": [((16, 112, 112), 400, 28_158_070, 11_363_168_256),
                 ((32, 64, 64), 400, 28_158_070, 8_704_978_944)],
    "swin3d_s": [((8, 112, 112), 400, 49_816_678, 9_653_932_032),
                 ((4, 224, 224), 400, 49_816_678, 17_966_727_168)],
    "swin3d_b": [((8, 112, 112), 400, 88_048_984, 16_750_592_000)],
    "mvit_v2_s": [((16, 224, 224), 400, 34_537_744, 64_223_815_872)],
    "uniformer_s": [((8, 64, 64), 400, 21_400_400, 1_189_396_480),
                    ((16, 32, 32), 174, 21_284_462, 589_245_440)],
    "videomae_s": [((8, 64, 64), 174, 21_946_926, 1_434_518_784)],
    "videomae_b": [((4, 64, 64), 400, 86_534_800, 2_774_839_296)],
    "msdnet_38": [((1, 224, 224), 1000, 62_314_472, 3_246_180_864),
                  ((1, 224, 224), 400, 60_314_672, 3_244_184_064)],
    "msdnet_b4_s4": [((1, 224, 224), 1000, 23_958_440, 1_355_606_016)],
    "bninception": [((2, 224, 224), 400, 10_680_240, 4_063_971_328),
                    ((3, 224, 224), 101, 10_373_765, 6_095_038_464)],
    "trn_bninception": [((3, 224, 224), 400, 11_066_432, 6_096_514_048),
                        ((5, 224, 224), 174, 11_630_040, 10_161_733_632)],
    "mfnet_3d": [((16, 224, 224), 400, 7_996_368, 11_045_449_728),
                 ((16, 200, 200), 101, 7_766_437, 9_430_097_664)],
    "i3d_nonlocal_resnet50": [((8, 96, 96), 400, 35_401_936, 6_262_980_608)],
    "slowfast_4x16_resnet50": [((16, 64, 64), 174, 33_959_286, 1_128_472_064)],
    "slowfast_8x8_resnet50": [((16, 64, 64), 400, 34_566_488, 2_054_295_552),
                              ((32, 256, 256), 400, 34_566_488, 65.71e9)],
    "artnet_18": [((16, 112, 112), 400, 39_676_176, 25_689_714_688),
                  ((16, 64, 64), 174, 39_560_238, 8_388_500_480)],
    "eco_lite": [((4, 224, 224), 400, 33_518_576, 12_488_810_496)],
    "stnet_se_resnext50": [((35, 96, 96), 400, 42_912_896, 7_735_521_280)],
    "ghostnet": [((1, 160, 160), 1000, 5_182_508, 73_978_544)],
    # The figures of these are put together in docs/cost.md; only that they can be counted is tested.
}
# Larger members of families whose smallest is always tested.
LARGE = {"movinet_a1", "movinet_a2", "movinet_a1_stream", "movinet_a2_stream", "ir_csn_152", "ip_csn_152",
         "videomae_b", "vjepa2_l"}
SIZES = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in BACKBONES]
# Deeper forms of others, and what takes long to trace: their gradients are traced with the slow tests.
DEEP = {*LARGE, "resnet101", "resnet152", "tsm_resnet101", "r2plus1d_34", "x3d_m", "x3d_l", "corrnet_50",
        "swin3d_s", "swin3d_b", "msdnet_38", "efficientnet_lite1", "efficientnet_lite2", "bninception",
        "i3d_nonlocal_resnet50", "slowfast_8x8_resnet50", "stnet_resnet50", "stnet_resnet101",
        "stnet_se_resnext50", "ghostnet", "trn_bninception", "slowfast_4x16_resnet50", "mfnet_3d",
        "mobilenet_v3_large", "tsm_mobilenet_v3_large", "tsm_mobilenet_v3_small", "mobilenet_v4_conv_small",
        "movinet_a0_stream", "ip_csn_50"}
FRAMES = {name: 10 for name in ("stnet_resnet50", "stnet_resnet101", "stnet_se_resnext50")}  # others: 8
RUN = ["resnet18", "tsm_mobilenet_v2"]  # narrow, for tests that compute


def small(name, **options):
    """A narrow module of one of `RUN`, and the shape of a clip for it."""
    narrow = {"width_mult": 0.25} if "mobilenet" in name else {"width": 8}
    return make_backbone(name, num_classes=5, **{**narrow, **options}), (1, 3, 36, 36, 3)


def random_variables(model, clip, seed=0):
    """Plausible random variables without compiling `model.init`."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1]
        noise = rng.standard_normal(leaf.shape)
        if kind in ("scale", "var"):
            return (0.5 if kind == "scale" else 1) + 0.1 * np.abs(noise)
        gain = np.sqrt(2 / np.prod(leaf.shape[:-1])) if kind == "kernel" else 0.1
        return gain * noise

    shapes = shapes_of(model, np.zeros(clip, np.float32))
    flat = flax.traverse_util.flatten_dict(shapes)
    return flax.traverse_util.unflatten_dict(
        {path: jnp.asarray(draw(path, leaf), jnp.float32) for path, leaf in flat.items()})


def random_clip(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("name", SIZES)
def test_shapes_and_feature_names(name):
    model = make_backbone(name, num_classes=7)
    assert hash(model) == hash(make_backbone(name, num_classes=7))  # or jit would compile it twice
    clip = jax.ShapeDtypeStruct((2, FRAMES.get(name, 8), 224, 224, 3), jnp.float32)
    with trace.recording(shapes_only=True), cost.parameters_without_values():
        (logits, features), variables = jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x), clip)
    assert logits.shape == (2, 7)
    assert {"features", "pooled"} <= features.keys()
    assert features["features"].shape[0] == features["pooled"].shape[0] == 2
    assert {f"stage{s}" for s in range(1, model.num_stages + 1)} <= features.keys()
    assert set(variables) <= {"params", "batch_stats"}
    leaves = {path[-1] for path in flax.traverse_util.flatten_dict(variables)}
    assert {"kernel", "bias"} <= leaves
    print(name, {key: value.shape for key, value in features.items()})


@functools.cache
def events():
    """Names of what jax compiles and traces, as it happens."""
    seen: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, seconds, **_: seen.append(name))
    return seen


@pytest.mark.parametrize("name", BACKBONES)
def test_parameters_and_cost_are_the_published_ones(name):
    """And what makes counting take no second: no compilation, no initialiser, one pass over the layers."""
    unknown = [((2 * FRAMES.get(name, 8), 224, 224), 400, None, None)]  # only that it can be counted
    for clip, classes, params, macs in FACTS.get(name, unknown):
        model = make_backbone(name, num_classes=classes)
        counting._cached_trace.cache_clear()
        events().clear()
        found = cost.count(model, (*clip, 3), "macs_attn")
        traces, compilations = (sum(key in event for event in events())
                                for key in ("jaxpr_trace", "backend_compile"))
        print(f"{name} {clip}: {found.params:,} parameters, {found.gmacs:.3f} gmacs, {len(found.layers)} "
              f"layers, {traces} traces")
        assert compilations == 0 and traces <= 3
        assert 0 < found.gmacs < 2000 and cost.count(model, (*clip, 3), "macs_attn").macs == found.macs
        assert params is None or found.params == params
        if isinstance(macs, int):
            assert found.macs == macs
        elif macs is not None:  # published with three digits
            assert found.macs == pytest.approx(macs, rel=2e-3)


def training_loss(model, clip):
    """(params, other variables, clip) -> sum of all logits in training mode, exits included."""

    def loss(params, variables, x):
        (logits, features), _ = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)})
        outputs = [logits] + [v for k, v in features.items()
                              if re.fullmatch(r"exit\d+|aux_logits", k)]
        return sum((y * random_clip(y.shape)).sum() for y in outputs)

    return loss


def kind(name):
    """What a network is made of: its class, and all fields but numbers. 0 and 1 are switches, not numbers."""
    def erased(x):
        if isinstance(x, float) or (isinstance(x, int) and x > 1):
            return "a number"
        return (type(x), frozenset(map(erased, x))) if isinstance(x, tuple) else x

    model = make_backbone(name, num_classes=5)
    return type(model), *(erased(getattr(model, field.name)) for field in dataclasses.fields(model)
                          if field.name not in ("name", "parent"))


KINDS: dict = {}  # the numbers themselves are in the counts of parameters, above
for name in sorted(BACKBONES, key=DEEP.__contains__):
    KINDS.setdefault(kind(name), name)


def shallow(name):
    """Options for two blocks a stage, the first and one that follows, where no other field counts blocks."""
    model = make_backbone(name, num_classes=5)
    counted = any(isinstance(x, tuple) for field in ("inflate", "correlations", "nonlocals")
                  for x in getattr(model, field, ()))
    return {} if counted else {
        field: tuple(min(n, 2) for n in getattr(model, field)) for field in ("stage_sizes", "depths")
        if getattr(model, field, ())}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in KINDS.values()])
def test_every_parameter_reaches_the_loss(name):
    """In the traced gradient at full width: what is not reached gets a constant 0, without compiling."""
    whole = functools.partial(blocks.Conv, plain=True)  # one operation to trace in place of dozens
    model = make_backbone(name, num_classes=5, conv=whole, **shallow(name))
    x = jax.ShapeDtypeStruct((2, FRAMES.get(name, 8), 224, 224, 3), jnp.float32)
    with cost.parameters_without_values():
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        traced, gradient = jax.make_jaxpr(jax.grad(training_loss(model, x)), return_shape=True)(
            variables["params"], variables, x)
    made_by = {v: eqn for eqn in traced.jaxpr.eqns for v in eqn.outvars}

    def is_constant(v):
        if hasattr(v, "val"):  # a literal
            return True
        eqn = made_by.get(v)
        return eqn is None or (eqn.primitive.name == "broadcast_in_dim"
                               and hasattr(eqn.invars[0], "val"))

    paths = ["/".join(path) for path in flax.traverse_util.flatten_dict(gradient)]
    without = [path for path, v in zip(paths, traced.jaxpr.outvars, strict=True) if is_constant(v)]
    assert not without


@pytest.mark.parametrize("name", RUN)
def test_gradients_are_finite_and_not_zero(name):
    model, shape = small(name)
    shape = (2, *shape[1:])
    variables = random_variables(model, shape)
    gradient = jax.jit(jax.grad(training_loss(model, shape)))(
        variables["params"], variables, random_clip(shape))
    without = ["/".join(path) for path, g in flax.traverse_util.flatten_dict(gradient).items()
               if not np.isfinite(g).all() or not np.abs(g).max() > 0]
    assert not without


@pytest.mark.parametrize("name", RUN)
def test_stages_add_up_to_the_whole(name):
    """Executors run stem, stages and head one by one; features are named after them."""
    model, shape = small(name)
    variables, x = random_variables(model, shape), random_clip(shape)
    logits, features = jax.jit(model.apply)(variables, x)
    stages = [f"stage{s}" for s in range(1, model.num_stages + 1)]
    assert set(features) == {"stem", *stages, "features", "pooled"}

    @jax.jit
    def one_by_one(variables, x):
        maps = [model.apply(variables, x, method="run_stem")]
        for s in range(1, model.num_stages + 1):
            maps.append(model.apply(variables, s, maps[-1], method="run_stage"))
        logits, pooled = model.apply(variables, maps[-1], method="run_head")
        return maps, logits, pooled, model.apply(variables, pooled, method="classify").mean(axis=1)

    maps, *heads = one_by_one(variables, x)
    for ours, name in zip(maps + [maps[-1]], ["stem", *stages, "features"], strict=True):
        assert_close(ours, features[name])
    for ours, expected in zip(heads, (logits, features["pooled"], logits), strict=True):
        assert_close(ours, expected)


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.std(b))


def test_tsm_differs_from_tsn_by_the_shift_alone():
    model, shape = small("tsm_resnet18")
    plain, _ = small("resnet18")
    still, _ = small("tsm_resnet18", shift=lambda x: shifts.temporal_shift(x, div=10**6))  # no channel
    variables, x = random_variables(model, shape), random_clip(shape)
    expected, shifted = (np.asarray(jax.jit(m.apply)(variables, x)[0]) for m in (plain, model))
    assert_close(jax.jit(still.apply)(variables, x)[0], expected)
    assert np.abs(shifted - expected).max() > 0.01 * expected.std()


@pytest.mark.parametrize("name", ["resnet18", "tsm_resnet101", "mobilenet_v2", "tsm_mobilenet_v2"])
def test_one_frame_and_small_stem(name):
    def shapes(model, *clip):
        x = jax.ShapeDtypeStruct((2, *clip, 3), jnp.float32)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], x)

    logits, features = shapes(small(name)[0], 1, 32, 32)
    assert logits.shape == (2, 5) and features["pooled"].shape[:2] == (2, 1)
    _, features = shapes(small(name, stem="small")[0], 2, 20, 24)
    shrink = 1 if "mobilenet" in name else 2
    assert features["stem"].shape[:4] == (2, 2, 20 // shrink, 24 // shrink)
    assert features["features"].shape[:4] == (2, 2, 2, 2)


def test_shift_of_deep_networks_is_in_every_second_block():
    """ResNet-101 and -152 (stages of 23 blocks and more), as the reference's n_round."""
    def shifted(name):
        model = make_backbone(name, num_classes=2, shift=shifts.temporal_shift).bind({})
        return [[block.shift is not None for block in getattr(model, f"layer{s}")] for s in (1, 3)]

    assert shifted("resnet50") == [[True] * 3, [True] * 6]
    assert shifted("resnet101") == [[True, False, True], [True, False] * 11 + [True]]


def test_mobilenet_shifts_blocks_with_a_shortcut_only():
    """10 of 17 blocks: stride 1 and equal channels, the reference's rule; block 1 has no expansion."""
    calls = []

    def shift(x):
        calls.append(x.shape)
        return x

    model = make_backbone("mobilenet_v2", num_classes=2, shift=shift)
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 64, 64, 3)))
    assert [shape[-1] for shape in calls] == [24, 32, 32, 64, 64, 64, 96, 96, 160, 160]


def test_mobilenet_rounds_channels():
    model = make_backbone("mobilenet_v2", num_classes=2, width_mult=0.35)
    _, features = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 1, 64, 64, 3)))
    assert features["stem"].shape[-1] == 16  # 11.2 -> 8 would lose more than a tenth
    assert features["stage1"].shape[-1] == 8
    assert features["features"].shape[-1] == 1280


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="resnet50"):
        make_backbone("resnet5O", num_classes=2)
    with pytest.raises(ValueError, match="dropuot"):
        make_backbone("resnet50", num_classes=2, dropuot=0.1)
    for field in ("stem", "consensus"):
        for name in ("resnet18", "mobilenet_v2"):
            model = make_backbone(name, num_classes=2, **{field: "typo"})
            with pytest.raises(ValueError, match=f"{field}='typo'"):
                jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 64, 64, 3)))
