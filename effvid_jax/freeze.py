"""Gates that decide the same for every clip, made static: `--mode=freeze --workdir=RUN --out=DIR`.

The result is a workdir: it evaluates, predicts, exports and is frozen further as any other. `--share=0.99`
also freezes layers in which one clip of a hundred decides otherwise; `--keep_gates` leaves the gates of
frozen layers where they are, see `gating/freezing.py`. What is frozen is chosen on one split (`--split`) and
scored on 'val', before and after.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os

import jax
import numpy as np
import tabulate

import data_pipelines
from effvid_jax import checkpoint, console, evaluate, sharding, train, writers
from effvid_jax.errors import UserError
from effvid_jax.gating import freezing
from effvid_jax.methods import Variables, make_method
from effvid_jax.methods.clips import over_views
from effvid_jax.methods.va_red2 import VaRed2


def freeze(config, workdir: str, folder: str, split: str = "val", share: float = 1.0,
           keep_gates: bool = False) -> dict:
    """Writes the frozen network.

    Args:
        config: of the run.
        workdir: of the trained network.
        folder: the workdir of the frozen one.
        split: whose clips show which decisions vary.
        share: a layer is frozen if at least this share of the clips decides alike.
        keep_gates: whether the gates of frozen layers stay.

    Returns:
        What is printed: 'freeze' (the folder), 'layers', 'frozen', and of the network before ('before/...')
        and after 'val/top1', 'val/gmacs' and 'params'; 'largest_change' of a score of a video.

    Raises:
        UserError: nothing to freeze; a folder in use; a method without such gates.
    """
    if not 0 < share <= 1:
        raise UserError(f"--share={share}: expected more than 0, at most 1 (a share of the clips).")
    if os.path.isdir(os.path.join(folder, "checkpoints")):
        raise UserError(f"--out={folder} holds a network already: name another folder.")
    method, variables, saved = evaluate.restore_for_inference(config, workdir)
    if not isinstance(method, VaRed2):
        other = config.method.name == "combined"
        why = "whose gates are not frozen" if other else "which has no gates to freeze"
        raise UserError(f"--workdir={workdir} was trained with method {config.method.name!r}, {why}: "
                        f"expected a run of va_red2.")
    mesh = sharding.make_mesh()
    variables = sharding.replicate(variables, mesh)
    seen = weights_of(config, method, variables, mesh, split)
    already = freezing.read(method.settings.frozen)
    seen = {path: weights for path, weights in seen.items() if path not in already}
    entries = freezing.freeze(seen, share, keep_gates)
    _tell(seen, entries)
    if not entries:
        best = max(map(freezing.agreement, seen.values()), default=0)
        raise UserError(f"no layer decides alike for {share:.0%} of the clips of {split!r}: "
                        f"--share={np.floor(1000 * best) / 1000:g} would freeze one.")

    new = config.copy_and_resolve_references()
    with new.unlocked():
        new.model = saved.model
        new.init.checkpoint = ""
        new.method = dataclasses.replace(
            method.settings, frozen=(*method.settings.frozen, *entries)).to_config()
    frozen = make_method(new, method.task, inference=True)
    params, stats = jax.device_get((variables.params, variables.stats))
    params, stats = freezing.frozen_arrays(params, stats, entries, seen)
    with contextlib.closing(checkpoint.Checkpointer(folder)) as checkpointer:
        checkpointer.save(saved.step, {"params": params, "stats": stats, "step": np.asarray(saved.step)}, new,
                          saved.class_names)
    train.describe_run(new, folder, saved.class_names)
    train.write_parameters(folder, params)
    return {"freeze": folder, "layers": len(seen) + len(already), "frozen": len(already) + len(entries),
            **_compare(new, folder, mesh, (method, variables), (frozen, Variables(params, stats)),
                       saved.step)}


def weights_of(config, method: VaRed2, variables: Variables, mesh, split: str) -> dict[str, freezing.Seen]:
    """{path of a layer: weights of every clip}, all views of all videos of a split."""
    opened = data_pipelines.open_split(config.data, split).with_targets(method.task.targets)

    @jax.jit
    def look(variables, video):
        return over_views(lambda x: [(d.V_c, d.V_t) for d in method.decisions(variables.network, x)],
                          video, method.sight, config.data.views_per_pass)

    found: list[list] = []
    with (opened.batches(training=False) as batches, sharding.Prefetch(batches, mesh) as ahead,
          console.bar(batches.num_steps, f"gates {opened.name}", "batch", leave=False) as progress):
        for batch, here in ahead:
            real = np.repeat(np.asarray(here["mask"]) > 0, batch["video"].shape[1])
            found.append([[np.asarray(V)[real] for V in pair] for pair in look(variables, batch["video"])])
            progress.update()
    names = method.layer_names(variables.params)
    return {name: freezing.Seen(*(np.concatenate([batch[i][axis] for batch in found]) for axis in (0, 1)))
            for i, name in enumerate(names)}


def _tell(seen, entries) -> None:
    frozen = freezing.read(entries)
    lines = []
    for path, weights in seen.items():
        fixed = frozen.get(path)
        lines.append([path, f"{freezing.agreement(weights):.4f}", f"{freezing.spread(weights):.2g}",
                      "" if fixed is None else f"1/{2**fixed.ratio}",
                      "" if fixed is None else f"1/{2**fixed.stride}"])
    console.say(tabulate.tabulate(
        lines, ("layer", "clips that agree", "spread of their weights", "channels", "frames"), "github",
        disable_numparse=True))


def _compare(config, folder: str, mesh, before_it, after_it, step: int) -> dict:
    """Evaluates both networks, (method, variables), on 'val'; the second one's result is its workdir's."""
    (old, old_variables), (new, new_variables) = before_it, after_it
    before = evaluate.Evaluator(config, old, mesh)
    rows = before.rows(old_variables, old.runners()[old.runner], "before", step)
    score = before.score(rows, old.resolution)
    after = evaluate.Evaluator(config, new, mesh)
    new_variables = sharding.replicate(new_variables, mesh)
    result = after.evaluate(new_variables, new.runners()[new.runner], folder, step=step)
    params = {name: train.count_parameters(v.params) for name, v in (
        ("before", old_variables), ("after", new_variables))}
    evaluate.write_result(folder, {"step": step, **result, "params": params["after"]})
    with np.load(os.path.join(folder, "predictions_val.npz")) as found:
        change = float(np.abs(found["scores"] - rows.arrays["scores"]).max())
    names = (old.task.headline, "gmacs", "gmacs_per_clip")
    told = {f"before/{name}": score[name] for name in names} | {f"val/{name}": result[f"val/{name}"]
                                                                for name in names}
    told |= {"before/params": params["before"], "params": params["after"], "largest_change": change}
    writers.write_json(os.path.join(folder, "freeze.json"), told)
    return told
