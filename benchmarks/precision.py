"""How far the forward pass in bfloat16 is from float32, for every backbone.

    python benchmarks/precision.py                              # prints the table, minutes on two cores
    python benchmarks/precision.py --write docs/precision.md
    python benchmarks/precision.py --backbones resnet50,x3d_m

Random weights and clips as in the cases of `tests/parity`. The distance is |bfloat16 - float32| /
|float32| in the Euclidean norm over two clips, of the logits and of what the classifier reads. As random
networks answer all clips much alike, the difference is also set beside the one between the two clips.
Two batches of one shape go through the same jitted function, which must have compiled one program.
"""

import argparse
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import flax
import jax
import jax.numpy as jnp
import numpy as np
import tabulate

from effvid_jax import writers
from effvid_jax.backbones import BACKBONES, make_backbone

CLASSES = 16
BOUND = 0.04  # of both distances, for every backbone; the tests assert it
CLIPS = {**dict.fromkeys(("msdnet_38", "msdnet_b4_s4"), (2, 160, 160)),  # others: (8, 64, 64)
         **dict.fromkeys(("stnet_resnet50", "stnet_resnet101", "stnet_se_resnext50"), (10, 64, 64))}
SMALLER = [  # further parameters that training leaves small, with a factor, as in `tests/parity`
    (r"nonlocal\d_\d/bn/scale", 0.25), (r"nonlocal\d_\d/conv_(theta|phi)/kernel", 0.35),
    (r".*relation_bn/scale", 0.15), (r".*reduce/kernel", 0.5),
    (r".*ghost2/\w+/bn/scale", 0.5),
]
HEADER = """# bfloat16 against float32

Written by `python benchmarks/precision.py --write docs/precision.md`; `tests/backbones/test_precision.py`
asserts the bound. `config.model.dtype = "bfloat16"` computes in bfloat16; parameters, running statistics
and the sums inside normalisations, means and softmax stay float32.

The distance is |bfloat16 - float32| / |float32| (Euclidean norm) over two clips, in networks with random
weights; one rounding to bfloat16 is up to 0.004. Random networks answer all clips much alike, trained ones
do not: the third column sets the error of the logits beside the difference between the two clips' logits.
"""


def random_variables(model, shape, seed: int = 0):
    """Variables of the size of trained ones: He-distributed kernels, norms around 1, small branches.

    Args:
        model: a backbone.
        shape: of a clip (B, T, H, W, 3).
        seed: of numpy's generator.

    Returns:
        {'params': ..., 'batch_stats': ...} in float32.
    """
    rng = np.random.default_rng(seed)
    shapes = flax.traverse_util.flatten_dict(
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)))

    def draw(path, leaf):
        gain = next((factor for pattern, factor in SMALLER if re.fullmatch(pattern, "/".join(path[1:]))), 1.0)
        if path[-1] == "scale":
            return gain * _branch_gain(path, shapes) * (0.5 + rng.random(leaf.shape))
        if path[-1] == "var":
            return 0.5 + 1.5 * rng.random(leaf.shape)
        noise = rng.standard_normal(leaf.shape)
        if path[-1] != "kernel":
            return 0.1 * noise
        return gain * np.sqrt((1 if leaf.ndim == 2 else 2) / np.prod(leaf.shape[:-1])) * noise

    return flax.traverse_util.unflatten_dict(
        {path: jnp.asarray(draw(path, leaf), jnp.float32) for path, leaf in shapes.items()})


def _branch_gain(path, shapes) -> float:
    """Factor on a norm that ends a residual branch, which training leaves small against the shortcut."""
    *block, norm, leaf = path
    has_third = (*block, "bn3", leaf) in shapes
    if re.fullmatch(r"layer\d_\d+", path[1]) and norm == ("bn3" if has_third else "bn2"):
        return 0.25
    return {"project_bn": 0.7, "decode_bn": 0.5}.get(norm, 1.0)


def random_clips(shape, seed: int):
    """Noise, one colour per frame and 4x4 enlarged blocks, (B, T, H, W, 3) in float32."""
    (b, t, h, w, c), rng = shape, np.random.default_rng(seed)
    x = 0.5 * rng.standard_normal(shape) + rng.standard_normal((b, t, 1, 1, c))
    rows, columns = np.arange(h) * 4 // h, np.arange(w) * 4 // w
    return jnp.asarray(x + rng.standard_normal((b, t, 4, 4, c))[:, :, rows][:, :, :, columns], jnp.float32)


def measure(name: str, clip=None, **options) -> dict[str, float]:
    """Distances of one backbone.

    Args:
        name: of the backbone.
        clip: (T, H, W); see `CLIPS` by default.
        **options: fields of the backbone.

    Returns:
        'logits' and 'pooled': distances. 'between': the error of the logits over the difference between
        the two clips' logits. 'programs': the most that either type compiled for two batches.
    """
    shape = (2, *(clip or CLIPS.get(name, (8, 64, 64))), 3)
    batches = [random_clips(shape, seed) for seed in (1, 2)]
    variables = random_variables(make_backbone(name, num_classes=CLASSES, **options), shape)
    outputs, programs = [], 0
    for dtype in (None, jnp.bfloat16):
        apply = jax.jit(make_backbone(name, num_classes=CLASSES, dtype=dtype, **options).apply)
        for batch in batches:
            logits, features = apply(variables, batch)
        programs = max(programs, apply._cache_size())
        assert logits.dtype == features["pooled"].dtype == (dtype or jnp.float32)
        outputs.append([np.asarray(x, np.float64) for x in (logits, features["pooled"])])
    (logits, pooled), (half_logits, half_pooled) = outputs
    norm = np.linalg.norm
    return {"logits": norm(half_logits - logits) / norm(logits),
            "pooled": norm(half_pooled - pooled) / norm(pooled),
            "between": norm(half_logits - logits) / np.sqrt(2) / norm(logits[0] - logits[1]),
            "programs": programs}


def table(names) -> str:
    """The table in markdown; rows also go to stderr as they come, as all take minutes."""
    rows = []
    for name in names:
        found = measure(name)
        clip = "x".join(map(str, CLIPS.get(name, (8, 64, 64))))
        rows.append([f"`{name}`", clip, *(f"{found[k]:.4f}" for k in ("logits", "pooled", "between")),
                     found["programs"]])
        print(*rows[-1], file=sys.stderr, flush=True)
        jax.clear_caches()
    header = ("backbone", "clip", "logits", "pooled features", "error / difference between clips",
              "programs for two batches")
    return tabulate.tabulate(rows, header, "github", disable_numparse=True)


def main() -> None:
    """The command; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", help="names with commas (default: all)")
    parser.add_argument("--write", metavar="FILE", help="write the page here instead of printing it")
    args = parser.parse_args()
    names = args.backbones.split(",") if args.backbones else list(BACKBONES)
    page = (f"{HEADER}\nBound for every backbone: {BOUND}. Measured on: {jax.devices()[0].device_kind}, "
            f"jax {jax.__version__}.\n\n{table(names)}\n")
    if args.write:
        writers.write_text(args.write, page)
    else:
        print(page)


if __name__ == "__main__":
    main()
