"""The exported program for TensorFlow: `--mode=export --config.export.format=savedmodel`, or `tflite`.

    import tensorflow as tf
    model = tf.saved_model.load("runs/demo/export/saved_model")
    answer = model.signatures["serving_default"](clips=tf.constant(clips))    # {"output": ..., "gmacs": ...}

Clips are uint8 (B, T, H, W, 3), as for the program beside it, which is what is written (StableHLO, by JAX's
own `jax2tf`): TensorFlow and TensorFlow Serving run a SavedModel on the platforms that it was exported for,
with any number of clips, its weights as variables. `model.tflite`, for LiteRT on phones and the like, takes
one clip, since its converter does not know open shapes. What is written is read again and has to answer a
random clip as JAX does; a network that the converter does not know is an error in one line.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from effvid_jax import writers
from effvid_jax.errors import UserError

FORMATS = ("savedmodel", "tflite")
TOLERANCE = 1e-5  # largest difference of a probability


def check(form: str) -> None:
    """Raises UserError if TensorFlow is asked for and not there."""
    if form not in FORMATS:
        return
    try:
        import tensorflow  # noqa: F401 - takes long, and few want it
    except ImportError as error:
        raise UserError(f"config.export.format={form!r} needs TensorFlow: pip install tensorflow-cpu (or "
                        f"pip install 'effvid_jax[tensorflow]'), or leave it at 'jax'.") from error


def write(form: str, folder: str, program: Callable, weights: Mapping[str, np.ndarray], clip: Sequence[int],
          platforms: Sequence[str]) -> float:
    """Writes `folder/saved_model` or `folder/model.tflite`; how far its answer is from that of `program`.

    Args:
        form: one of `FORMATS`.
        folder: of the export.
        program: (weights, clips uint8 (b, *clip)) -> (outputs (b, ...), gmacs (b,)), traced.
        weights: arrays by name.
        clip: (T, H, W, 3).
        platforms: that it is compiled for, as `jax.export` calls them.

    Raises:
        UserError: TensorFlow is not there, does not take the program, or answers otherwise.
    """
    check(form)
    import jax
    import tensorflow as tf
    from jax.experimental import jax2tf

    tf.config.set_visible_devices([], "GPU")  # of this process, whose memory is JAX's
    lite = form == "tflite"
    path = os.path.join(folder, "model.tflite" if lite else "saved_model")
    module = tf.Module()
    module.weights = {name: tf.Variable(x, name=name.replace("/", ".")) for name, x in weights.items()}
    converted = jax2tf.convert(
        program, polymorphic_shapes=None if lite else [None, "(b, ...)"], with_gradient=False,
        native_serialization_platforms=("cpu",) if lite else tuple(platforms))

    @tf.function(autograph=False, input_signature=[
        tf.TensorSpec((1 if lite else None, *clip), tf.uint8, name="clips")])
    def serve(clips):
        outputs, gmacs = converted(dict(module.weights), clips)
        return {"output": outputs, "gmacs": gmacs}

    module.serve = serve
    clips = np.random.default_rng(0).integers(0, 256, (1, *clip), np.uint8)
    ours = np.asarray(jax.jit(program)(dict(weights), clips)[0])
    try:
        theirs = (_write_lite if lite else _write_saved_model)(tf, path, module, clips)
    except (OSError, UserError):
        raise
    except Exception as error:  # of the converter, whose types are many
        raise UserError(f"{path} is not written: TensorFlow {tf.__version__} does not take this network "
                        f"({type(error).__name__}: {' '.join(str(error).split())[:200]}).") from error
    difference = float(np.abs(np.asarray(theirs) - ours).max())
    if not difference <= TOLERANCE:
        raise UserError(f"{path}: TensorFlow {tf.__version__} answers a random clip otherwise than JAX, by "
                        f"up to {difference:.2g}; expected at most {TOLERANCE:g}. Do not use it.")
    return difference


def _write_saved_model(tf, path: str, module, clips):
    """Writes it; the answer of what is written."""
    part = f"{path}.part"
    shutil.rmtree(part, ignore_errors=True)
    with writers.writing(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        tf.saved_model.save(module, part, signatures={"serving_default": module.serve})
        shutil.rmtree(path, ignore_errors=True)
        os.rename(part, path)
    return tf.saved_model.load(path).signatures["serving_default"](clips=tf.constant(clips))["output"]


def _write_lite(tf, path: str, module, clips):
    """Writes it; the answer of what is written."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.serve.get_concrete_function()], module)
    content = converter.convert()
    with writers.writing(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    writers.write_bytes(path, content)
    runner = tf.lite.Interpreter(model_content=content).get_signature_runner()
    return runner(clips=clips)["output"]
