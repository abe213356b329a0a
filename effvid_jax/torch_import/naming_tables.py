"""Names of the other networks of the papers' tables, in the form of `naming.py`, which takes them in."""

from __future__ import annotations

import itertools

Rules = list[tuple[str, str]]  # (pattern of the file's module name, our module path)

_BN_INCEPTION: Rules = [  # Caffe's layers one by one, as in all ports
    (rf"base_model\.{theirs}{bn}", f"{ours}/{leaf}")
    for theirs, ours in ((r"(conv\w+?)", r"\1"), (r"(inception_\w\w)_(\w+?)", r"\1/b\2"))
    for bn, leaf in (("_bn", "bn"), ("", "conv"))]


def _slowfast_blocks(pathway: int, prefix: str) -> Rules:
    """PySlowFast counts the stem as its first stage."""
    return [(rf"s{s + 1}\.pathway{pathway}_res(\d+)\.{theirs}{bn}", rf"{prefix}layer{s}_\1/{ours}")
            for s in range(1, 5) for bn, kind in (("", "conv"), ("_bn", "bn"))
            for theirs, ours in (("branch1", f"downsample_{kind}"), *(
                (rf"branch2\.{letter}", f"{kind}{n}") for n, letter in enumerate("abc", start=1)))]


def _smart(path: str, appearance: str, relation: str, number: int) -> Rules:
    """A SMART unit of ARTNet; its pair sums and reductions are numbered through the network."""
    return [(theirs + bn, f"{path}/{ours}{bn}") for bn in ("_bn", "") for theirs, ours in (
        (appearance, "appearance"), (relation, "relation"), (f"pooling{number}", "pairs"),
        (f"redu{number}", "reduce"))]


def _artnet_block(number: int, stage: int, block: int) -> Rules:
    """A block of ARTNet-18, the fourth stage's without a SMART unit."""
    theirs, ours = f"res{stage + 1}{'ab'[block]}", f"layer{stage}_{block}"
    return [(f"{theirs}_1", f"{ours}/conv1"), (f"{theirs}_1_bn", f"{ours}/bn1"),
            (f"{theirs}_bn", f"{ours}/bn"), (f"{theirs}_down", f"{ours}/downsample_conv"),
            *([(f"{theirs}_2", f"{ours}/conv2")] if stage == 4 else
              _smart(f"{ours}/conv2", f"{theirs}_2", f"{theirs}_2_t", number))]


TABLES: dict[str, Rules] = {
    "TSM repository BN-Inception": [(r"new_fc", "fc"), *_BN_INCEPTION],
    "TRN-pytorch": [
        (r"new_fc", "frame_fc"), *_BN_INCEPTION,
        (r"consensus\.fc_fusion_scales\.(\d+)\.1", r"scales/scale_\1/hidden_fc"),
        (r"consensus\.fc_fusion_scales\.(\d+)\.3", r"scales/scale_\1/fc"),
    ],
    "PyTorch-MFNet": [
        (r"conv1\.(conv|bn)", r"conv1/\1"),
        (r"(conv\d)\.(B\d+)\.(conv_\w\d)\.(bn|conv)", r"\1_\2/\3/\4"),
        (r"tail\.bn", "tail/bn"), ("classifier", "fc"),
    ],
    "PySlowFast ResNet": [  # I3D, Slow and C2D, with non-local blocks or without
        (r"s1\.pathway0_stem\.conv", "conv1"), (r"s1\.pathway0_stem\.bn", "bn1"),
        *_slowfast_blocks(0, ""),
        *((rf"s{s + 1}\.pathway0_nonlocal(\d+)\.(\w+)", rf"nonlocal{s}_\1/\2") for s in range(1, 5)),
        (r"head\.projection", "fc"),
    ],
    "PySlowFast SlowFast": [
        *((rf"s1\.pathway{p}_stem\.{leaf}", f"{name}_{leaf}1")
          for p, name in enumerate(("slow", "fast")) for leaf in ("conv", "bn")),
        *_slowfast_blocks(0, "slow_"), *_slowfast_blocks(1, "fast_"),
        (r"s(\d)_fuse\.conv_f2s", r"fuse\1_conv"), (r"s(\d)_fuse\.bn", r"fuse\1_bn"),
        (r"head\.projection", "fc"),
    ],
    "ARTNet": [
        (r"redu1_bn", "bn1"), *_smart("conv1", "conv1", "conv1_t", 1), ("fc8", "fc"),
        *(rule for n, (s, b) in enumerate(itertools.product(range(1, 5), range(2)), start=2)
          for rule in _artnet_block(n, s, b)),
    ],
    "ECO-pytorch": [
        *((rf"base_model\.inception_3c_double_3x3_{theirs}{bn}", f"inception_3c{ours}/{leaf}")
          for theirs, ours in (("reduce", "_reduce"), ("1", ""))
          for bn, leaf in (("_bn", "bn"), ("", "conv"))),
        *_BN_INCEPTION, (r"base_model\.(res\d)([ab]\w*)", r"\1/\2"), (r"new_fc", "fc"),
    ],
    "Pytorch-StNet": [
        (r"layer0\.(conv|bn)1", r"\g<1>1"), ("last_linear", "fc"),
        (r"layer(\d)\.(\d+)\.((?:conv|bn)\d)", r"layer\1_\2/\3"),
        (r"layer(\d)\.(\d+)\.se_module\.(fc\d)", r"layer\1_\2/se_module/\3"),
        (r"layer(\d)\.(\d+)\.downsample\.0", r"layer\1_\2/downsample_conv"),
        (r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample_bn"),
        (r"(temp\d)\.(conv|bn)1", r"\1_\g<2>1"), (r"xception\.conv", "xception/shortcut"),
        (r"xception\.(bn\d)", r"xception/\1"), (r"xception\.(sepconv\d)\.(\w+)", r"xception/\1_\2"),
    ],
    "timm GhostNet": [
        ("conv_stem", "conv_stem/conv"), ("bn1", "conv_stem/bn"), ("conv_head", "conv_head"),
        ("classifier", "fc"),
        (r"blocks\.9\.0\.conv", "conv_last/conv"), (r"blocks\.9\.0\.bn1", "conv_last/bn"),
        *((rf"blocks\.(\d)\.(\d)\.{theirs}", rf"blocks\1_\2/{ours}") for theirs, ours in (
            *((rf"(ghost\d)\.{path}\.{n}", rf"\3/{ours}/{leaf}") for n, leaf in enumerate(("conv", "bn"))
              for path, ours in (("primary_conv", "primary"), ("cheap_operation", "cheap"))),
            ("(conv|bn)_dw", r"dw/\3"), (r"se\.(conv_\w+)", r"se/\3"),
            *((rf"shortcut\.{n}", ours) for n, ours in enumerate(
                ("shortcut_dw/conv", "shortcut_dw/bn", "shortcut/conv", "shortcut/bn"))))),
    ],
}
