"""A trained network as files that need none of this code: `--mode=export --workdir=DIR`.

`DIR/export/` gets
    model.jaxexport   the program (StableHLO through `jax.export`), for cpu, cuda and tpu and any batch
                      size: (weights, clips uint8 (B,T,H,W,3)) -> (probabilities (B,K), gmacs (B,));
                      normalising and resizing to the network's resolution are part of it
    weights.npz       its arrays by name
    model.json        class names, how to prepare clips, shapes, cost, versions
    load.py           a copy of `exported.py`: reads all this, and prepares clips, with jax and numpy alone
    segment<k>.jaxexport  of a network with early exits, its k-th part
    saved_model/      for TensorFlow, with `config.export.format=savedmodel`: see `export_tensorflow.py`

The weights lie beside the program, not inside: measured for a ResNet-50 on a CPU, a program with its
weights inside takes 96 MB instead of 0.1 MB, 4 s instead of 0.6 s to write and 8 s instead of 3 s to
compile (the compiler folds constants of that size), and it could not hold more than 2 GB.

A network whose clips differ in cost says what each one cost; `gmacs_per_clip` in `model.json` is a black
clip's. Gated convolutions (VA-RED2) save time in the program with `--config.method.form=compact`; in the form
`mixed` everything is computed, and the cost is what the gates ask for. The program of a network with early
exits answers a batch as if every clip had stopped, but computes all of its exits, and that is the cost it
tells. Its segments, run one after the other until a score reaches its threshold (`exits` in `model.json` has
thresholds, frames and cost), save what they leave out: `stop_early` of the loader.

Probabilities that are not finite are an error, at export and at every call.
"""

from __future__ import annotations

import contextlib
import json
import os

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from effvid_jax import checkpoint, evaluate, export_tensorflow, exported, writers
from effvid_jax.errors import NotFiniteError
from effvid_jax.exits.programs import scored
from effvid_jax.exported import INFO, PROGRAM, SEGMENT, WEIGHTS, load  # noqa: F401 - load: its first home
from effvid_jax.methods import Variables
from effvid_jax.methods.clips import Sight
from effvid_jax.signals import Signals

PLATFORMS = ("cpu", "cuda", "tpu")
LOADER = "load.py"


def preprocessing(data, sight: Sight) -> dict:
    """How a video becomes the clips of evaluation, as numbers; `exported.Loaded.prepare` follows them."""
    return {
        "frames": {name: data[name] for name in (
            "sampling", "num_frames", "frame_interval", "test_clips", "twice_sample")},
        "resize_short_side": data.test_short_side, "crop": data.test_crop, "crop_size": data.test_crop_size,
        "quality": data.get("quality", 0), "interpolation": "bilinear, not antialiased",
        "normalisation": {name: list(values) for name, values in sight.pixels._asdict().items()},
        "inside_the_program": "normalisation" + (
            f", resize to {sight.resolution} pixels" if sight.resolution else ""),
        "views": "average the probabilities of a video's clips and crops"}


def reading(data) -> dict:
    """`config.data` as far as it says how any video is read: without where those of training are."""
    where = [name for name in data
             if name.endswith(("root", "_list")) or name in ("classes_file", "tfds_name")]
    return {**data.to_dict(), **dict.fromkeys(where, ""), "synthetic": {}}


