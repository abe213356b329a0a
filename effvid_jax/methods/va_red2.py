"""VA-RED2: every clip decides, layer by layer, how many channels and frames a convolution computes.

Pan et al., "VA-RED2: Video Adaptive Redundancy Reduction", ICLR 2021, arXiv 2102.07887. No code was
published; formulas and tables are known, the rest is a choice of ours, see `effvid_jax/gating/gates.py` (the
gated convolution) and `configs/recipes/va_red2.py` (what is the paper's and what is ours).

    L = CE(logits, y) + lambda_e * L_e
    L_e = ( mu_0 * sum_l C_l / (sum_k C_k) * r_l / R_l )^2         mean over clips

C_l: multiply-adds of gated convolution l; r_l, R_l: ratio and stride of the largest variant in use;
mu_0: 1 for clips that are classified correctly, else 0, without a gradient. r_l / R_l is a step function
of the gates; its gradient is passed straight through (ours).

Cost of a clip: the plain network's, less what the gated convolutions do not compute, plus their cheap
operations and gates; 'gmacs_plain_ops' in `Prediction.extra` leaves the last two out, as the paper seems
to. Gates can fail in three ways. A *dead* layer has no weight left for some clip: it gives zeros, is
counted as 'dead', and since L_e never pushes the last weight down, only the accuracy loss can get there;
`leak` lets it return. *Collapsed* gates decide the same for all clips: the network is then a smaller
static one, which is no error but is told ('varying_layers' = 0). Gates that are *not finite* end training
(the loss is not finite either) and are an error in evaluation.
"""

from __future__ import annotations

import csv
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import console, cost, plots
from effvid_jax.gating import gates
from effvid_jax.losses import cross_entropy, weighted_mean
from effvid_jax.methods import base


def make(config, class_names) -> base.Method:
    """The method of a config; reads `config.model` and `config.method`.

    Raises:
        ValueError: a backbone without gated layers, or a setting that does not fit.
    """
    settings = config.method

    def penalty(params, decisions, logits, batch):
        del params
        return settings.efficiency_weight * weighted_mean(
            efficiency_loss(decisions, logits, batch["label"]), batch["mask"])

    clip_by_clip = settings.form == "compact" and not settings.positions
    return with_decisions(config, class_names, gated_conv(config), penalty, "gate/beta", clip_by_clip)


def with_decisions(config, class_names, conv, penalty, marker: str, clip_by_clip: bool = False):
    """The method of a network whose convolutions decide for every clip what they compute.

    Args:
        config: of the network, and what `base.build_backbone` reads.
        class_names: K names.
        conv: class of convolutions that leave a `Decision` in the collection 'gates'.
        penalty: (params, decisions, logits, batch) -> what is added to the cross-entropy.
        marker: end of the path of a parameter that every such convolution has.
        clip_by_clip: predict with batches of one clip.

    Raises:
        ValueError: no convolution of the network decides anything.
    """
    resolution = config.model.resolution
    model = base.build_backbone(config.model, len(class_names), conv=conv)

    def init(rng, clip_shape):
        params, stats = base.init_backbone(model, rng, clip_shape)
        if not layer_names(params, marker):
            raise ValueError(
                f"config.method.layers={layers(config)!r} matches no convolution of "
                f"{config.model.backbone!r}, or config.method.temporal and channel are both off.")
        return base.Variables(params, stats)

    def loss(params, variables, batch, rng):
        clips = base.resize(base.normalise(batch["video"]), resolution)
        (logits, _), updated = model.apply(
            {"params": params, "batch_stats": variables.stats}, clips, train=True,
            rngs={"dropout": rng}, mutable=["batch_stats", "gates"])
        decisions, mask = list(gates.collect(updated["gates"]).values()), batch["mask"]
        ce = weighted_mean(cross_entropy(logits, batch["label"]), mask)
        efficiency = penalty(params, decisions, logits, batch)
        scalars = {"loss": ce + efficiency, "loss_cls": ce, "loss_efficiency": efficiency,
                   "top1": base.batch_accuracy(logits, batch["label"], mask),
                   **gate_statistics(decisions, mask)}
        return ce + efficiency, (updated["batch_stats"], scalars)

    def run(variables, clips):
        if clip_by_clip and clips.shape[0] != 1:
            found = jax.lax.map(lambda clip: run(variables, clip[None]), clips)
            return jax.tree.map(lambda x: x[:, 0], found)
        (logits, _), state = model.apply(variables, clips, mutable=["gates"])
        return logits, list(gates.collect(state["gates"]).values())

    def predict(variables, batch) -> base.Prediction:
        video = batch["video"]  # (B, V, T, H, W, 3)
        b, v = video.shape[:2]
        clips = base.resize(base.normalise(video.reshape(b * v, *video.shape[2:])), resolution)
        logits, decisions = run(
            {"params": variables.params, "batch_stats": variables.stats}, clips)
        plain, overhead = (x.reshape(b, v).sum(axis=1) for x in clip_gmacs(
            decisions, cost.gmacs(model, clips.shape[1:])))
        extra = {"ratios": jnp.stack([d.ratio for d in decisions], axis=1),
                 "computed": computed_share(decisions),
                 "dead": jnp.stack([is_dead(d) for d in decisions], axis=1).astype(jnp.float32)}
        extra = {name: x.reshape(b, v, *x.shape[1:]).mean(axis=1) for name, x in extra.items()}
        logits = logits.astype(jnp.float32).reshape(b, v, -1)
        return base.Prediction(base.mean_of_views(logits), plain + overhead, {
            "gmacs_plain_ops": plain} | extra | base.clip_answers(logits))

    return base.Method(init=init, loss=loss, predict=predict, resolution=resolution,
                       analyse=partial(analyse, marker=marker))


