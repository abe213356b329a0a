"""The exported program for TensorFlow: `--mode=export --config.export.format=savedmodel`.

    import tensorflow as tf
    model = tf.saved_model.load("runs/demo/export/saved_model")
    answer = model.signatures["serving_default"](clips=tf.constant(clips))    # {"output": ..., "gmacs": ...}

Clips are uint8 (B, T, H, W, 3) of any number, as for the program beside it, which is what is written
(StableHLO, by JAX's own `jax2tf`): TensorFlow and TensorFlow Serving run it on the platforms that it was
exported for, its weights as variables. What is written is read again and has to answer a random clip as JAX
does; a network that TensorFlow does not take is an error in one line.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from effvid_jax import writers
from effvid_jax.errors import UserError

FORMAT = "savedmodel"
FOLDER = "saved_model"
TOLERANCE = 1e-5  # largest difference of a probability


def check(form: str) -> None:
    """Raises UserError if TensorFlow is asked for and not there."""
    if form != FORMAT:
        return
    try:
        import tensorflow  # noqa: F401 - takes long, and few want it
    except ImportError as error:
        raise UserError(f"config.export.format={form!r} needs TensorFlow: pip install tensorflow-cpu (or "
                        f"pip install 'effvid_jax[tensorflow]'), or leave it at 'jax'.") from error


def write(folder: str, program: Callable, weights: Mapping[str, np.ndarray], clip: Sequence[int],
          platforms: Sequence[str]) -> float:
    """Writes `folder/saved_model`; how far its answer is from that of `program`.

    Args:
        folder: of the export.
        program: (weights, clips uint8 (b, *clip)) -> (outputs (b, ...), gmacs (b,)), traced.
        weights: arrays by name.
        clip: (T, H, W, 3).
        platforms: that it is compiled for, as `jax.export` calls them.

    Raises:
        UserError: TensorFlow is not there, does not take the program, or answers otherwise.
    """
    check(FORMAT)
    import jax
    import tensorflow as tf
    from jax.experimental import jax2tf

    tf.config.set_visible_devices([], "GPU")  # of this process, whose memory is JAX's
    module = tf.Module()
    module.weights = {name: tf.Variable(x, name=name.replace("/", ".")) for name, x in weights.items()}
    converted = jax2tf.convert(program, polymorphic_shapes=[None, "(b, ...)"], with_gradient=False,
                               native_serialization_platforms=tuple(platforms))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, *clip), tf.uint8, name="clips")])
    def serve(clips):
        outputs, gmacs = converted(dict(module.weights), clips)
        return {"output": outputs, "gmacs": gmacs}

    module.serve = serve
    path, part = os.path.join(folder, FOLDER), os.path.join(folder, f"{FOLDER}.part")
    clips = np.random.default_rng(0).integers(0, 256, (1, *clip), np.uint8)
    shutil.rmtree(part, ignore_errors=True)
    try:
        os.makedirs(folder, exist_ok=True)
        tf.saved_model.save(module, part, signatures={"serving_default": serve})
        answer = tf.saved_model.load(part).signatures["serving_default"](clips=tf.constant(clips))
    except Exception as error:  # of TensorFlow, a full disk among them; its types are many
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"{path} is not written: TensorFlow {tf.__version__} cannot ({type(error).__name__}: "
                        f"{' '.join(str(error).split())[:200]}).") from error
    ours = np.asarray(jax.jit(program)(dict(weights), clips)[0])
    difference = float(np.abs(np.asarray(answer["output"]) - ours).max())
    if not difference <= TOLERANCE:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"{path} is not written: TensorFlow {tf.__version__} answers a random clip otherwise "
                        f"than JAX, by up to {difference:.2g}; expected at most {TOLERANCE:g}.")
    with writers.writing(path):
        shutil.rmtree(path, ignore_errors=True)
        os.rename(part, path)
    return difference
