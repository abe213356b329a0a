"""ResKD: its losses against a few lines of numpy, a teacher that stays frozen, gradients that flow."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import reskd_actnet, reskd_fcvid, reskd_folder, reskd_minik, reskd_sthv2
from configs.recipes.base import defaults
from effvid_jax import checkpoint, losses, torch_import
from effvid_jax.backbones import make_backbone
from effvid_jax.errors import UserError
from effvid_jax.methods import base, reskd
from effvid_jax.tasks import make_task
from tests.environment import EVERY_OPTIMISATION
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
    x = base.Sight()(b["video"])
    (_, out_s), _ = student.apply(vs, base.resize(x, 8), train=True, mutable=["batch_stats"])
    (_, out_t), _ = teacher.apply(vt, x, train=True, mutable=["batch_stats"])
    f_s = np.asarray(base.resize(out_s["features"], 4), np.float64)
    wanted = 100 * np.mean((f_s - np.asarray(out_t["features"], np.float64)) ** 2)
    (_, (_, scalars)), _ = value_and_gradient(networks, settings(), b)
    np.testing.assert_allclose(scalars["loss_kd"], wanted, rtol=1e-5)


def of_other_shape(**changes):
    """ResKD from a teacher with twice the channels and a half of the frames, and its abstract variables."""
    student = make_backbone("resnet18", num_classes=5, **SMALL)
    teacher = make_backbone("slowonly_resnet50", num_classes=5, bottleneck=False, width=16, dropout=0.0,
                            stage_sizes=(1, 1), inflate=(0, 0), time_strides=(2, 1), space_strides=(1, 2))
    clip = jax.ShapeDtypeStruct((1, 2, 16, 16, 3), jnp.float32)
    config = defaults()
    config.method, config.model.resolution = settings(**changes).to_config(), 8
    method = reskd.Reskd(config, make_task(config, list("abcde")), (
        student, teacher, jax.eval_shape(teacher.init, jax.random.key(0), clip)))
    shape = (4, *clip.shape[1:])
    return method, lambda: jax.eval_shape(lambda key: method.init(key, shape), jax.random.key(0))


def test_a_projection_lets_maps_of_other_widths_and_lengths_be_subtracted():
    method, init = of_other_shape(projection=True)
    variables = init()
    assert variables.params[reskd.PROJECTION]["kernel"].shape == (16, 32)
    gradient = jax.eval_shape(jax.grad(method.loss, has_aux=True), variables.params, variables, batch(),
                              jax.random.key(0))[0]
    assert jax.tree.structure(gradient) == jax.tree.structure(variables.params)


@pytest.mark.parametrize("loss", ["position_kl", "frame_kl", "clip_kl"])
def test_class_scores_of_other_widths_and_lengths_are_compared(loss):
    method, init = of_other_shape(loss=loss)
    variables = init()
    assert reskd.PROJECTION not in variables.params
    assert jax.eval_shape(method.loss, variables.params, variables, batch(), jax.random.key(0))[0].shape == ()


def test_without_a_projection_other_widths_are_refused():
    with pytest.raises(UserError, match=r"2 frames x 16 channels .* 1 x 32: .*config.method.projection=True"):
        of_other_shape()[1]()
    with pytest.raises(UserError, match="projection=True has no meaning with config.method.loss='clip_kl'"):
        of_other_shape(projection=True, loss="clip_kl")


def test_a_longer_map_is_averaged_to_the_teachers_length():
    f_s, f_t = np.random.default_rng(0).standard_normal((2, 8, 2, 2, 3)), np.zeros((2, 4, 2, 2, 7))
    found = reskd.like_teachers(jnp.asarray(f_s, jnp.float32), f_t)
    np.testing.assert_allclose(found, f_s.reshape(2, 4, 2, 2, 2, 3).mean(axis=2), rtol=1e-5, atol=1e-6)


def test_evaluation_leaves_the_projection_behind(tmp_path):
    tree = {"fc": {"bias": np.zeros(2, np.float32)}, reskd.PROJECTION: {"kernel": np.ones(3, np.float32)}}
    checkpoint.save_imported(str(tmp_path), {"params": tree, "batch_stats": {}}, defaults(), ["a", "b"])
    assert set(checkpoint.load_variables(str(tmp_path))[1]["params"]) == {"fc"}


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


@pytest.mark.parametrize(("shape", "size"), [
    ((2, 8, 16, 16, 3), 8), ((3, 24, 24, 5), 8), ((20, 20, 3), 4), ((4, 12, 12, 1), 2), ((2, 9, 9, 2), 1),
    ((2, 6, 12, 3), 3), ((2, 7, 7, 3), 7)])
def test_a_whole_number_of_pixels_becomes_one_without_a_product(rng, shape, size):
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)

    def product(x):
        return jax.image.resize(x, (*shape[:-3], size, size, shape[-1]), "bilinear", antialias=False)

    program = jax.jit(base.resize, static_argnums=1).lower(x, size).as_text()
    assert "dot_general" not in program
    for ours, theirs in ((base.resize(x, size), product(x)), jax.tree.map(
            lambda f: jax.grad(lambda x: (f(x) ** 2).sum())(x), (lambda x: base.resize(x, size), product))):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    half = x.astype(jnp.bfloat16)
    assert base.resize(half, size).dtype == jnp.bfloat16


@pytest.mark.parametrize(("field", "value"), [("loss", "mse"), ("teacher_bn", "eval"), ("kl_mean", "sum")])
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"config.method.{field}='{value}': expected one of"):
        settings(**{field: value}).check(defaults())


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Workdir of a teacher from a PyTorch file, imported without switches."""
    out = str(tmp_path_factory.mktemp("imported") / "teacher")
    file = Path(__file__).parents[1] / "unit" / "fixtures" / "torchvision_stream.pth"
    assert torch_import.main(["--backbone", "resnet50", "--checkpoint", str(file), "--out", out,
                              "--resolution", "16", "--options", '{"width": 2, "stage_sizes": [1, 1]}']) == 0
    return out