def gated_conv(config):
    """The convolution class that a config's backbone is built with.

    Raises:
        ValueError: a setting out of its range.
    """
    s = config.method
    for name, least in (("efficiency_weight", 0), ("gate_width", 0), ("leak", 0), ("positions", 0)):
        if s[name] < least:
            raise ValueError(f"config.method.{name}={s[name]}: expected {least} or more.")
    # Configs that were saved before a field existed keep the module's default.
    return partial(gates.GatedConv, layers=layers(config), **{name: s[name] for name in (
        "search_space", "temporal", "channel", "cheap_kernel", "cheap_scale", "gate_width", "beta",
        "beta_reduced", "leak", "form", "positions") if name in s})


def layers(config) -> str:
    """Regular expression of the gated convolutions of a config's backbone."""
    name = config.model.backbone
    if not config.method.layers and name not in gates.GATED_LAYERS:
        raise ValueError(
            f"config.model.backbone={name!r} has no list of gated convolutions. Those that have: "
            f"{sorted(gates.GATED_LAYERS)}. For another one give config.method.layers, a regular "
            f"expression of module paths such as 'layer.*/conv2'.")
    return config.method.layers or gates.GATED_LAYERS[name]


def efficiency_loss(decisions, logits_BK, labels_B):
    """L_e per clip, (B,); zero for clips that are classified wrongly."""
    correct_B = jax.lax.stop_gradient(logits_BK.argmax(axis=-1) == labels_B)
    return jnp.square(correct_B * computed_share(decisions))


def computed_share(decisions):
    """Share of the multiply-adds of all gated convolutions that is computed: (B,)."""
    total = sum(d.macs for d in decisions)
    return sum(d.ratio * (d.macs / total) for d in decisions)


def clip_gmacs(decisions, static: float):
    """(cost without, cost of) cheap operations and gates, 10^9 multiply-adds, each (B,)."""
    saved = sum(d.macs / 1e9 * (1 - d.ratio) for d in decisions)  # `macs` alone may exceed 32 bits
    return static - saved, sum(d.overhead for d in decisions) / 1e9


def is_dead(decision: gates.Decision):
    """Clips for which nothing is left of a convolution: (B,)."""
    return ~((decision.V_c > 0).any(axis=1) & (decision.V_t > 0).any(axis=1))


