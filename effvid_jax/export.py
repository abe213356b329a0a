"""A trained network as files that need none of this code: `--mode=export --workdir=DIR`.

`DIR/export/` gets
    model.jaxexport   the program (StableHLO through `jax.export`), for cpu, cuda and tpu and any batch
                      size: (weights, clips uint8 (B,T,H,W,3)) -> (probabilities (B,K), gmacs (B,));
                      normalising and resizing to the network's resolution are part of it
    weights.npz       its arrays by name
    model.json        class names, how to prepare clips, shapes, cost, versions

The weights lie beside the program, not inside: measured for a ResNet-50 on a CPU, a program with its
weights inside takes 96 MB instead of 0.1 MB, 4 s instead of 0.6 s to write and 8 s instead of 3 s to
compile (the compiler folds constants of that size), and it could not hold more than 2 GB.

A network whose clips differ in cost says what each one cost; `gmacs_per_clip` in `model.json` is a black
clip's. Gated convolutions (VA-RED2) save time in the program with `--config.method.form=compact`; in the form
`mixed` everything is computed, and the cost is what the gates ask for. A network with early exits answers as
if it had stopped, but the program computes all of its exits for every clip, and that is the cost it tells;
`exits` in `model.json` says what stopping at each of them would cost.

To read them, `load` in this file needs only jax and numpy (and flatbuffers, for jax):

    model = load("runs/demo/export")
    probabilities, gmacs = model(clips)     # several views of a clip: average their probabilities

Probabilities that are not finite are an error, at export and at every call.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, WEIGHTS, INFO = "model.jaxexport", "weights.npz", "model.json"


class Loaded:
    """An exported network.

    Attributes:
        info: the content of `model.json`.
        class_names: K names.
    """

    def __init__(self, path: str):
        with open(os.path.join(path, INFO)) as f:
            self.info: dict[str, Any] = json.load(f)
        with open(os.path.join(path, PROGRAM), "rb") as f:
            program = jax_export.deserialize(bytearray(f.read()))
        with np.load(os.path.join(path, WEIGHTS)) as arrays:
            self._weights = jax.device_put(dict(arrays))
        self._call = jax.jit(program.call)
        self.class_names: list[str] = self.info["class_names"]

    def __call__(self, clips, check: bool = True):
        """Classifies a batch; compiles once for every batch size.

        Args:
            clips: uint8 RGB (B, T, H, W, 3), sizes as `info["input"]["shape"]` says.
            check: whether the result is waited for and checked; never while this is traced.

        Returns:
            probabilities float32 (B, K), and multiply-adds in 10^9 per clip (B,).

        Raises:
            ValueError: another shape or type; a result that is not finite.
        """
        shape = tuple(self.info["input"]["shape"][1:])
        if clips.ndim != 5 or tuple(clips.shape[1:]) != shape or clips.dtype != np.uint8:
            raise ValueError(f"clips are {clips.dtype} {tuple(clips.shape)}; this network takes uint8 "
                             f"(B, {', '.join(map(str, shape))}).")
        result = self._call(self._weights, clips)
        if check and not isinstance(result[0], jax.core.Tracer):
            for what, x in zip(("probabilities", "gmacs"), result):
                bad = ~np.isfinite(np.asarray(x, np.float32).reshape(len(x), -1)).all(axis=1)
                if bad.any():
                    raise ValueError(
                        f"{what} of clips {np.flatnonzero(bad)[:8].tolist()} of this batch ({bad.sum()} of "
                        f"{len(bad)}) are not finite: the weights of this network ({self.info['name']}, step "
                        f"{self.info['step']}) are damaged or diverged; export an earlier saved step.")
        return result


def load(path: str) -> Loaded:
    """Reads what `export` wrote.

    Args:
        path: the folder `DIR/export`, or the `model.jaxexport` in it.
    """
    return Loaded(os.path.dirname(path) if path.endswith(PROGRAM) else path)


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
        ValueError: no checkpoint, or a damaged one; scores of a black clip that are not finite.
    """
    from flax.traverse_util import flatten_dict, unflatten_dict  # `load` does without flax

    from effvid_jax import checkpoint, evaluate, writers
    from effvid_jax.errors import NotFiniteError
    from effvid_jax.methods import Variables
    from effvid_jax.signals import Signals

    method, variables, saved = evaluate.restore_for_inference(config, workdir)
    weights = {f"{kind}/{name}": np.asarray(x)
               for kind, tree in (("params", variables.params), ("stats", variables.stats))
               for name, x in flatten_dict(tree, sep="/").items()}

    exits = next((runner.segments for runner in method.runners().values() if runner.segments), None)

    def program(weights, clips):
        nested = unflatten_dict(weights, sep="/")
        prediction = method.predict(Variables(nested["params"], nested.get("stats", {})),
                                    {"video": clips[:, None]})
        gmacs = prediction.gmacs
        if exits is not None:  # all of them are computed, whichever answers
            gmacs = jnp.full_like(gmacs, exits.gmacs[-1])
        return method.task.output(prediction.logits), gmacs

    data = config.data
    clip = (data.num_frames, data.test_crop_size, data.test_crop_size, 3)
    exported = jax_export.export(jax.jit(program), platforms=PLATFORMS)(
        {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()},
        jax.ShapeDtypeStruct((*jax_export.symbolic_shape("b"), *clip), np.uint8))
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
        "preprocessing": {
            "frames": {name: data[name] for name in (
                "sampling", "num_frames", "frame_interval", "test_clips", "twice_sample")},
            "resize_short_side": data.test_short_side, "crop": data.test_crop,
            "crop_size": data.test_crop_size, "interpolation": "bilinear, not antialiased",
            "inside_the_program": "normalisation"
            + (f", resize to {method.resolution} pixels" if method.resolution else ""),
            "views": "average the probabilities of a video's clips and crops"},
        "data": reading(data),
        "gmacs_per_clip": float(f"{gmacs:.6g}"),
        **({} if exits is None else {"exits": {
            "gmacs": [float(f"{x:.6g}") for x in exits.gmacs], "full_gmacs": float(f"{exits.full_gmacs:.6g}"),
            "note": "gmacs: of stopping at each exit, which this program does not: it computes all of them, "
                    "the last figure, for every clip; full_gmacs: of the network with its last head alone"}}),
        "params": sum(x.size for name, x in weights.items() if name.startswith("params/")),
        "platforms": list(PLATFORMS), "versions": writers.versions(),
        "calling_convention": exported.calling_convention_version,
    }
    with writers.writing(folder):
        os.makedirs(folder, exist_ok=True)
    # All three or none: a new program with the weights that lay there would answer wrongly.
    with Signals.held(), contextlib.ExitStack() as files:
        described, stored, written = (files.enter_context(writers.whole(os.path.join(folder, name)))
                                      for name in (INFO, WEIGHTS, PROGRAM))
        with open(written, "wb") as f:
            f.write(exported.serialize())
        with open(stored, "wb") as f:
            np.savez(f, **weights)
        with open(described, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(json.dumps(info, indent=2))
    return {"export": folder, "step": saved.step, "gmacs": info["gmacs_per_clip"],
            "params": info["params"], "platforms": info["platforms"],
            "megabytes": {name: round(os.path.getsize(os.path.join(folder, name)) / 1e6, 2)
                          for name in (PROGRAM, WEIGHTS, INFO)}}
