"""Parity of one ResKD training step (`kind: "train_step"`), through the project's method and optimizer.

High-resolution clip -> student on its resize, teacher as is, both in training mode -> losses, gradients,
clipping, one update (as the published configuration executes it, and by the parameter groups that its
constructor writes down) -> losses of the same batch once more.

In float32 only losses and the total gradient norm are compared: batch statistics of a handful of samples
and ReLU make single gradients of the reference itself differ by percents between its precisions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from configs.recipes.base import defaults
from effvid_jax import optim
from effvid_jax.methods import base, reskd
from effvid_jax.tasks import make_task
from tests.parity import forward, golden

LOSSES = {"RKD2DHead": "feature", "RKD3DHead": "feature", "GeneralRKD3DHead": "position_kl"}
LOSS_TOLERANCE = {True: 1e-6, False: 1e-4}  # by x64, relative
NORM_TOLERANCE_F32 = 1e-3  # of the total gradient norm; the reference's own runs differ by 1e-4


@dataclasses.dataclass
class Comparison:
    """Collects errors; see `forward.check` for what becomes of them."""

    worst: float = 0.0
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, what: str, error: float, limit: float) -> None:
        """Records an error, and a problem where it is above `limit`."""
        self.worst = max(self.worst, error)
        if not error <= limit:
            self.problems.append(f"{what} e={error:.1e}")


def settings_of(case: dict[str, Any]) -> reskd.Reskd.Settings:
    """The method's settings of the case.

    Raises:
        golden.Unsupported: an unknown head.
    """
    head = case["arch"]["cls_head"]
    if head["type"] not in LOSSES:
        raise golden.Unsupported(f"head {head['type']}")
    return reskd.Reskd.Settings(
        loss=LOSSES[head["type"]], weight=head.get("w_loss_kd", 1.0), temperature=2.0,
        kl_mean="element", teacher_bn="batch", teacher_resolution=case["input"]["shape"][-2])


def optimizer_of(case: dict[str, Any], groups: str = "") -> ml_collections.ConfigDict:
    """`config.optim` of the case; `groups` overrides the parameter groups that it executes.

    Raises:
        golden.Unsupported: an unknown optimizer.
    """
    options = case["optimizer"]["config"]
    if options["type"] not in ("SGD", "AdamW") or options.get("nesterov"):
        raise golden.Unsupported(f"optimizer {options}")
    if not groups and options.get("paramwise_cfg"):
        groups = "swin" if "custom_keys" in options["paramwise_cfg"] else "tsm"
    return ml_collections.ConfigDict({
        "name": options["type"].lower(), "lr": options["lr"], "momentum": options.get("momentum", 0.0),
        "weight_decay": options.get("weight_decay", 0.0), "groups": groups or "single",
        "clip_norm": case["optimizer"]["grad_clip_max_norm"] or 0.0, "accumulate": 1,
        "schedule": "constant", "milestones": (), "warmup_epochs": 0, "warmup_ratio": 0.1})


def in_torch_layout(tree, keys: dict[str, str], shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Leaves of one of our trees by the reference's key, in its layout."""
    arrays = {}
    for path, leaf in flatten_dict(tree, sep="/").items():
        if path in keys:
            leaf = np.asarray(leaf)
            if path.endswith("kernel"):
                leaf = np.moveaxis(leaf, (-1, -2), (0, 1))  # (*k, I, O) -> (O, I, *k)
            arrays[keys[path]] = leaf.reshape(shapes[keys[path]])
    return arrays


def check(case: dict[str, Any], x64: bool) -> tuple[float, list[str]]:
    """Compares a training step; returns as `forward.check` does."""
    student = forward.build_recognizer(case["arch"])
    if student.teacher is None:
        raise golden.Unsupported("a training step of another method than ResKD")
    state, x = golden.build_state(case), golden.build_input(case)
    if student.segments not in (0, x.shape[1]):
        raise golden.Unsupported(f"{x.shape[1]} frames for num_segments={student.segments}")
    with forward.precision(x64):
        return _check(case, student, student.teacher, state, x, x64)