def gate_statistics(decisions, mask_B) -> dict:
    """Scalars to watch: what is computed, and the signs of gates that fail."""
    ratios_LB = jnp.stack([d.ratio for d in decisions])
    spread_L = (jnp.where(mask_B, ratios_LB, -jnp.inf).max(axis=1)
                > jnp.where(mask_B, ratios_LB, jnp.inf).min(axis=1))
    return {
        "gates/computed": weighted_mean(computed_share(decisions), mask_B),
        "gates/channel_weight": jnp.stack([d.V_c.mean() for d in decisions]).mean(),
        "gates/time_weight": jnp.stack([d.V_t.mean() for d in decisions]).mean(),
        "gates/dead": jnp.stack([weighted_mean(is_dead(d).astype(jnp.float32), mask_B)
                                 for d in decisions]).mean(),
        "gates/varying_layers": spread_L.mean(),
    }


def layer_names(params, marker: str = "gate/beta") -> list[str]:
    """Paths of the convolutions that have a parameter `marker`, in the order of `gates.collect`."""
    flat = {"/".join(str(k.key) for k in path) for path, _ in jax.tree.leaves_with_path(params)}
    found = {path.removesuffix(f"/{marker}") for path in flat if path.endswith(f"/{marker}")}
    return sorted(found, key=gates.natural_order)


# ------------------------------------------------------------------------------------------ analysis
def analyse(rows, variables, workdir: str, split: str, class_names,
            marker: str = "gate/beta") -> dict[str, float]:
    """What the gates did on a split; see `base.Method.analyse`.

    Writes `gate_ratios_<split>.csv` and `.png`: mean share of a convolution that is computed, per class
    and layer (the paper's Fig. 3); and `gate_clips_<split>.csv`: the clip of every class that cost
    most and the one that cost least (Fig. 4).

    Raises:
        ValueError: a gate that is not finite.
    """
    names, ratios_NL = layer_names(variables.params, marker), rows["ratios"]
    bad = ~np.isfinite(ratios_NL)
    if bad.any():
        clip, layer = np.argwhere(bad)[0]
        raise ValueError(f"the gate of {names[layer]} is not finite for video {rows['name'][clip]} ("
                         f"{bad.any(axis=1).sum()} of {len(bad)} videos): these weights are damaged or "
                         f"diverged; train with a lower config.optim.lr or restore an earlier step.")
    varying = float((np.ptp(ratios_NL, axis=0) > 0).mean())
    if varying == 0:
        console.say("gates have collapsed: every clip is computed alike, which a smaller static network "
                    "would do too. config.method.efficiency_weight or optim.lr may be too high.")
    if workdir:
        _write_ratios(os.path.join(workdir, f"gate_ratios_{split}"), names, rows, class_names)
        _write_clips(os.path.join(workdir, f"gate_clips_{split}.csv"), rows, class_names)
    return {"gmacs_plain_ops": float(rows["gmacs_plain_ops"].mean(dtype=np.float64)),
            "computed": float(rows["computed"].mean(dtype=np.float64)), "dead": float(rows["dead"].mean()),
            "varying_layers": varying}


def _write_ratios(path: str, names, rows, class_names) -> None:
    present = [k for k in range(len(class_names)) if (rows["label"] == k).any()]
    means_KL = np.stack([rows["ratios"][rows["label"] == k].mean(axis=0) for k in present])
    with open(path + ".csv", "w", newline="") as f:
        table = csv.writer(f)
        table.writerow(["class", *names])
        table.writerows([class_names[k], *(f"{x:.4f}" for x in means)]
                        for k, means in zip(present, means_KL))
    with open(path + ".png", "wb") as f:
        f.write(plots.heat_map(means_KL, [class_names[k] for k in present], names,
                               "share of the convolution that is computed"))


def _write_clips(path: str, rows, class_names) -> None:
    with open(path, "w", newline="") as f:
        table = csv.writer(f)
        table.writerow(["class", "most", "gmacs_most", "least", "gmacs_least"])
        for k, name in enumerate(class_names):
            (mine,) = np.nonzero(rows["label"] == k)
            if len(mine):
                most, least = (mine[pick(rows["gmacs"][mine])] for pick in (np.argmax, np.argmin))
                table.writerow([name, rows["name"][most], f"{rows['gmacs'][most]:.6g}",
                                rows["name"][least], f"{rows['gmacs'][least]:.6g}"])