def distilled(teacher, **changes):
    config = defaults()
    config.data.batch_size = 8
    config.model.update(dict(resolution=16, backbone="resnet50"))
    config.model.options = dict(width=2, stage_sizes=(1, 1))
    config.method = settings(teacher=teacher, **changes).to_config()
    return reskd.Reskd(config, make_task(config, list("abcd")))


def test_a_teachers_statistics_are_of_as_many_clips_as_it_says(imported):
    """Of 8 clips, 4 and 4 are normalised apart, on any number of devices; 0: as the teacher was saved."""
    x = base.Sight()(batch(8)["video"])

    def features(method, x):
        (_, out), _ = jax.jit(lambda v, x: method.guide.of_batch(len(x)).apply(
            v, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}),
            compiler_options=EVERY_OPTIMISATION)(method.guide.variables, x)  # digits are compared
        return np.asarray(out["features"])

    four, saved, all_ = (distilled(imported, teacher_clips=n) for n in (4, 0, 8))
    halves = np.concatenate([features(all_, x[:4]), features(all_, x[4:])])
    np.testing.assert_allclose(features(four, x), halves, rtol=1e-5, atol=1e-6)
    together = features(all_, x)
    assert np.abs(together - halves).max() > 1e-3 and saved.guide.of_batch(8) is saved.guide.teacher
    groups = {n: four.guide.of_batch(n).bn_groups for n in (8, 4, 12, 2, 3)}
    assert groups == {8: 2, 4: 1, 12: 3, 2: 1, 3: 1}, "batches of other sizes, as the benchmark times them"
    asked = []
    four.guide.of_batch = lambda n: asked.append(n) or four.guide.teacher
    variables = jax.eval_shape(lambda: four.init(jax.random.key(0), (8, 2, 16, 16, 3)))
    jax.eval_shape(lambda v: four.loss(v.params, v, batch(8), jax.random.key(0))[0], variables)
    assert asked == [8], "the loss goes through it"


def test_a_teacher_has_a_dtype_of_its_own(imported, capsys):
    assert distilled(imported).guide.teacher.dtype is None and distilled(
        imported, teacher_dtype="bfloat16").guide.teacher.dtype == jnp.bfloat16
    assert "the teacher computes in bfloat16, the student in float32" in capsys.readouterr().err
    distilled(imported, teacher_dtype="float32")
    assert "computes in" not in capsys.readouterr().err


def test_recipes_have_the_references_groups():
    """8 clips a GPU there; the small forms and one's own clips train their teacher, which stays as it is."""
    for module in (reskd_actnet, reskd_fcvid, reskd_minik, reskd_sthv2):
        assert module.get_config().method.teacher_clips == 8
        assert {module.get_config(form).method.teacher_clips for form in ("tiny", "demo")} == {0}
    assert reskd_folder.get_config().method.teacher_clips == 0
    assert settings().teacher_clips == 0, "what older configs mean"
    config = reskd_minik.get_config()
    for size in (4, 8, 64):
        config.data.batch_size = size
        reskd.Reskd.Settings.read(config.method).check(config)
    config.data.batch_size = 12
    with pytest.raises(UserError, match="teacher_clips=8 does not divide config.data.batch_size=12.*or 0"):
        reskd.Reskd.Settings.read(config.method).check(config)
    config.method.teacher_bn = "running"
    reskd.Reskd.Settings.read(config.method).check(config)


def test_no_teacher_is_an_error_that_says_what_to_do():
    config = reskd_minik.get_config()
    with pytest.raises(ValueError, match="config.method.teacher is empty.*torch_import"):
        made(config, ['a', 'b'])
