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

from effvid_jax.errors import UserError
from effvid_jax.torch_import import (
    naming_adafocus,
    naming_frameexit,
    naming_mobile,
    naming_policies,
    naming_transformers,
)
from effvid_jax.torch_import.naming_tables import TABLES

Rules = list[tuple[str, str]]  # (pattern of the file's module name, our module path)

CONTAINERS = ("state_dict", "model_state", "model_state_dict", "model")  # of weights in training checkpoints
CLASSIFIER = "fc"  # every backbone of ours names its last linear layer so

# Leaf in the file -> leaf here; the one that the model has at that place is taken. Leaves that are
# not listed (position tables, class tokens) keep their name and layout. Published VideoMAE files have the
# biases of queries and values beside the layers that they belong to.
LEAVES = {"weight": ("kernel", "scale"), "bias": ("bias",), "running_mean": ("mean",),
          "running_var": ("var",), "q_bias": ("query/bias",), "v_bias": ("value/bias",),
          **{f"{leaf}_{theirs}_l0": (f"{ours}/{name}",)  # of one layer of PyTorch's recurrences
             for theirs, ours in (("ih", "input"), ("hh", "hidden"))
             for leaf, name in (("weight", "kernel"), ("bias", "bias"))},
          **naming_policies.LEAVES}

# Without a counterpart: counters, index tables that the model computes, what only a pretraining runs.
DROPPED = (r"(?:.*\.)?(?:num_batches_tracked|relative_position_index|attn_mask)|vjepa2\.predictor\..*|"
           + naming_adafocus.UNUSED)

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


def _lite_blocks(sizes: tuple[int, ...]) -> Rules:
    """EfficientNet's blocks are numbered through all stages: which number is where depends on the depth."""
    stages = [f"layer{s}_{b}" for s, size in enumerate(sizes, start=1) for b in range(size)]
    return [(rf"_blocks\.{n}\.{theirs}", f"{block}/{ours}") for n, block in enumerate(stages)
            for theirs, ours in (
                (r"_(expand|depthwise|project)_conv(?:\.net)?", r"\1_conv"),
                ("_bn0", "expand_bn"), ("_bn1", "depthwise_bn"), ("_bn2", "project_bn"))]


def _swin_stages(block: str, merging: str, mlp: tuple[str, str]) -> Rules:
    """Four stages; `block` and `merging` are patterns with %d for the stage (or its list index)."""
    rules = []
    for s in range(4):
        n = 2 * s if merging.startswith("features") else s
        rules += [(block % n + rf"\.{theirs}", rf"layer{s + 1}_\1/{ours}") for theirs, ours in (
            ("(norm1|norm2|attn)", r"\2"), (r"attn\.(qkv|proj)", r"attn/\2"),
            (mlp[0], "mlp/fc1"), (mlp[1], "mlp/fc2"))]
        n = n + 1 if merging.startswith("features") else s
        rules.append((merging % n + r"\.(norm|reduction)", rf"downsample{s + 1}/\1"))
    return rules


