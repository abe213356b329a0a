"""Names of published PyTorch checkpoints and ours, as data: one short table per convention.

A file's key is `<module>.<leaf>`, such as `backbone.layer1.0.conv1.bn.running_var`. A table maps
the module to ours (the first rule whose pattern matches the whole module name wins), `LEAVES` maps
the leaf. The importer tries all tables and takes the one that fits, so a new backbone only adds a
table, and none where its modules are named like an existing one's (mmaction2's 3-D ResNets).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Rules = list[tuple[str, str]]  # (pattern of the file's module name, our module path)

CLASSIFIER = "fc"  # every backbone of ours names its last linear layer so

# Leaf in the file -> leaf here; the one that the model has at that place is taken. Leaves that are
# not listed (position tables, class tokens) keep their name and layout.
LEAVES = {"weight": ("kernel", "scale"), "bias": ("bias",), "running_mean": ("mean",),
          "running_var": ("var",)}

# Buffers without a counterpart: counters, and index tables that the model computes.
DROPPED = r"(?:.*\.)?(?:num_batches_tracked|relative_position_index|attn_mask)"

# ResKD students carry their teacher along: part -> (its backbone, its classifier). The teacher's
# classifier is there in the Swin pair only.
PARTS = {"student": ("low_res_path", "fc_cls"), "teacher": ("high_res_path", "fc_cls_t")}

_MOBILENET_BLOCKS = [f"layer{s}_{b}" for s, size in enumerate((1, 2, 3, 4, 3, 3, 1), start=1)
                     for b in range(size)]


def _mobilenet_blocks(prefix: str, first: dict[str, str], others: dict[str, str]) -> Rules:
    """torchvision numbers MobileNetV2's blocks 1 to 17; the first one has no expansion."""
    return [(rf"{prefix}features\.{n}\.conv\.{theirs}", f"{block}/{ours}")
            for n, block in enumerate(_MOBILENET_BLOCKS, start=1)
            for theirs, ours in (first if n == 1 else others).items()]


