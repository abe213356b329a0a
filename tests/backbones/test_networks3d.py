"""What is special about the 3-D networks: stages, temporal strides, heads, necks, correlations."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax import cost
from effvid_jax.backbones import blocks, corrnet, make_backbone, resnet3d, trace
from effvid_jax.torch_import import convert
from tests.backbones.test_registry import random_clip, random_variables

NARROW = [  # options and clip (T, H, W) that make a family cheap; the first pattern that matches counts
    (r"tpn_r2plus1d_18", {"width": 8, "stage_sizes": (1, 1, 1, 1)}, (8, 32, 32)),
    (r".*resnet50", {"width": 8, "stage_sizes": (1, 1, 1, 1)}, (8, 32, 32)),
    (r"corrnet_26", {"width": 8, "stage_sizes": (2, 1, 1, 1), "correlations": ((1,), (), (), ())},
     (8, 32, 32)),
    (r"(r2plus1d|r3d|mc3)_.*", {"width": 8, "stage_sizes": (1, 1, 1, 1)}, (8, 32, 32)),
    (r"i3d(_tp)?|s3d", {"width_mult": 0.125}, (16, 32, 32)),
    (r"x3d_.", {"widths": (8, 8, 16, 16), "stage_sizes": (2, 1, 1, 1)}, (4, 32, 32)),
]
STAGED = ["slowonly_resnet50", "i3d_resnet50", "r2plus1d_34", "r2plus1d_18_vared", "mc3_18", "i3d",
          "i3d_tp", "s3d", "x3d_s", "tpn_tsm_resnet50", "tpn_r2plus1d_18", "corrnet_26"]


def small(name, **options):
    """A narrow, shallow module of the family, and the shape of a clip (1, T, H, W, 3) for it."""
    narrow, clip = next((o, c) for pattern, o, c in NARROW if re.fullmatch(pattern, name))
    return make_backbone(name, num_classes=5, **{**narrow, **options}), (1, *clip, 3)


def shapes(name, clip, **options):
    """Named maps of a network, without computing anything."""
    model = make_backbone(name, num_classes=3, **options)
    with trace.recording(shapes_only=True), cost.parameters_without_values():
        return {key: value.shape for key, value in jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x)[0][1],
            jax.ShapeDtypeStruct((1, *clip, 3), jnp.float32)).items()}


@pytest.mark.parametrize("name", STAGED)
def test_stages_add_up_to_the_whole(name):
    """Executors run stem, stages and head one by one; features are named after them."""
    model, shape = small(name)
    variables, x = random_variables(model, shape), random_clip(shape)

    @jax.jit
    def both(variables, x):
        whole = model.apply(variables, x)
        maps = [model.apply(variables, x, method="run_stem")]
        for s in range(1, model.num_stages + 1):
            maps.append(model.apply(variables, s, maps[-1], method="run_stage"))
        last = maps[-1]
        if name.startswith("tpn"):
            last = model.apply(variables, [maps[s] for s in model.levels], method="run_neck")
        return whole, maps, last, model.apply(variables, last, method="run_head")

    (logits, features), maps, last, (head, pooled) = both(variables, x)
    assert set(features) == {"stem", "features", "pooled",
                             *(f"stage{s}" for s in range(1, model.num_stages + 1))}
    for key, y in zip(["stem", *(f"stage{s}" for s in range(1, len(maps)))], maps):
        np.testing.assert_allclose(y, features[key], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(last, features["features"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(head, logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(pooled, features["pooled"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(pooled, last.mean(axis=(2, 3)), atol=1e-5, rtol=1e-5)
    classified = model.apply(variables, pooled.mean(axis=1), method="classify")
    np.testing.assert_allclose(classified, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name,frames,lengths", [  # stem, stage 1..4
    ("slowonly_resnet50", 8, (8, 8, 8, 8, 8)), ("i3d_resnet50", 32, (8, 8, 4, 4, 4)),
    ("r2plus1d_18", 16, (16, 16, 8, 4, 2)), ("r2plus1d_34", 8, (8, 8, 4, 2, 1)),
    ("mc3_18", 9, (9, 9, 9, 9, 9)), ("i3d", 16, (8, 8, 8, 4, 2)), ("i3d_tp", 16, (16, 16, 8, 4, 2)),
    ("s3d", 17, (9, 9, 9, 5, 2)), ("x3d_m", 16, (16, 16, 16, 16, 16)),
    ("corrnet_26", 8, (8, 8, 8, 4, 2)), ("corrnet_r2plus1d_18", 8, (8, 8, 4, 2, 1)),
])
def test_temporal_strides(name, frames, lengths):
    found = shapes(name, (frames, 64, 64))
    assert tuple(found[key][1] for key in ("stem", "stage1", "stage2", "stage3", "stage4")) == lengths


@pytest.mark.parametrize("name,frames,levels,out", [
    ("tpn_slowonly_resnet50", 8, (8, 8), 1), ("tpn_slowonly_resnet50", 12, (12, 12), 2),
    ("tpn_tsm_resnet50", 8, (8, 8), 1), ("tpn_r2plus1d_18", 8, (2, 1), 1),
    ("tpn_r2plus1d_18", 32, (8, 4), 4),
])
def test_neck_brings_levels_to_one_length(name, frames, levels, out):
    found = shapes(name, (frames, 64, 64))
    assert (found["stage3"][1], found["stage4"][1]) == levels
    assert found["features"][1:4] == (out, *found["stage4"][2:4])


@pytest.mark.parametrize("name,clip,convention,paper", [
    # VA-RED2 (arXiv 2102.07887) Table 2: GFLOPs of a static network; the others of Tables 1, 2 and 5 are in
    # tests/methods/test_va_red2.py
    ("x3d_m", (16, 256, 256), "thop", 6.42),
    # Tables 3, 4: the networks are our choice
    ("tpn_r2plus1d_18", (8, 128, 128), "macs", 28.5), ("tpn_r2plus1d_18", (16, 128, 128), "macs", 56.8),
    ("corrnet_r2plus1d_18", (16, 128, 128), "macs", 60.8),
])
def test_published_cost(name, clip, convention, paper):
    found = cost.count(make_backbone(name, num_classes=200), (*clip, 3), convention).gmacs
    print(f"{name} {clip}: {found:.3f} in {convention}, the paper has {paper}")
    assert found == pytest.approx(paper, rel=0.01)


# ------------------------------------------------------------------------------------- residual networks
def test_middle_channels_keep_the_parameters():
    assert resnet3d.middle_channels(64, 64, (3, 3, 3)) == 144  # 27 * 64 * 64 / (9 * 64 + 3 * 64)
    assert resnet3d.middle_channels(3, 64, (3, 7, 7)) == 83
    for rule, middles in {"torchvision": (230, 230), "blocks": (230, 288), "each": (230, 288)}.items():
        model = make_backbone("r2plus1d_18", num_classes=2, factoring=rule)
        params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 32, 32, 3)))["params"]
        block = params["layer2_0"]
        assert tuple(block[f"conv{i}"]["conv_s"]["kernel"].shape[-1] for i in (1, 2)) == middles
        assert ("conv_s" in block["downsample_conv"]) == (rule == "each")


@pytest.mark.parametrize("name", ["r2plus1d_18", "i3d", "x3d_s", "tpn_tsm_resnet50", "corrnet_26"])
def test_another_convolution_replaces_all_of_them(name):
    """A gated convolution sees every convolution but those of squeeze-excitation."""
    seen = []

    class Recorded(blocks.Conv):
        def __call__(self, x, train: bool = False):
            assert self.dtype == jnp.bfloat16
            seen.append("/".join(self.path))
            return super().__call__(x, train)

    model, shape = small(name, conv=Recorded, dtype=jnp.bfloat16)
    with trace.recording() as tape:
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    convs = [op.path for op in tape if op.kind == "conv" and "se_module" not in op.path]
    assert convs and set(convs) <= set(seen)


@pytest.mark.parametrize("options,message", [
    ({"factoring": "2+1"}, "factoring='2\\+1'"), ({"inflate_style": "1x1x3"}, "inflate_style='1x1x3'"),
    ({"inflate": (1, 1)}, "inflate=\\(1, 1\\): expected one entry for each of the 4 stages"),
    ({"time_strides": (1,)}, "time_strides"),
])
def test_impossible_residual_networks(options, message):
    with pytest.raises(ValueError, match=message):
        shapes("slowonly_resnet50", (4, 32, 32), **options)


def test_inflated_imagenet_weights_see_a_still_clip_as_an_image():
    """Kernels repeated along time and divided by its length: only the clip's ends differ."""
    image, shape = small("resnet50", stage_sizes=(1, 1, 1, 1))
    video = make_backbone("slowonly_resnet50", num_classes=5, width=8, stage_sizes=(1, 1, 1, 1))
    variables = random_variables(image, (1, 1, *shape[2:]))
    state = {}
    for module, leaves in variables["params"].items():
        flat = {(module,): leaves} if not module.startswith("layer") else {
            (module, name): inner for name, inner in leaves.items()}
        for path, inner in flat.items():
            key = ".".join(path).replace("_0.", ".0.").replace("downsample_conv", "downsample.0").replace(
                "downsample_bn", "downsample.1")
            stats = variables["batch_stats"].get(module, {})
            stats = stats.get(path[1], {}) if len(path) > 1 else stats
            names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
                     "var": "running_var"}
            for leaf, value in {**inner, **stats}.items():
                value = np.asarray(value)
                state[f"{key}.{names[leaf]}"] = (np.moveaxis(value, (-1, -2), (0, 1))
                                                 if leaf == "kernel" else value)
    clip = (1, 7, *shape[2:])
    converted = convert("slowonly_resnet50", state, random_variables(video, clip), inflate=True)
    frame = random_clip((1, 1, *shape[2:]))
    _, still = jax.jit(video.apply)(converted, jnp.repeat(frame, 7, axis=1))
    _, expected = jax.jit(image.apply)(variables, frame)
    for stage in ("stem", "stage2", "stage3", "stage4"):
        middle = still[stage][:, 3]  # two frames away from both ends: stages 3 and 4 have one 3x1x1 each
        np.testing.assert_allclose(middle, expected[stage][:, 0], atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------- heads with windows
def test_same_padding_is_tensorflows():
    for size, kernel, stride in [(224, 7, 2), (225, 7, 2), (112, 3, 2), (7, 2, 2), (8, 2, 2), (5, 3, 1)]:
        before, after = blocks.same_padding(size, kernel, stride)
        assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
        assert after - before in (0, 1)


def test_i3d_averages_the_logits_of_its_window():
    model, shape = small("i3d", head_pool=(2, 7, 7))
    clip = (1, 32, 288, 256, 3)
    found = shapes("i3d", clip[1:4], width_mult=0.125)
    assert found["features"][1:4] == (4, 9, 8)
    variables = random_variables(model, shape)
    maps = random_clip((2, 4, 9, 8, found["features"][-1]))
    logits, _ = model.apply(variables, maps, method="run_head")
    positions = model.apply(variables, maps, method="position_logits")
    assert positions.shape == (2, 3, 3, 2, 5)
    np.testing.assert_allclose(logits, positions.mean(axis=(1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(  # a window of the middle position by hand
        positions[0, 1, 1, 1], model.apply(variables, maps[0, 1:3, 1:8, 1:8].mean(axis=(0, 1, 2)),
                                           method="classify"), atol=1e-4)
    small_map = maps[:, :1, :3, :3]
    clipped, _ = model.apply(variables, small_map, method="run_head")
    np.testing.assert_allclose(
        clipped, model.apply(variables, small_map.mean(axis=(1, 2, 3)), method="classify"), atol=1e-4)


def test_x3d_averages_probabilities_as_pyslowfast():
    model, shape = small("x3d_m", head_pool=(4, 2, 2))
    variables = random_variables(model, shape)
    maps = random_clip((2, 4, 3, 4, 36))
    positions = model.apply(variables, maps, method="position_logits")
    assert positions.shape == (2, 1, 2, 3, 5)
    logits, pooled = model.apply(variables, maps, method="run_head")
    expected = jax.nn.softmax(positions).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-6)
    assert pooled.shape == (2, 4, 36)
    one, _ = model.apply(variables, maps[:, :, :2, :2], method="run_head")
    whole, _ = small("x3d_m")[0].apply(variables, maps[:, :, :2, :2], method="run_head")
    np.testing.assert_allclose(one, whole, atol=1e-5)


def test_x3d_starts_with_empty_residual_branches():
    for zero_init, scale in ((True, 0.0), (False, 1.0)):
        model, shape = small("x3d_m", zero_init=zero_init)
        init = jax.jit(lambda key, model=model, shape=shape: model.init(
            key, jnp.zeros(shape))["params"]["layer1_0"]["bn3"])
        assert float(init(jax.random.key(0))["scale"].max()) == scale
    with pytest.raises(ValueError, match="widths=\\(8, 8\\)"):
        shapes("x3d_m", (4, 32, 32), widths=(8, 8))


# ------------------------------------------------------------------------------------------------- TPN
def test_neck_at_other_temporal_scales():
    model, shape = small("tpn_r2plus1d_18", time_scales=(1, 1, 1))
    with pytest.raises(ValueError, match=r"time_scales=\(1, 1, 1\) turn maps of \[4, 2, 1\] frames"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    for options in ({"levels": (1, 2)}, {"time_scales": (8,)}):
        with pytest.raises(ValueError, match="expected ascending stages that end with 4"):
            shapes("tpn_slowonly_resnet50", (8, 32, 32), **options)
    with pytest.raises(ValueError, match="flow='sideways'"):
        shapes("tpn_slowonly_resnet50", (8, 32, 32), flow="sideways")


def test_auxiliary_head_runs_in_training_only():
    model, shape = small("tpn_slowonly_resnet50")
    shape = (2, *shape[1:])
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))

    def features(train):
        return jax.eval_shape(lambda v: model.apply(
            v, jnp.zeros(shape), train=train, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)})[0][1], variables)

    assert "aux_logits" not in features(train=False)
    assert features(train=True)["aux_logits"].shape == (2, 5)
    with_head = cost.count(model, shape[1:])
    without = cost.count(small("tpn_slowonly_resnet50", aux_head=False)[0], shape[1:])
    assert with_head.macs == without.macs and with_head.params > without.params


