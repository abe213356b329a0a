"""Names of FrameExit's and OCSampler's checkpoints, in the form of `naming.py`, which takes them in.

Both keep torchvision's ResNet as a plain sequence of its children, and a lift of pooled maps beside it;
OCSampler's classifier is FrameExit's after the last frame. FrameExit counts from 0, its first gate is asked
after the second frame.
"""

from __future__ import annotations

from collections.abc import Mapping

Rules = list[tuple[str, str]]  # (pattern of the file's module name, our module path)
_MOST = 64  # frames


def _resnet(prefix: str) -> Rules:
    """A sequence of conv1, bn1, relu, maxpool, layer1 ... layer4."""
    theirs = r"backbone\.{}"
    return [(theirs.format(0), f"{prefix}/conv1"), (theirs.format(1), f"{prefix}/bn1"), *(
        (rf"backbone\.{stage + 3}\.(\d+)\.{name}", rf"{prefix}/layer{stage}_\1/{ours}")
        for stage in range(1, 5) for name, ours in (
            (r"((?:conv|bn)\d)", r"\2"), (r"downsample\.0", "downsample_conv"),
            (r"downsample\.1", "downsample_bn")))]


def tables(known: Mapping[str, Rules]) -> dict[str, Rules]:
    """The tables; `known` are those of `naming.py`."""
    sampler = [(pattern.replace(r"(?:backbone\.)?", r"sampler\.", 1), f"sampler/{ours}")
               for pattern, ours in known["mmaction2 MobileNetV2"] if ours != "fc"]
    return {
        "FrameExit": [
            *_resnet("backbone"), (r"mlp\.layers\.0", "lift_3"), (r"mlp\.layers\.1", "lift_bn_3"),
            *((rf"classifiers\.{t}", f"head_{t + 1}") for t in range(_MOST)),
            *((rf"exit_selector\.{t}\.(\w+)", rf"gate_after_{t + 2}/\1") for t in range(_MOST))],
        "OCSampler": [
            *sampler, (r"sampler\.logit", "score"), *_resnet("classifier/backbone"),
            (r"cls_head\.layers\.0", "classifier/lift_3"), (r"cls_head\.layers\.1", "classifier/lift_bn_3"),
            (r"cls_head\.fc", "classifier/head_1")],
    }
