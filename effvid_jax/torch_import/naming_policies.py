"""Tables of `naming.py` for AR-Net with its SCSampler, AdaFuse and LiteEval: several networks in one."""

from __future__ import annotations

from collections.abc import Mapping

Rules = list[tuple[str, str]]  # (pattern of the file's module name, our module path)

# Leaves of PyTorch's LSTMCell and GRUCell.
LEAVES = {f"{leaf}_{theirs}": (f"{ours}/{name}",)
          for theirs, ours in (("ih", "input"), ("hh", "hidden"))
          for leaf, name in (("weight", "kernel"), ("bias", "bias"))}

_CELLS: Rules = [
    *((rf"{theirs}proj_mlp\.{n}", f"cells/{ours}_input/{name}")
      for theirs, ours in (("small_", "coarse"), ("", "fine"))
      for n, name in enumerate(("bn1", "fc", "bn2"))),
    ("large_rnn", "cells/fine_cell"), ("small_rnn", "cells/coarse_cell"),
    ("linear", "cells/gate"), ("classifier", "cells/fc"),
]


def _inside(rules: Rules, theirs: str, ours: str) -> Rules:
    """Rules of a network that is a part of a file (`theirs`) and of ours, without its classifier."""
    return [(theirs + pattern, f"{ours}{path}") for pattern, path in rules if path != "fc"]


def tables(known: Mapping[str, Rules]) -> dict[str, Rules]:
    """The tables, made of those of the networks inside."""
    resnet = known["torchvision ResNet"]
    # torchvision's MobileNetV2 as it is now, and as it was in 2020, with the blocks of tonylins' one.
    old = [(pattern.removeprefix(r"base_model\."), path)
           for pattern, path in known["TSM repository MobileNetV2"]]
    mobilenets = {"": known["torchvision MobileNetV2"], ", old MobileNetV2": old}
    predictors = [(rf"new_fc_list\.{i}", f"predictors_{i}/fc") for i in range(4)]
    for i in range(4):
        predictors += [(rf"base_model_list\.{i}\.{pattern}", f"predictors_{i}/{path}")
                       for pattern, path in _single(resnet)]
    classifier = [(r"new_fc_list\.0", "classifier/fc"),
                  *((rf"base_model_list\.0\.{pattern}", f"classifier/{path}")
                    for pattern, path in _single(resnet))]
    found: dict[str, Rules] = {}
    for name, mobilenet in mobilenets.items():
        found[f"AR-Net{name}"] = [
            *predictors, ("rnn", "policy/cell"), ("linear", "policy/scores"), ("lite_fc", "fc"),
            *_inside(mobilenet, r"lite_backbone\.", "glance/")]
        found[f"AR-Net SCSampler{name}"] = [
            *classifier, ("lite_fc", "sampler/fc"), *_inside(mobilenet, r"lite_backbone\.", "sampler/")]
    found["AdaFuse"] = [
        (r"(?:base_model\.)?(conv1|bn1)", r"\1"), (r"(?:base_model\.)?(?:new_)?fc", "fc"),
        (r"(?:base_model\.)?layer(\d)\.(\d+)\.((?:conv|bn)\d)", r"layer\1_\2/\3"),
        (r"(?:base_model\.)?layer(\d)\.(\d+)\.downsample0", r"layer\1_\2/downsample_conv"),
        (r"(?:base_model\.)?layer(\d)\.(\d+)\.downsample1", r"layer\1_\2/downsample_bn"),
        *((rf"(?:base_model\.)?layer(\d)\.(\d+)\.policy_net\.gate_{theirs}", rf"layer\1_\2/policy/{ours}")
          for theirs, ours in (("fc0", "fc1"), ("bn", "bn"), ("fc1", "fc2")))]
    found["LiteEval"] = _CELLS
    return found


def _single(resnet: Rules) -> Rules:
    """ResNet's rules with their classifier left out."""
    return [((r"((?:conv|bn)[123])", r"\1") if path == r"\g<0>" else (pattern, path))
            for pattern, path in resnet]
