"""Weights of ours under the names and in the layouts of PyTorch code bases, as safetensors.

    python -m effvid_jax.torch_export --workdir runs/teacher --out teacher.safetensors
    python -m effvid_jax.torch_export --workdir runs/teacher --out teacher.safetensors \
        --layout "torchvision ResNet"

The inverse of `effvid_jax.torch_import`, through the same tables (`torch_import/naming.py`): what is imported
and written again is the file it came from, bit for bit, and the other way round; the file is read back before
the command says that it is there. `torch.nn.Module.load_state_dict(safetensors.torch.load_file(FILE))` takes
it. Needs no PyTorch.

A network that several code bases have is written as the first of `LAYOUTS` has it, or as `--layout` says. An
array without a name there, such as a gate's, is an error that lists all of them;
`--skip REGEX` leaves them out, and says so. Of a network with early exits the backbone is written. What the
reference computes itself is not in the file: counters (`num_batches_tracked`), which PyTorch does without,
and a Swin's `relative_position_index`, for which `load_state_dict(..., strict=False)` is needed.

Layouts: convolution (*k, I, O) -> (O, I, *k); linear (I, O) -> (O, I), or a 1x1x1 convolution where the
reference has one; scale, bias, mean, var -> weight, bias, running_mean, running_var, unchanged.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from effvid_jax import checkpoint, writers
from effvid_jax.backbones import make_backbone
from effvid_jax.errors import UserError
from effvid_jax.signals import told
from effvid_jax.torch_import.conversion import convert, make_matcher
from effvid_jax.torch_import.loading import load_torch_state
from effvid_jax.torch_import.naming import LEAVES, NAMING, our_paths

# Backbones -> code bases that have them, the one that is written first. Others: all that name every array.
LAYOUTS = {
    r"(tsm_)?resnet\d+": ("mmaction2 ResNet", "torchvision ResNet", "TSM repository ResNet"),
    r"slowonly_.*|i3d_resnet50": ("mmaction2 ResNet", "PySlowFast ResNet"),
    r"r2plus1d_34|tpn_.*": ("mmaction2 ResNet",),
    r"i3d_nonlocal_resnet50": ("PySlowFast ResNet",), r"slowfast_.*": ("PySlowFast SlowFast",),
    r"bninception": ("TSM repository BN-Inception",), r"trn_bninception": ("TRN-pytorch",),
    r"mfnet_3d": ("PyTorch-MFNet",), r"artnet_18": ("ARTNet",), r"eco_lite": ("ECO-pytorch",),
    r"stnet_.*": ("Pytorch-StNet",), r"ghostnet": ("timm GhostNet",),
    r"(tsm_)?mobilenet_v2": ("mmaction2 MobileNetV2", "torchvision MobileNetV2",
                             "TSM repository MobileNetV2"),
    r"(tsm_)?mobilenet_v3_large": ("timm MobileNetV3-Large",),
    r"(tsm_)?mobilenet_v3_small": ("timm MobileNetV3-Small",),
    r"(tsm_)?mobilenet_v4_conv_small": ("timm MobileNetV4-Conv",),
    r"movinet_a\d": ("MoViNet-pytorch",), r"movinet_a\d_stream": ("MoViNet-pytorch, stream",),
    r"i[rp]_csn_\d+": ("mmaction2 ResNet",), r"uniformer_\w": ("UniFormer",),
    r"videomae_\w": ("transformers VideoMAE",), r"vjepa2_\w": ("transformers V-JEPA2",),
    r"(tsm_)?efficientnet_lite0": ("EfficientNet-Lite-PyTorch, lite0",),
    r"efficientnet_lite[12]": ("EfficientNet-Lite-PyTorch, lite1 and lite2",),
    r"r3d_18|mc3_18": ("torchvision VideoResNet",), r"r2plus1d_18": ("torchvision R(2+1)D",),
    r"i3d": ("pytorch-i3d",), r"i3d_tp": ("IBM I3D",), r"s3d": ("torchvision S3D",),
    r"x3d_\w": ("mmaction2 X3D", "PySlowFast X3D"), r"corrnet_.*": ("tefandasy/CorrNet",),
    r"swin3d_\w": ("Video Swin", "torchvision Video Swin"), r"mvit_.*": ("torchvision MViT",),
    r"msdnet_.*": ("MSDNet-PyTorch",), r"dilated_resnet18": ("torchvision ResNet",),
}
# Layers of ours that are convolutions of another rank there: pattern of the module -> axes of its weights.
_CONVOLUTIONS = {"pytorch-i3d": ("fc", 5), "torchvision S3D": ("fc", 5), "PySlowFast X3D": ("fc1", 5),
                 "Pytorch-StNet": ("xception/.*", 3), "MoViNet-pytorch": (r"fc1?|.*/se/fc\d", 5),
                 "MoViNet-pytorch, stream": (r"fc1?|.*/se/fc\d", 4),
                 **dict.fromkeys(("timm MobileNetV3-Large", "timm MobileNetV3-Small",
                                  "timm MobileNetV4-Conv"), ("conv_head", 4))}
# Leaf here -> leaf in the file; others, such as a gate's, are nobody else's.
_THEIRS = {**{ours: theirs for theirs, leaves in LEAVES.items() for ours in leaves},
           **{name: name for name in ("class_token", "rel_pos_t", "rel_pos_h", "rel_pos_w", "filter_weight",
                                      "relative_position_bias_table", "alpha", "query_tokens")}}
_WRAPPED = ".net"  # TSM wraps the convolution that reads shifted frames, MSDNet most of its layers
_READS_SHIFTED = ("conv1", "expand_conv", "expand_bn")


class NoNames(UserError):
    """Arrays that a layout has no name for; the message lists all of them."""


@dataclasses.dataclass
class Written:
    """What an export did.

    Attributes:
        layout: the table of `NAMING`.
        others: further ones that have a name for every array.
        keys: path here -> key in the file.
        left_out: paths here that `skip` waives.
    """

    layout: str
    others: list[str]
    keys: dict[str, str]
    left_out: list[str]


def torch_state(variables: Mapping[str, Any], backbone_name: str = "", *, layout: str = "",
                skip: Sequence[str] = (), shifted: Collection[str] = ()
                ) -> tuple[dict[str, np.ndarray], Written]:
    """Variables of a backbone as a PyTorch state.

    Args:
        variables: {'params': ..., 'batch_stats': ...}; of a network with early exits its 'backbone' is taken.
        backbone_name: a key of `BACKBONES`, for `LAYOUTS` and messages.
        layout: a key of `NAMING`; '' for the first of `LAYOUTS`, or the first that names every array.
        skip: regular expressions of our paths ('fc/kernel') that are left out, matched whole.
        shifted: blocks whose input is shifted in time, see `shifted_blocks`.

    Returns:
        Key -> array in PyTorch's layout, contiguous, of the array's own type; and what was done.

    Raises:
        NoNames: arrays without a name.
        UserError: an unknown layout, a bad expression.
    """
    arrays = {"/".join(path[1:]): np.asarray(x) for path, x in flatten_dict(dict(variables)).items()}
    arrays = {_inside(path): x for path, x in arrays.items()}
    waives = make_matcher(skip)
    left_out = [path for path in arrays if waives(path)]
    paths = [path for path in arrays if path not in left_out]
    known = next((names for pattern, names in LAYOUTS.items() if re.fullmatch(pattern, backbone_name)),
                 tuple(NAMING))
    if layout and layout not in NAMING:
        raise UserError(f"--layout {layout!r} is not known. Known: {', '.join(NAMING)}.")
    found = {name: _keys(paths, name, shifted) for name in ((layout,) if layout else known)}
    whole = [name for name, keys in found.items() if len(keys) == len(paths)]
    chosen = whole[0] if whole else max(found, key=lambda name: len(found[name]))
    missing = [path for path in paths if path not in found[chosen]]
    if missing or not paths:
        raise NoNames(
            f"{len(missing)} of {len(paths)} arrays of {backbone_name or 'this network'} have no name in "
            f"{chosen!r}{'' if layout else ', the layout that fits best'}: {', '.join(missing)}. "
            f"--skip REGEX leaves them out, --layout NAME writes another one.")
    state = {key: _to_torch(arrays[path], path, chosen) for path, key in found[chosen].items()}
    return state, Written(chosen, [name for name in whole if name != chosen], found[chosen], left_out)


def shifted_blocks(model: nn.Module, frames: int = 8, resolution: int = 224) -> set[str]:
    """Paths of the blocks ('layer1_0') of a backbone whose input is shifted in time (TSM). Traced only."""
    found = set()

    def look(call, args, kwargs, context):
        block, result = context.module, call(*args, **kwargs)
        if block.path and getattr(block, "shift", None) is not None and getattr(block, "shortcut", True):
            found.add("/".join(block.path))
        return result

    with nn.intercept_methods(look):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, frames, resolution, resolution, 3)))
    return found


def _inside(path: str) -> str:
    """A path within the backbone, where that is a part of a network with exits or a task's head."""
    return re.sub("^(backbone|trunk)/", "", path)


