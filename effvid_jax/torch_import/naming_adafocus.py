"""Names of the AdaFocus family's checkpoints, whole networks of two backbones, policies and a head.

The form is that of `naming.py`, which takes them in. Published files: LeapLabTHU/AdaFocusV2
(`actnet_p128_mbv2.pth.tar` and so on) and LeapLabTHU/Uni-AdaFocus (`actnet_p128.pth.tar` and so on). The
classifiers of ImageNet that the two networks still carry are not run, and left out.
"""

from __future__ import annotations

Rules = list[tuple[str, str]]  # (pattern of the file's module name, our module path)

UNUSED = r"(?:global|local)_CNN\.(?:fc|classifier)\.(?:weight|bias)"


def _resnet(theirs: str, ours: str) -> Rules:
    """torchvision's names below a prefix."""
    block = rf"{theirs}\.layer(\d)\.(\d+)\."
    return [(rf"{theirs}\.(conv1|bn1)", rf"{ours}/\1"),
            (block + r"((?:conv|bn)\d)", rf"{ours}/layer\1_\2/\3"),
            (block + r"downsample\.0", rf"{ours}/layer\1_\2/downsample_conv"),
            (block + r"downsample\.1", rf"{ours}/layer\1_\2/downsample_bn")]


def _mobilenet(theirs: str, ours: str) -> Rules:
    """The block layout of tonylins/pytorch-mobilenet-v2 below a prefix."""
    blocks = [f"layer{s}_{b}" for s, size in enumerate((1, 2, 3, 4, 3, 3, 1), start=1) for b in range(size)]
    names = [f"{part}_{leaf}" for part in ("expand", "depthwise", "project") for leaf in ("conv", "bn")]
    rules = [(rf"{theirs}\.features\.{n}\.{i}", f"{ours}/{leaf}{1 if n == 0 else 2}")
             for n in (0, 18) for i, leaf in enumerate(("conv", "bn"))]
    for n, block in enumerate(blocks, start=1):
        numbers, here = ((0, 1, 3, 4), names[2:]) if n == 1 else ((0, 1, 3, 4, 6, 7), names)
        rules += [(rf"{theirs}\.features\.{n}\.conv\.{i}", f"{ours}/{block}/{name}")
                  for i, name in zip(numbers, here)]
    return rules


_NETWORKS: Rules = [
    *_mobilenet("global_CNN", "glance"), *_resnet("global_CNN", "glance"), *_resnet("local_CNN", "focus"),
    (r"global_CNN_fc\.1", "glance/fc"), (r"local_CNN_fc\.1", "focus/fc")]

NAMING: dict[str, Rules] = {
    "AdaFocus V2": [
        *_NETWORKS,
        *((rf"policy_stn\.encoder\.{i}", f"policy/{name}")
          for i, name in ((0, "reduce"), (1, "reduce_bn"), (4, "encode"), (5, "encode_bn"))),
        (r"policy_stn\.gru", "policy/gru"), (r"policy_stn\.fc\.0", "policy/out"),
        (r"classifier\.mlp\.layers\.0", "head/lift"), (r"classifier\.mlp\.layers\.1", "head/lift_bn"),
        # Classifiers are counted from 0 there and from 1 here.
        *((rf"classifier\.classifiers\.{t}\.1", f"head/fc_{t + 1}") for t in range(64)),
    ],
    "Uni-AdaFocus": [
        *_NETWORKS, ("aux_fc", "aux"),
        *((rf"{theirs}\.{3 * n + i}", f"{ours}/{leaf}{n + 1}")
          for theirs, ours, units in ((r"spatial_policy\.encoder", "where", 3),
                                      (r"temporal_policy\.Tconv", "when", 2))
          for n in range(units) for i, leaf in enumerate(("conv", "bn"))),
        (r"spatial_policy\.encoder\.9", "where/out"), (r"temporal_policy\.Tconv\.6", "when/out"),
        *((rf"classifier\.{theirs}_mlp\.layers\.{i}", f"head_{ours}/{leaf}")
          for theirs, ours in (("global", "glance"), ("local", "focus"))
          for i, leaf in enumerate(("lift", "lift_bn"))),
        *((rf"classifier\.{theirs}_classifiers\.{t}\.1", f"head_{ours}/fc_{t + 1}")
          for theirs, ours in (("global", "glance"), ("local", "focus")) for t in range(64)),
    ],
}