NAMING: dict[str, Rules] = {
    "mmaction2 ResNet": [  # TSN, SlowOnly, I3D; TSM wraps the first convolution: `.net`
        (r"(?:backbone\.)?conv1\.conv", "conv1"),
        (r"(?:backbone\.)?conv1\.bn", "bn1"),
        (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv(\d)\.conv(?:\.net)?", r"layer\1_\2/conv\3"),
        (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv(\d)\.bn", r"layer\1_\2/bn\3"),
        (r"(?:backbone\.)?layer(\d)\.(\d+)\.downsample\.(conv|bn)", r"layer\1_\2/downsample_\3"),
        (r"cls_head\.fc_cls", "fc"),
    ],
    "torchvision ResNet": [
        (r"(conv1|bn1|fc)", r"\1"),
        (r"layer(\d)\.(\d+)\.((?:conv|bn)\d)", r"layer\1_\2/\3"),
        (r"layer(\d)\.(\d+)\.downsample\.0", r"layer\1_\2/downsample_conv"),
        (r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample_bn"),
    ],
    "TSM repository ResNet": [  # mit-han-lab/temporal-shift-module; head `fc` without dropout
        (r"base_model\.(conv1|bn1)", r"\1"),
        (r"base_model\.layer(\d)\.(\d+)\.((?:conv|bn)\d)(?:\.net)?", r"layer\1_\2/\3"),
        (r"base_model\.layer(\d)\.(\d+)\.downsample\.0", r"layer\1_\2/downsample_conv"),
        (r"base_model\.layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample_bn"),
        (r"new_fc|base_model\.fc", "fc"),
    ],
    "mmaction2 MobileNetV2": [
        (r"(?:backbone\.)?conv(1|2)\.conv", r"conv\1"),
        (r"(?:backbone\.)?conv(1|2)\.bn", r"bn\1"),
        (r"(?:backbone\.)?layer1\.0\.conv\.0\.(conv|bn)", r"layer1_0/depthwise_\1"),
        (r"(?:backbone\.)?layer1\.0\.conv\.1\.(conv|bn)", r"layer1_0/project_\1"),
        (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv\.0(?:\.net)?\.(conv|bn)", r"layer\1_\2/expand_\3"),
        (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv\.1\.(conv|bn)", r"layer\1_\2/depthwise_\3"),
        (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv\.2\.(conv|bn)", r"layer\1_\2/project_\3"),
        (r"cls_head\.fc_cls", "fc"),
    ],
    "torchvision MobileNetV2": [
        (r"features\.0\.0", "conv1"), (r"features\.0\.1", "bn1"),
        (r"features\.18\.0", "conv2"), (r"features\.18\.1", "bn2"),
        (r"classifier\.1", "fc"),
        *_mobilenet_blocks(
            "",
            {r"0\.0": "depthwise_conv", r"0\.1": "depthwise_bn", "1": "project_conv",
             "2": "project_bn"},
            {r"0\.0": "expand_conv", r"0\.1": "expand_bn", r"1\.0": "depthwise_conv",
             r"1\.1": "depthwise_bn", "2": "project_conv", "3": "project_bn"}),
    ],
    "TSM repository MobileNetV2": [  # block layout of tonylins/pytorch-mobilenet-v2
        (r"base_model\.features\.0\.0", "conv1"), (r"base_model\.features\.0\.1", "bn1"),
        (r"base_model\.features\.18\.0", "conv2"), (r"base_model\.features\.18\.1", "bn2"),
        (r"new_fc|base_model\.classifier", "fc"),
        *_mobilenet_blocks(
            r"base_model\.",
            {"0": "depthwise_conv", "1": "depthwise_bn", "3": "project_conv", "4": "project_bn"},
            {r"0(?:\.net)?": "expand_conv", "1": "expand_bn", "3": "depthwise_conv",
             "4": "depthwise_bn", "6": "project_conv", "7": "project_bn"}),
    ],
}


def our_paths(key: str, rules: Rules) -> list[str]:
    """Paths that `key` may have here ('conv1/kernel', 'conv1/scale'); [] if no rule matches."""
    module, _, leaf = key.rpartition(".")
    for pattern, replacement in rules:
        if found := re.fullmatch(pattern, module):
            path = found.expand(replacement)
            return [f"{path}/{name}".lstrip("/") for name in LEAVES.get(leaf, (leaf,))]
    return []


def best_naming(
        state: Mapping[str, Any], wanted: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, str], list[str]]:
    """The table that maps most tensors of a file.

    Args:
        state: keys of the file.
        wanted: paths that the model has; None counts every path that a table can name.

    Returns:
        Convention, {path here: key in the file}, and the keys that found no place.
    """
    best: tuple[str, dict[str, str], list[str]] | None = None
    for convention, rules in NAMING.items():
        sources: dict[str, str] = {}
        unused = []
        for key in state:
            if re.fullmatch(DROPPED, key):
                continue
            path = next((path for path in our_paths(key, rules)
                         if path not in sources and (wanted is None or path in wanted)), None)
            if path is None:
                unused.append(key)
            else:
                sources[path] = key
        if best is None or len(sources) > len(best[1]):
            best = (convention, sources, unused)
    return best


def select_part(
        state: Mapping[str, Any], part: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """One network of a ResKD student file, in plain mmaction2 names.

    Args:
        state: any state; others than ResKD students pass through.
        part: 'student' (the default) or 'teacher'.

    Returns:
        The state of that network, and sentences for the report.

    Raises:
        ValueError: unknown part, or a part of a file that has none.
    """
    if part is not None and part not in PARTS:
        raise ValueError(f"part={part!r}: expected one of {sorted(PARTS)}.")
    if not any(key.startswith("backbone.low_res_path.") for key in state):
        if part:
            raise ValueError(f"part={part!r}, but this is no ResKD student: no key begins with "
                             f"backbone.low_res_path. Leave the part out.")
        return dict(state), []
    backbone, head = PARTS[part or "student"]
    moves = ((f"backbone.{backbone}.", "backbone."), (f"cls_head.{head}.", "cls_head.fc_cls."))
    chosen = {new + key.removeprefix(old): value for key, value in state.items()
              for old, new in moves if key.startswith(old)}
    if part == "teacher":
        return chosen, [
            "this teacher comes from a ResKD student file. Its running statistics have drifted: it "
            "ran on batch statistics during distillation, which moved them. The teacher's own file "
            "is better"]
    return chosen, [f"the student of a ResKD file; {len(state) - len(chosen)} tensors of its "
                    f"teacher are left out"]
