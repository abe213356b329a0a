"""ResKD: its losses against a few lines of numpy, a teacher that stays frozen, gradients that flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import reskd_minik
from configs.recipes.base import defaults
from effvid_jax import losses
from effvid_jax.backbones import make_backbone
from effvid_jax.methods import base, reskd
from effvid_jax.tasks import make_task
from tests.made import made

SMALL = dict(width=8, stem="small", stage_sizes=(1, 1), dropout=0.0)


def settings(**changes):
    return reskd.Reskd.Settings(teacher_resolution=0, **changes)


@pytest.fixture(scope="module")
def networks():
    student, teacher = (make_backbone("resnet18", num_classes=5, **SMALL) for _ in range(2))
    clip = jnp.zeros((1, 2, 16, 16, 3))
    init = jax.jit(student.init)  # the same network twice
    return student, teacher, init(jax.random.key(0), clip), init(jax.random.key(1), clip)


def batch(n=4):
    r = np.random.default_rng(0)
    return {"video": jnp.asarray(r.integers(0, 256, (n, 2, 16, 16, 3), dtype=np.uint8)),
            "label": jnp.arange(n) % 5, "mask": jnp.ones(n)}


def value_and_gradient(networks, settings, b):
    student, teacher, vs, vt = networks
    config = defaults()
    config.method, config.model.resolution = settings.to_config(), 8
    loss = reskd.Reskd(config, make_task(config, list("abcde")), (student, teacher, vt)).loss
    variables = base.Variables(vs["params"], vs["batch_stats"], {"teacher": vt})
    return jax.jit(jax.value_and_grad(loss, has_aux=True, argnums=(0, 1)))(
        vs["params"], variables, b, jax.random.key(0))


@pytest.mark.parametrize("loss", reskd.LOSSES)
def test_losses_and_gradients(networks, loss):
    (value, (stats, scalars)), (gradient, by_variables) = value_and_gradient(
        networks, settings(loss=loss), batch())
    np.testing.assert_allclose(value, scalars["loss_cls"] + scalars["loss_kd"], rtol=1e-6)
    assert scalars["loss_kd"] > 0
    norms = {path: float(jnp.linalg.norm(g)) for path, g in jax.tree.leaves_with_path(gradient)}
    assert all(n > 0 for n in norms.values())
    assert all(not g.any() for g in jax.tree.leaves(by_variables.frozen)), "a teacher has no gradient"
    assert jax.tree.structure(stats) == jax.tree.structure(networks[2]["batch_stats"])


def test_feature_loss_is_the_mean_over_all_elements(networks):
    student, teacher, vs, vt = networks
    b = batch()
    x = base.normalise(b["video"])
    (_, out_s), _ = student.apply(vs, base.resize(x, 8), train=True, mutable=["batch_stats"])
    (_, out_t), _ = teacher.apply(vt, x, train=True, mutable=["batch_stats"])
    f_s = np.asarray(base.resize(out_s["features"], 4), np.float64)
    wanted = 100 * np.mean((f_s - np.asarray(out_t["features"], np.float64)) ** 2)
    (_, (_, scalars)), _ = value_and_gradient(networks, settings(), b)
    np.testing.assert_allclose(scalars["loss_kd"], wanted, rtol=1e-5)


def test_teacher_mode_changes_the_features(networks):
    values = [float(value_and_gradient(networks, settings(teacher_bn=mode), batch())[0][0])
              for mode in ("batch", "running")]
    assert abs(values[0] - values[1]) > 1e-3, "batch statistics differ from running ones"


def test_masked_examples_do_not_count(networks):
    """With running statistics everywhere a masked clip must leave no trace; here: in the loss terms."""
    per_example = losses.squared_error(jnp.arange(12.0).reshape(3, 4), jnp.zeros((3, 4)))
    assert losses.weighted_mean(per_example, jnp.array([1.0, 1.0, 0.0])) == per_example[:2].mean()


def test_element_mean_is_torchs_reduction(rng):
    """Swin's released loss: 200 * T^2 * KLDiv(reduction='mean') = 2 * (mean over rows) for 400 classes."""
    z_s, z_t = rng.normal(size=(2, 1, 3, 3, 400)), rng.normal(size=(2, 1, 3, 3, 400))
    identity = lambda x: x  # noqa: E731
    out = [{"features": jnp.asarray(z)} for z in (z_s, z_t)]
    value = 200 * reskd.distillation_loss(settings(loss="position_kl"), *out, identity, identity).mean()

    def log_softmax(z):
        return z / 2 - np.log(np.exp(z / 2).sum(-1, keepdims=True))

    rows = (np.exp(log_softmax(z_t)) * (log_softmax(z_t) - log_softmax(z_s))).sum(-1)
    np.testing.assert_allclose(value, 2 * rows.mean(), rtol=1e-5)


@pytest.mark.parametrize("size", [144, 112, 96, 72, 56])
def test_resize_is_torchs_bilinear_without_antialias(rng, size):
    x = rng.normal(size=(1, 224, 224, 1)).astype(np.float32)  # antialiased, it is off by about 0.5
    position = np.clip((np.arange(size) + 0.5) * 224 / size - 0.5, 0, None)
    low = np.floor(position).astype(int)
    high, w = np.minimum(low + 1, 223), position - low

    def along(a, axis):
        shape = [1] * a.ndim
        shape[axis] = size
        return np.take(a, low, axis) * (1 - w.reshape(shape)) + np.take(a, high, axis) * w.reshape(shape)

    np.testing.assert_allclose(base.resize(x, size), along(along(x, 1), 2), atol=1e-4)


@pytest.mark.parametrize(("field", "value"), [("loss", "mse"), ("teacher_bn", "eval"), ("kl_mean", "sum")])
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"config.method.{field}='{value}': expected one of"):
        settings(**{field: value}).check(defaults())


def test_no_teacher_is_an_error_that_says_what_to_do():
    config = reskd_minik.get_config()
    with pytest.raises(ValueError, match="config.method.teacher is empty.*torch_import"):
        made(config, ['a', 'b'])