# --------------------------------------------------------------------------------------------- names
_GROUP = re.compile(r"\((?!\?)((?:[^()]|\(\?:[^()]*\))*)\)")  # of a pattern, that its replacement names
_NAMED = re.compile(r"\\(\d)|\\g<(\d)>")  # in a replacement
_SAME = r"\g<0>"  # the replacement of modules that are called alike


def _keys(paths: Sequence[str], layout: str, shifted: Collection[str]) -> dict[str, str]:
    """{path here: key in the file} of the paths that a layout names, each with a key of its own."""
    keys: dict[str, str] = {}
    for path in paths:
        module, _, leaf = path.rpartition("/")
        net = _WRAPPED if _is_wrapped(module, shifted) else ""
        names = (f"{name}.{_THEIRS[leaf]}" for name in _modules(module, layout, net) if leaf in _THEIRS)
        if key := next((key for key in names if path in our_paths(key, NAMING[layout])), None):
            keys[path] = key  # it would be read as this array
    return keys if len(set(keys.values())) == len(keys) else {}


def _modules(ours: str, layout: str, net: str) -> Iterator[str]:
    """Modules of a layout that its rules turn into `ours`."""
    for pattern, theirs in _inverse(layout):
        if found := pattern.fullmatch(ours):
            yield from (name.format(*found.groups(), net=net) if name else ours for name in theirs)