def _check(case, student, teacher, state, x, x64: bool) -> tuple[float, list[str]]:
    found = Comparison()
    labels = jnp.asarray(case["input"]["labels"])
    batch = {"video": jnp.asarray(x, jnp.float64 if x64 else jnp.float32), "label": labels,
             "mask": jnp.ones(len(x))}
    weights, keys = forward.load(student, state, x64, part="student")
    frozen, keys_teacher = forward.load(teacher, state, x64, part="teacher")
    keys = {path: key.replace("backbone.", "backbone.low_res_path.") for path, key in keys.items()}
    keys_teacher = {path: key.replace("backbone.", "backbone.high_res_path.")
                    for path, key in keys_teacher.items()}
    variables = base.Variables(weights["params"], weights["batch_stats"], {"teacher": frozen})
    config = defaults()
    config.model.resolution, config.method = student.low, settings_of(case).to_config()
    method = reskd.Reskd(config, make_task(config, []), (student.model, teacher.model, frozen))
    step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))

    def run(params):
        (_, (stats, scalars)), gradient = step(params, variables, batch, jax.random.key(0))
        return stats, scalars, gradient

    stats, scalars, gradient = run(variables.params)
    _check_losses(found, "", case["losses"], scalars, x64)
    norm = float(jax.jit(optax.tree.norm)(gradient))
    found.add("total gradient norm",
              golden.relative_error(norm, case["grad"]["total_norm_before_clip"]),
              1e-6 if x64 else NORM_TOLERANCE_F32)
    if not x64:
        return found.worst, found.problems

    teacher_stats = _check_forward(found, case, student, teacher, variables, batch)
    shapes = {key: shape for key, shape, _ in case["state"]}
    gradients = in_torch_layout(gradient, keys, shapes)
    _check_gradients(found, case, gradients)
    _check_frozen(found, case, keys_teacher)
    running = {**in_torch_layout(stats, keys, shapes),
               **in_torch_layout(teacher_stats, keys_teacher, shapes)}
    for key, reference in case["running_stats_after_step"]:
        found.add(f"after the step, norm of {key}",
                  golden.relative_error(np.linalg.norm(running[key]), reference), 1e-6)

    if case["grad"]["clip_factor"] is not None:
        clip = optim.clip_by_global_norm(case["optimizer"]["grad_clip_max_norm"])
        clipped = jax.jit(lambda g: optax.tree.norm(clip.update(g, clip.init(g))[0]))(gradient)
        found.add("clip factor", golden.relative_error(clipped / norm, case["grad"]["clip_factor"]), 1e-6)

    before = in_torch_layout(variables.params, keys, shapes)
    rules = [("", 2, "param_after", "losses_after_step")]
    if "losses_after_step_grouped_rule" in case:
        rules.append(("tsm", 6, "param_after_grouped_rule", "losses_after_step_grouped_rule"))
    for groups, column, sample_name, losses_name in rules:
        config = optimizer_of(case, groups)
        tx = optim.make_optimizer(config, steps_per_epoch=1, num_steps=1)
        params = jax.jit(lambda g, p, tx=tx: optax.apply_updates(
            p, tx.update(g, tx.init(p), p)[0]))(gradient, variables.params)
        after = in_torch_layout(params, keys, shapes)
        factors = [{keys[path]: factor for path, factor in flatten_dict(tree, sep="/").items()}
                   for tree in optim.group_factors(params, config.groups)]
        for row in case["per_parameter"]:
            key, (lr, decay, moved, size) = row[0], row[column:column + 4]
            what = f"update by groups={config.groups}, {key}"
            found.add(f"{what}: learning rate",
                      golden.relative_error(config.lr * factors[0][key], lr), 1e-9)
            found.add(f"{what}: weight decay",
                      golden.relative_error(config.weight_decay * factors[1][key], decay), 1e-9)
            found.add(f"{what}: its norm",
                      golden.relative_error(np.linalg.norm(after[key] - before[key]), moved), 1e-6)
            found.add(f"{what}: norm of the parameter",
                      golden.relative_error(np.linalg.norm(after[key]), size), 1e-6)
        for key, sample in case["samples"].items():
            found.add(f"update by groups={config.groups}, samples of {key}",
                      _sample_error(after[key], sample[sample_name]), 1e-6)
        _check_losses(found, f"after the update by groups={config.groups}, ", case[losses_name],
                      run(params)[1], x64)
    return found.worst, found.problems


