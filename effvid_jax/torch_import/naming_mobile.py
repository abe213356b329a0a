"""Tables of `naming.py` for mobile networks: MobileNetV3 and MobileNetV4 of timm, MoViNet."""

from __future__ import annotations

_UNITS = {"conv_stem": "conv_stem", "bn1": "bn1", "conv_head": "conv_head", "norm_head": "norm_head",
          "classifier": "fc"}
_SEPARABLE = {"conv_dw": "depthwise_conv", "bn1": "depthwise_bn", "conv_pw": "project_conv",
              "bn2": "project_bn"}
_INVERTED = {"conv_pw": "expand_conv", "bn1": "expand_bn", "conv_dw": "depthwise_conv", "bn2": "depthwise_bn",
             "conv_pwl": "project_conv", "bn3": "project_bn"}
_SQUEEZE = {r"se\.conv_reduce": "se/fc1", r"se\.conv_expand": "se/fc2"}


def _mobilenet_v3(stages: int) -> list[tuple[str, str]]:
    """timm counts stages from 0; the blocks of the first have no expansion, the last is a convolution."""
    return [*_UNITS.items(), *(
        (rf"blocks\.{s}\.(\d+)\.{theirs}", rf"layer{s + 1}_\1/{ours}") for s in range(stages)
        for theirs, ours in ({"conv": "conv", "bn1": "bn1"} if s == stages - 1 else
                             {**(_INVERTED if s else _SEPARABLE), **_SQUEEZE}).items())]


def _movinet(conv: str) -> list[tuple[str, str]]:
    """MoViNet's rules, with the name that its convolutions have."""
    def unit(theirs: str, ours: str) -> list[tuple[str, str]]:
        """A convolution with its norm; the second one of a stream network is over time."""
        return [(rf"{theirs}\.conv_1\.{conv}", f"{ours}/conv"), (rf"{theirs}\.conv_1\.norm", f"{ours}/bn"),
                (rf"{theirs}\.conv_2\.{conv}", f"{ours}/conv_t"),
                (rf"{theirs}\.conv_2\.norm", f"{ours}/bn_t")]

    return [
        *unit("(conv1|conv7)", r"\1"),
        (rf"classifier\.0\.conv_1\.{conv}", "fc1"), (rf"classifier\.3\.conv_1\.{conv}", "fc"),
        *(rule for s in range(5) for block in [rf"blocks\.b{s}_l(\d+)"] for rule in (
            (block, rf"layer{s + 1}_\1"),
            (rf"{block}\.se\.(fc\d)\.conv_1\.{conv}", rf"layer{s + 1}_\1/se/\2"),
            *unit(rf"{block}\.(expand|deep|project)", rf"layer{s + 1}_\1/\2"),
            *unit(rf"{block}\.res\.1", rf"layer{s + 1}_\1/shortcut"),
            *unit(rf"{block}\.res\.0", rf"layer{s + 1}_\1/shortcut")))]


NAMING = {
    "timm MobileNetV3-Large": _mobilenet_v3(7),
    "timm MobileNetV3-Small": _mobilenet_v3(6),
    "timm MobileNetV4-Conv": [*_UNITS.items(), *(
        rule for s in range(5) for rule in (
            (rf"blocks\.{s}\.(\d+)\.(conv|bn1|conv_exp|conv_pwl|bn2)", rf"layer{s + 1}_\1/\2"),
            (rf"blocks\.{s}\.(\d+)\.(dw_start|pw_exp|dw_mid|pw_proj)\.(conv|bn)",
             rf"layer{s + 1}_\1/\2/\3")))],
    "MoViNet-pytorch": _movinet("conv3d"),
    "MoViNet-pytorch, stream": _movinet("conv2d"),
}