@functools.cache
def _inverse(layout: str) -> list[tuple[re.Pattern, list[str]]]:
    """(pattern of our path, forms of the file's module name) of each rule; '' is a name that stays.

    A rule names all groups of its pattern in its replacement (a test says so): exchanged, they make the
    inverse rule. What may be there in a file is there: the prefix 'backbone.', and '.net' where it belongs.
    """
    rules = []
    for pattern, replacement in NAMING[layout]:
        if replacement == _SAME:
            rules.append((re.compile(pattern), [""]))
            continue
        groups, number = _GROUP.findall(pattern), itertools.count()
        ours = _NAMED.sub(lambda m, groups=groups: f"({groups[int(m[1] or m[2]) - 1]})", replacement)
        place = [int(a or b) - 1 for a, b in _NAMED.findall(replacement)]  # group -> its place in ours
        theirs = _GROUP.sub(lambda m, n=number, place=place: f"{{{place.index(next(n))}}}", pattern)
        theirs = theirs.replace(r"(?:\.net)?", "{net}").replace(r"(?:backbone\.)?", r"backbone\.")
        rules.append((re.compile(ours), theirs.replace("\\.", ".").split("|")))
    return rules


def _is_wrapped(module: str, shifted: Collection[str]) -> bool:
    block, _, last = module.rpartition("/")
    return bool(re.match(r"blocks_0_0/layers_[1-9]", module)) or block in shifted and last in _READS_SHIFTED