def test_flows_differ_in_the_second_pyramid():
    cascade, shape = small("tpn_slowonly_resnet50")
    parallel, _ = small("tpn_slowonly_resnet50", flow="parallel")
    variables = random_variables(cascade, shape)
    maps = [random_clip((1, 2, size, size, channels)) for size, channels in ((4, 128), (2, 256))]
    a, b = (jax.jit(lambda m, net=net: net.apply(variables, m, method="run_neck"))(maps)
            for net in (cascade, parallel))
    assert a.shape == (1, 1, 2, 2, 256) and np.abs(a - b).max() > 1e-3


# ---------------------------------------------------------------------------------------------- CorrNet
def test_correlation_by_definition(rng):
    b, t, h, w, c, groups = 2, 3, 5, 4, 6, 3
    x = rng.standard_normal((b, t, h, w, c)).astype(np.float32)
    weight = rng.standard_normal((c, t, 7, 7)).astype(np.float32)
    found = corrnet.Correlation(groups).apply({"params": {"filter_weight": weight}}, jnp.asarray(x))
    assert found.shape == (b, t, h, w, 49 * groups)
    for n, s, y, z, i, j, g in [(0, 0, 0, 0, 3, 3, 0), (1, 2, 4, 1, 2, 4, 2), (0, 1, 2, 3, 4, 2, 1),
                                (1, 1, 0, 0, 0, 0, 1), (0, 2, 3, 2, 3, 2, 0)]:
        p, q = y + 2 * i - 6, z + 2 * j - 6
        inside = 0 <= p < h and 0 <= q < w
        second = x[n, s, p, q] if inside else np.zeros(c)
        products = weight[:, s, i, j] * x[n, max(s - 1, 0), y, z] * second
        expected = products.reshape(groups, -1)[g].mean()
        np.testing.assert_allclose(found[n, s, y, z, (7 * i + j) * groups + g], expected, atol=1e-6)


def test_correlation_belongs_to_one_length_of_clips():
    model, shape = small("corrnet_26")
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(ValueError, match="made for maps of 8 frames here, the clip gives 4"):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 4, *shape[2:])))
    with pytest.raises(ValueError, match="stage 1 has 3 blocks"):
        shapes("corrnet_26", (8, 32, 32), correlations=((3,), (), (), ()))
    with pytest.raises(ValueError, match="one tuple for each of the 4 stages"):
        shapes("corrnet_26", (8, 32, 32), correlations=((2,),))
