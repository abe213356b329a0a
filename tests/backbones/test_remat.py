"""Rematerialisation: less memory for gradients, the same values, gradients, statistics and names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import supervised_minik
from effvid_jax.backbones import make_backbone, remat, rematerialised
from effvid_jax.errors import UserError
from effvid_jax.methods import building
from tests.drawn import draw
from tests.environment import EVERY_OPTIMISATION

RESNET = dict(width=8, bottleneck=False, stage_sizes=(2, 2), dropout=0.5)
RESNET3D = dict(RESNET, inflate=(0, 1), time_strides=(1, 1), space_strides=(1, 2), stem_pool=0)
NETWORKS = {
    "resnet18": (dict(RESNET, stem="small", stage_strides=(1, 2)), remat.MODES),
    "slowonly_resnet50": (RESNET3D, ("none", "block")),
    "swin3d_t": (dict(embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=(2, 4, 4), drop_path=0.3),
                 ("none", "block")),
}
TRACED = {
    "tsm_resnet50": dict(width=4, stage_sizes=(2, 2), stem="small", stage_strides=(1, 2)),
    "r2plus1d_18": dict(RESNET3D, inflate=(1, 1)),
    "corrnet_r2plus1d_18": dict(RESNET3D, inflate=(1, 1), correlations=((1,), ())),
    "tpn_slowonly_resnet50": dict(RESNET3D, levels=(1, 2), time_scales=(2, 2), width=32),
    "i3d_nonlocal_resnet50": dict(RESNET3D, nonlocals=((), (0,)), pool2=False),
    "slowfast_8x8_resnet50": dict(width=8, alpha=2, stage_sizes=(2, 2), slow_inflate=(0, 1),
                                  space_strides=(1, 2)),
    "stnet_se_resnext50": dict(width=8, groups=4, stage_sizes=(2, 2), frames_per_image=2),
}
MORE = list(TRACED)[4:]  # with the slow tests


def training(name, mode, options):
    """A training pass, (parameters, clip) -> ((loss, (logits, new statistics)), gradient), and both."""
    model = make_backbone(name, num_classes=5, remat=mode, **options)
    r = np.random.default_rng(0)
    clip = jnp.asarray(r.standard_normal((4, 4, 32, 32, 3)), jnp.float32)
    variables = draw(model, clip)
    stats = variables.get("batch_stats", {})

    def loss(params, clip):
        (logits, _), updated = model.apply(
            {"params": params, "batch_stats": stats}, clip, train=True, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)})
        return jnp.square(logits).sum(), (logits, updated)

    return jax.value_and_grad(loss, has_aux=True), variables["params"], clip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_in_less_memory(name):
    options, modes = NETWORKS[name]
    found, sizes = {}, {}
    for mode in modes:
        step, params, clip = training(name, mode, options)
        as_a_user = {**(remat.compiler_options(mode) or {}), **EVERY_OPTIMISATION}  # in every mode alike
        program = jax.jit(step, compiler_options=as_a_user).lower(params, clip).compile()
        found[mode] = jax.device_get(program(params, clip))
        sizes[mode] = program.memory_analysis().temp_size_in_bytes
    print({mode: f"{size:,}" for mode, size in sizes.items()})
    for mode in modes:
        assert jax.tree.structure(found[mode]) == jax.tree.structure(found["none"]), "names"
        for x, y in zip(jax.tree.leaves(found[mode]), jax.tree.leaves(found["none"])):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * max(1.0, np.abs(y).max()))
    assert sizes["block"] < 0.75 * sizes["none"]
    assert sizes["block"] <= sizes.get("products", sizes["block"]) < 0.95 * sizes["none"]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in MORE else name for name in TRACED])
def test_relatives_keep_their_names(name):
    """Traced, not compiled: the same arrays, and every block is computed again."""
    shapes, barriers = {}, {}
    for mode in ("none", "block"):
        step, params, clip = training(name, mode, TRACED[name])
        lowered = jax.jit(step).lower(params, clip)
        shapes[mode] = jax.tree.map(lambda x: x.shape, lowered.out_info)
        barriers[mode] = lowered.as_text().count("optimization_barrier")
    assert shapes["none"] == shapes["block"]
    assert barriers["none"] == 0 and barriers["block"] >= 4, "a block each"


def test_which_backbones_have_it():
    known = set(rematerialised())
    assert {"resnet152", "tsm_resnet50", "slowonly_resnet50", "swin3d_s", "swin3d_b", "r2plus1d_18",
            "tpn_slowonly_resnet50", "tpn_tsm_resnet50"} <= known
    assert not known & {"x3d_m", "s3d", "mvit_v2_s", "msdnet_38", "mobilenet_v2"}
    for name in known:
        assert make_backbone(name, num_classes=5, remat="block") is not None
    config = supervised_minik.get_config("tiny")
    config.model.update(dict(backbone="x3d_s", options={}, remat="block"))
    with pytest.raises(UserError, match="config.model.remat='block' is not known to 'x3d_s', only to c"):
        building.build_backbone(config.model, 5)
    assert remat.MODES == ("none", "products", "block")


def test_a_wrong_mode_is_named():
    model = make_backbone("resnet18", num_classes=5, remat="blocks", **NETWORKS["resnet18"][0])
    with pytest.raises(UserError, match="remat='blocks': expected one of none, products, block"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 32, 32, 3)))


def test_a_config_says_it():
    config = supervised_minik.get_config("tiny")
    config.model.remat = "products"
    assert building.build_backbone(config.model, 5).remat == "products"
    config.model.exits = {}
    del config.model["remat"]  # saved by older code
    assert building.build_backbone(config.model, 5).remat == "none"