def _check_losses(found: Comparison, when: str, expected, scalars, x64: bool) -> None:
    names = {"loss": "loss", "loss_cls": "loss_cls", "loss_kd": "loss_kd", "top1_acc": "top1"}
    for theirs, ours in names.items():
        found.add(f"{when}{theirs}", golden.relative_error(scalars[ours], expected[theirs]),
                  LOSS_TOLERANCE[x64])


def _check_forward(found: Comparison, case, student, teacher, variables, batch):
    """Inputs, maps and logits of both networks in training mode; returns the teacher's statistics."""

    @jax.jit
    def both(variables, video):
        low = base.resize(video, student.low)
        (logits, out_s), _ = student.model.apply(
            {"params": variables.params, "batch_stats": variables.stats}, low, train=True,
            mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
        (_, out_t), updated = teacher.model.apply(
            variables.frozen["teacher"], video, train=True, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)})
        f_s, f_t = out_s["features"], out_t["features"]
        return logits, {
            "student_input": low, "student_features": f_s, "teacher_features": f_t,
            "student_features_resized": base.resize(f_s, f_t.shape[-2])}, updated

    logits, maps, updated = both(variables, batch["video"])
    for name, stored in case["features"].items():
        value = maps[name].reshape(stored["shape"]) if name in maps else np.zeros(())
        found.add(f"feature {name}", golden.fingerprint_error(value, stored), 1e-6)
    found.add("logits", golden.output_error(logits, case["outputs"]["logits"]), 1e-6)
    top5 = np.argsort(-np.asarray(logits), axis=1)[:, :5] == np.asarray(batch["label"])[:, None]
    found.add("top5_acc", abs(top5.any(axis=1).mean() - case["losses"]["top5_acc"]), 1e-9)
    return updated.get("batch_stats", {})


def _check_gradients(found: Comparison, case, gradients) -> None:
    def norm(arrays):
        return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))

    for block, reference in case["grad"]["block_norms"].items():
        arrays = [g for key, g in gradients.items() if key.startswith(block + ".")]
        found.add(f"gradient norm of {block}", golden.relative_error(norm(arrays), reference), 1e-6)
    rows = {row[0]: row[1] for row in case["per_parameter"]}
    if rows.keys() != gradients.keys():
        found.problems.append(f"trained parameters differ: {sorted(rows.keys() ^ gradients.keys())[:5]}")
    for key in rows.keys() & gradients.keys():
        found.add(f"gradient norm of {key}",
                  golden.relative_error(norm([gradients[key]]), rows[key]), 1e-6)
    for key, sample in case["samples"].items():
        found.add(f"gradient samples of {key}", _sample_error(gradients[key], sample["grad"]), 1e-6)


def _check_frozen(found: Comparison, case, keys_teacher) -> None:
    """The teacher's parameters are those that the reference leaves without a gradient."""
    ours = {key for path, key in keys_teacher.items() if path.split("/")[-1] not in ("mean", "var")}
    frozen = case["params_without_gradient"]  # the head's are those of the teacher's classifier
    expected = frozen["teacher_count"] + len(frozen.get("student_or_head", ()))
    if len(ours) != expected:
        found.problems.append(f"the teacher has {len(ours)} frozen tensors, the reference {expected}")


def _sample_error(array, sample) -> float:
    """Relative L2 distance of the stored samples of a tensor in PyTorch's layout."""
    ours = array.reshape(-1)[golden.positions(array.size, len(sample))]
    return float(np.linalg.norm(ours - np.asarray(sample)) / (np.linalg.norm(sample) or 1.0))