_MMACTION_BLOCKS: Rules = [  # residual blocks, with the halves of R(2+1)D's convolutions
    (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv(\d)\.conv(?:\.net)?", r"layer\1_\2/conv\3"),
    (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv(\d)\.bn", r"layer\1_\2/bn\3"),
    (r"(?:backbone\.)?layer(\d)\.(\d+)\.downsample\.(conv|bn)", r"layer\1_\2/downsample_\3"),
    (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv2\.(\d)\.(conv|bn)", r"layer\1_\2/\g<4>2_\3"),  # CSN
    (r"(?:backbone\.)?layer(\d)\.(\d+)\.conv(\d)\.conv\.((?:conv|bn)_[st])", r"layer\1_\2/conv\3/\4"),
    (r"(?:backbone\.)?layer(\d)\.(\d+)\.downsample\.conv\.((?:conv|bn)_[st])",
     r"layer\1_\2/downsample_conv/\3"),
]

# The modules of I3D by their number in torchvision's S3D, which counts the max-pools too.
S3D_NUMBERS = {
    0: "Conv3d_1a_7x7", 2: "Conv3d_2b_1x1", 3: "Conv3d_2c_3x3", 5: "Mixed_3b", 6: "Mixed_3c",
    8: "Mixed_4b", 9: "Mixed_4c", 10: "Mixed_4d", 11: "Mixed_4e", 12: "Mixed_4f", 14: "Mixed_5b",
    15: "Mixed_5c"}
_MIXED = [name for name in S3D_NUMBERS.values() if name.startswith("Mixed")]
_SEPARABLE = ((r"\.0\.0", "conv"), (r"\.0\.1", "bn"), (r"\.1\.0", "conv_t"), (r"\.1\.1", "bn_t"))


def _branches(first: int) -> list[tuple[str, str]]:
    """Branches of an Inception block, numbered from `first`, and their names here."""
    return [(f"{first + n}{rest}", f"b{n}{ours}") for n, rest, ours in (
        (0, "", ""), (1, r"\.0", "a"), (1, r"\.1", "b"), (2, r"\.0", "a"), (2, r"\.1", "b"),
        (3, r"\.1", "b"))]


_S3D_UNITS = [  # our unit, its number in torchvision, whether it has two halves
    *((name, str(n), name != "Conv3d_2b_1x1") for n, name in S3D_NUMBERS.items() if name not in _MIXED),
    *((f"{name}/{ours}", rf"{n}\.branch{theirs}", ours in ("b1b", "b2b"))
      for n, name in S3D_NUMBERS.items() if name in _MIXED for theirs, ours in _branches(0))]


NAMING: dict[str, Rules] = {
    "mmaction2 ResNet": [  # TSN, TSM (which wraps the first convolution: `.net`) and all 3-D ResNets
        (r"(?:backbone\.)?conv1\.conv", "conv1"),
        (r"(?:backbone\.)?conv1\.bn", "bn1"),
        *_MMACTION_BLOCKS,
        (r"(?:backbone\.)?conv1\.conv\.((?:conv|bn)_[st])", r"conv1/\1"),  # R(2+1)D
        (r"neck\.spatial_modulation\.spatial_modulation\.(\d)\.(\d)\.(conv|bn)",  # TPN
         r"neck/spatial_modulation_\1_\2/\3"),
        (r"neck\.(temporal_modulation|downsample)_ops\.(\d)\.conv\.conv", r"neck/\1_ops_\2"),
        (r"neck\.level_fusion_(\d)\.downsamples\.(\d)\.conv\.(conv|bn)",
         r"neck/level_fusion_\1/downsamples_\2/\3"),
        (r"neck\.level_fusion_(\d)\.fusion_conv\.(conv|bn)", r"neck/level_fusion_\1/fusion_conv/\2"),
        (r"neck\.pyramid_fusion\.(conv|bn)", r"neck/pyramid_fusion/\1"),
        (r"neck\.aux_head\.conv\.(conv|bn)", r"auxiliary/conv/\1"),
        (r"neck\.aux_head\.fc", "auxiliary/fc"),
        (r"cls_head\.fc_cls", "fc"),
    ],
    "mmaction2 X3D": [
        (r"(?:backbone\.)?(conv1_[st]|conv5)\.conv", r"\1"),
        (r"(?:backbone\.)?conv1_t\.bn", "bn1"), (r"(?:backbone\.)?conv5\.bn", "bn5"),
        *_MMACTION_BLOCKS,
        (r"(?:backbone\.)?layer(\d)\.(\d+)\.se_module\.(fc\d)", r"layer\1_\2/se_module/\3"),
        (r"cls_head\.fc1", "fc1"), (r"cls_head\.fc2", "fc"),
    ],
    "PySlowFast X3D": [
        (r"s1\.pathway0_stem\.conv_xy", "conv1_s"), (r"s1\.pathway0_stem\.conv", "conv1_t"),
        (r"s1\.pathway0_stem\.bn", "bn1"),
        *((rf"s{s + 1}\.pathway0_res(\d+)\.{theirs}", rf"layer{s}_\1/{ours}")
          for s in range(1, 5) for theirs, ours in (
              ("branch1", "downsample_conv"), ("branch1_bn", "downsample_bn"),
              (r"branch2\.a", "conv1"), (r"branch2\.a_bn", "bn1"), (r"branch2\.b", "conv2"),
              (r"branch2\.b_bn", "bn2"), (r"branch2\.c", "conv3"), (r"branch2\.c_bn", "bn3"),
              (r"branch2\.se\.(fc\d)", r"se_module/\2"))),
        (r"head\.conv_5", "conv5"), (r"head\.conv_5_bn", "bn5"), (r"head\.lin_5", "fc1"),
        (r"head\.projection", "fc"),
    ],
    "torchvision VideoResNet": [  # R3D, MC3
        (r"stem\.0", "conv1"), (r"stem\.1", "bn1"), ("fc", "fc"),
        (r"layer(\d)\.(\d+)\.conv(\d)\.0", r"layer\1_\2/conv\3"),
        (r"layer(\d)\.(\d+)\.conv(\d)\.1", r"layer\1_\2/bn\3"),
        (r"layer(\d)\.(\d+)\.downsample\.0", r"layer\1_\2/downsample_conv"),
        (r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample_bn"),
    ],
    "torchvision R(2+1)D": [
        *((rf"stem\.{i}", path) for i, path in (
            (0, "conv1/conv_s"), (1, "conv1/bn_s"), (3, "conv1/conv_t"), (4, "bn1"))),
        *((rf"layer(\d)\.(\d+)\.conv(\d)\.0\.{i}", rf"layer\1_\2/conv\3/{name}")
          for i, name in ((0, "conv_s"), (1, "bn_s"), (3, "conv_t"))),
        (r"layer(\d)\.(\d+)\.conv(\d)\.1", r"layer\1_\2/bn\3"),
        (r"layer(\d)\.(\d+)\.downsample\.0", r"layer\1_\2/downsample_conv"),
        (r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample_bn"),
        ("fc", "fc"),
    ],
    "pytorch-i3d": [
        (r"(Conv3d_\w+)\.conv3d", r"\1/conv"), (r"(Conv3d_\w+)\.bn", r"\1/bn"),
        (r"(Mixed_\w+)\.(b\d\w?)\.conv3d", r"\1/\2/conv"), (r"(Mixed_\w+)\.(b\d\w?)\.bn", r"\1/\2/bn"),
        (r"logits\.conv3d", "fc"),
    ],
    "IBM I3D": [  # IBM/action-recognition-pytorch
        *((rf"conv{i}\.(conv|bn)", rf"{name}/\1")
          for i, name in ((1, "Conv3d_1a_7x7"), (2, "Conv3d_2b_1x1"), (3, "Conv3d_2c_3x3"))),
        *((rf"inception{mixed[-2]}{chr(ord(mixed[-1]) - 1)}\.branch{theirs}\.(conv|bn)",
           rf"{mixed}/{ours}/\1") for mixed in _MIXED for theirs, ours in _branches(1)),  # 3a: Mixed_3b
        ("fc", "fc"),
    ],
    "torchvision S3D": [
        *((rf"features\.{i}{theirs}", rf"{unit}/{ours}") for unit, i, separable in _S3D_UNITS
          for theirs, ours in (_SEPARABLE if separable else ((r"\.0", "conv"), (r"\.1", "bn")))),
        (r"classifier\.1", "fc"),
    ],
    "tefandasy/CorrNet": [
        (r"conv1\.0", "conv1"), (r"conv1\.1", "bn1"), ("fc", "fc"),
        *((rf"res{s + 1}\.(\d+)\.{theirs}", rf"layer{s}_\1/{ours}")
          for s in range(1, 5) for theirs, ours in (
              (r"conv(\d)\.0", r"conv\2"), (r"conv(\d)\.1", r"bn\2"),
              (r"conv(\d)\.0\.spatial_conv", r"conv\2/conv_s"), (r"conv(\d)\.0\.bn", r"conv\2/bn_s"),
              (r"conv(\d)\.0\.temporal_conv", r"conv\2/conv_t"),
              (r"(encode|decode|downsample)_conv\.0", r"\2_conv"),
              (r"(encode|decode|downsample)_conv\.1", r"\2_bn"), ("correlation", "correlation"))),
    ],
    "torchvision ResNet": [
        (r"(?:conv|bn)[123]|fc", r"\g<0>"),  # 2 and 3: the deep stem of CSAILVision's dilated ones
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
    **{f"EfficientNet-Lite-PyTorch, {names}": [  # without the squeeze-excitation of EfficientNet itself
        ("_conv_stem", "conv1"), ("_bn0", "bn1"), ("_conv_head", "conv2"), ("_bn1", "bn2"), ("_fc", "fc"),
        *_lite_blocks(sizes),
    ] for names, sizes in (("lite0", (1, 2, 2, 3, 3, 4, 1)), ("lite1 and lite2", (1, 3, 3, 4, 4, 5, 1)))},
    "Video Swin": [  # mmaction2 and Video-Swin-Transformer; 2-D Swin files have `head`
        (r"(?:backbone\.)?patch_embed\.(proj|norm)", r"patch_embed/\1"),
        (r"(?:backbone\.)?norm", "norm"),
        (r"cls_head\.fc_cls|head", "fc"),
        *_swin_stages(r"(?:backbone\.)?layers\.%d\.blocks\.(\d+)",
                      r"(?:backbone\.)?layers\.%d\.downsample", (r"mlp\.fc1", r"mlp\.fc2")),
    ],
    "torchvision Video Swin": [
        (r"patch_embed\.(proj|norm)", r"patch_embed/\1"),
        (r"norm", "norm"),
        (r"head", "fc"),
        *_swin_stages(r"features\.%d\.(\d+)", r"features\.%d", (r"mlp\.0", r"mlp\.3")),
    ],
    "torchvision MViT": [
        (r"pos_encoding", ""),
        (r"conv_proj|norm", r"\g<0>"),
        (r"head\.1", "fc"),
        (r"blocks\.(\d+)\.(norm1|norm2|attn|project)", r"blocks_\1/\2"),
        (r"blocks\.(\d+)\.attn\.qkv", r"blocks_\1/attn/qkv"),
        (r"blocks\.(\d+)\.attn\.project\.0", r"blocks_\1/attn/project"),
        (r"blocks\.(\d+)\.attn\.pool_([qkv])\.pool", r"blocks_\1/attn/pool_\2"),
        (r"blocks\.(\d+)\.attn\.pool_([qkv])\.norm_act\.0", r"blocks_\1/attn/norm_\2"),
        (r"blocks\.(\d+)\.mlp\.0", r"blocks_\1/mlp/fc1"),
        (r"blocks\.(\d+)\.mlp\.3", r"blocks_\1/mlp/fc2"),
    ],
    "MSDNet-PyTorch": [
        *[(pattern + rf"\.{n}", rf"{path}/{ours}")
          for pattern, path in (
              (r"blocks\.0\.0\.layers\.(\d+)(?:\.net)?", r"blocks_0_0/layers_\1"),
              (r"blocks\.(\d+)\.(\d+)\.m\.(\d+)\.net", r"blocks_\1_\2/m_\3"),
              (r"classifier\.(\d+)\.m\.(\d+)\.net", r"classifier_\1/m_\2"))
          for n, ours in enumerate(("conv", "bn"))],
        *[(rf"blocks\.(\d+)\.(\d+)\.layers\.(\d+)\.(conv_normal|conv_down)\.net\.{n}",
           rf"blocks_\1_\2/layers_\3/\4/{ours}")
          for n, ours in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"))],
        (r"classifier\.(\d+)\.linear", r"classifier_\1/fc"),
    ],
    **TABLES,
    **naming_adafocus.NAMING,
    **naming_mobile.NAMING,
    **naming_transformers.NAMING,
}
NAMING |= naming_frameexit.tables(NAMING)
NAMING |= naming_policies.tables(NAMING)


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
        UserError: unknown part, or a part of a file that has none.
    """
    if part is not None and part not in PARTS:
        raise UserError(f"part={part!r}: expected one of {sorted(PARTS)}.")
    if not any(key.startswith("backbone.low_res_path.") for key in state):
        if part:
            raise UserError(f"part={part!r}, but this is no ResKD student: no key begins with "
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