def export(config, workdir: str, folder: str) -> dict:
    """Writes the files.

    Args:
        config: how clips are read in evaluation (`config.data`).
        workdir: of a trained network.
        folder: where they go.

    Returns:
        What is printed: folder, step, cost, sizes of the files in MB.

    Raises:
        UserError: TensorFlow is asked for and is not there.
        ValueError: no checkpoint, or a damaged one; scores of a black clip that are not finite.
    """
    form = config.get("export", {}).get("format", "jax")
    export_tensorflow.check(form)
    method, variables, saved = evaluate.restore_for_inference(config, workdir)
    weights = {f"{kind}/{name}": np.asarray(x)
               for kind, tree in (("params", variables.params), ("stats", variables.stats))
               for name, x in flatten_dict(tree, sep="/").items()}

    exits = next((runner.segments for runner in method.runners().values() if runner.segments), None)

    def program(weights, clips):
        prediction = method.predict(_variables(weights), {"video": clips[:, None]})
        # Of exits all are computed, whichever answers.
        gmacs = prediction.gmacs if exits is None else exits.all_segments(prediction)
        return method.task.output(prediction.logits), gmacs

    data = config.data
    clip = (data.num_frames, data.test_crop_size, data.test_crop_size, 3)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    clips = jax.ShapeDtypeStruct((*jax_export.symbolic_shape("b"), *clip), np.uint8)
    programs = {PROGRAM: jax_export.export(jax.jit(program), platforms=PLATFORMS)(shapes, clips)}
    if exits is not None:
        programs |= _segments(exits, method.task, shapes, clips)
    output, gmacs = jax.device_get(jax.jit(program)(weights, np.zeros((1, *clip), np.uint8)))
    if not (np.isfinite(output).all() and np.isfinite(gmacs).all()):
        raise NotFiniteError("(a black clip)", "scores", f"the network at step {saved.step}")
    gmacs = float(gmacs[0])
    info = {
        "name": config.name, "step": saved.step, "class_names": list(saved.class_names),
        "model": checkpoint.to_json(saved.model),
        "input": {"shape": ["batch", *clip], "dtype": "uint8", "colours": "RGB",
                  "axes": "batch, frames, height, width, colours"},
        "output": [method.task.output_title, "gmacs (batch)"],
        "preprocessing": preprocessing(data, method.sight),
        "data": reading(data),
        "gmacs_per_clip": float(f"{gmacs:.6g}"),
        **({} if exits is None else {"exits": {
            "gmacs": [float(f"{x:.6g}") for x in exits.gmacs], "full_gmacs": float(f"{exits.full_gmacs:.6g}"),
            "own_gmacs": exits.own_costs,
            "steps": [[step.start, step.stop] for step in exits.steps], "order": list(exits.order),
            "thresholds": np.asarray(exits.thresholds(variables), np.float64).tolist(),
            "note": "gmacs: of stopping at each exit, which the segments do and the whole program does not: "
                    "it computes all of them, the last figure, for every clip; with own_gmacs a clip's gates "
                    "leave out a part of it, and its state says what it cost; full_gmacs: of the network "
                    "with its last head alone; steps: the frames, by their place in `order`, that a segment "
                    "is given beside the state of the one before; a clip stops where its score reaches the "
                    "threshold"}}),
        "params": sum(x.size for name, x in weights.items() if name.startswith("params/")),
        "platforms": list(PLATFORMS), "versions": writers.versions(),
        "calling_convention": programs[PROGRAM].calling_convention_version,
    }
    with writers.writing(folder):
        os.makedirs(folder, exist_ok=True)
    # All or none: a new program with the weights that lay there would answer wrongly.
    with Signals.held(), contextlib.ExitStack() as files:
        described, stored, loader, *written = (files.enter_context(writers.whole(os.path.join(folder, name)))
                                               for name in (INFO, WEIGHTS, LOADER, *programs))
        for part, made in zip(written, programs.values(), strict=True):
            with open(part, "wb") as f:
                f.write(made.serialize())
        with open(exported.__file__, "rb") as source, open(loader, "wb") as f:
            f.write(source.read())
        with open(stored, "wb") as f:
            np.savez(f, **weights)
        with open(described, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(json.dumps(info, indent=2))
    more = {} if form != export_tensorflow.FORMAT else {
        f"{form}_difference": export_tensorflow.write(folder, program, weights, clip, PLATFORMS)}
    return {"export": folder, "step": saved.step, "gmacs": info["gmacs_per_clip"],
            "params": info["params"], "platforms": info["platforms"], **more,
            "megabytes": {name: round(os.path.getsize(os.path.join(folder, name)) / 1e6, 2)
                          for name in (*programs, WEIGHTS, INFO)}}


def _variables(weights) -> Variables:
    """Those of a network, of arrays by name."""
    nested = unflatten_dict(weights, sep="/")
    return Variables(nested["params"], nested.get("stats", {}))


def _segments(exits, task, shapes, clips) -> dict:
    """{file: program} of the parts of a network with exits.

    A part takes weights, the state of the one before ({} first) and the frames that are new to it, if there
    are any: (state, probabilities (b, K), score (b,)).
    """
    programs, state = {}, {}
    for k, step in enumerate(exits.steps, start=1):
        def part(weights, state, *frames, step=step):
            state, logits = step.run(_variables(weights), state, frames[0] if frames else None)
            return state, task.output(logits), scored(exits.score, state, logits)

        b, _, *pixels = clips.shape
        new = step.stop - step.start
        frames = [jax.ShapeDtypeStruct((b, new, *pixels), clips.dtype)] if new else []
        made = jax_export.export(jax.jit(part), platforms=PLATFORMS)(shapes, state, *frames)
        state = jax.tree.unflatten(made.out_tree, [
            jax.ShapeDtypeStruct(x.shape, x.dtype) for x in made.out_avals])[0]
        programs[SEGMENT.format(k)] = made
    return programs