def _to_torch(array: np.ndarray, path: str, layout: str) -> np.ndarray:
    """An array as PyTorch has it: the inverse of the import's transposition."""
    module, _, leaf = path.rpartition("/")
    if leaf == "kernel" and array.ndim > 1:
        array = np.moveaxis(array, (-1, -2), (0, 1))  # (*k, I, O) -> (O, I, *k)
        pattern, axes = _CONVOLUTIONS.get(layout, ("", 0))
        if re.fullmatch(pattern, module):
            array = array.reshape(*array.shape[:axes], *(1,) * (axes - array.ndim))
    return np.ascontiguousarray(array).reshape(array.shape)  # numpy makes a vector of a number


# ------------------------------------------------------------------------------------------- command
def main(argv: Sequence[str] | None = None) -> int:
    """Command line, see the module docstring; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m effvid_jax.torch_export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workdir", required=True, help="of a training run, or the --out of effvid_jax.torch_import")
    add("--out", required=True, metavar="FILE.safetensors", help="what is written")
    add("--layout", default="", help=f"one of {', '.join(NAMING)}; default: the first that fits")
    add("--skip", action="append", default=[], nargs="+", metavar="REGEX",
        help="arrays of ours that are left out ('fc/.*')")
    add("--step", type=int, default=0, help="of the checkpoint; default: the newest")
    args = parser.parse_args(argv)
    try:
        print(_run(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args) -> str:
    """Restores, writes and reads back; returns the report."""
    if not args.out.endswith(".safetensors"):
        raise UserError(f"--out {args.out}: expected a name that ends in .safetensors.")
    saved, variables = checkpoint.load_variables(args.workdir, args.step or None)
    model, skip = saved.model, [pattern for group in args.skip for pattern in group]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in model.options.to_dict().items()}
    side = model.resolution or saved.config.get("data", {}).get("crop", 224)
    network = make_backbone(model.backbone, num_classes=saved.num_classes, **options)
    if hasattr(network, "shift") and model.get("exits", {}).get("shift", "none") != "none":
        network = make_backbone(model.backbone, num_classes=saved.num_classes, **{**options, "shift": True})
    shifts = "tsm" in model.backbone or getattr(network, "shift", None) is not None
    shifted = shifted_blocks(network, resolution=side) if shifts else ()
    state, written = torch_state(variables, model.backbone, layout=args.layout, skip=skip, shifted=shifted)
    metadata = {"format": "pt", "layout": written.layout, "backbone": model.backbone}
    with writers.whole(args.out) as part:
        safetensors.numpy.save_file(state, part, metadata)
        _check(part, model.backbone, variables, written)
    lines = [f"{args.workdir}, step {saved.step}: {model.backbone} with {saved.num_classes} classes -> "
             f"{args.out}", f"written as {written.layout}: {len(state)} tensors, "
             f"{sum(x.size for x in state.values()):,} values; read back, they are the same"]
    if written.others and not args.layout:
        lines.append(f"further layouts (--layout): {', '.join(written.others)}")
    if written.left_out:
        lines.append(f"left out ({len(written.left_out)}): {', '.join(written.left_out)}")
    return "\n".join(lines)


def _check(path: str, backbone: str, variables, written: Written) -> None:
    """Raises UserError unless the import finds in a file, bit for bit, what was written."""
    flat = {(kind, *_inside("/".join(names)).split("/")): np.asarray(x)
            for (kind, *names), x in flatten_dict(dict(variables)).items()}
    flat = {names: x for names, x in flat.items() if "/".join(names[1:]) in written.keys}
    found = flatten_dict(convert(backbone, load_torch_state(path), unflatten_dict(flat)))
    for names, x in flat.items():
        if found[names].tobytes() != x.tobytes():
            raise UserError(f"{path}: read back, {'/'.join(names)} is another array: choose another --layout "
                            f"than {written.layout!r}.")


if __name__ == "__main__":
    sys.exit(told(main))
