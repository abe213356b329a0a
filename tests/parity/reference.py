"""What a case's network is here: the record that the families of `forward.py` fill in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from tests.parity import golden


@dataclasses.dataclass(frozen=True)
class Reference:
    """Our counterpart of a reference model.

    Attributes:
        name: backbone name.
        model: the module.
        segments: frames per clip where the reference cuts clips itself (TSM), else 0.
        low: side that the clip is resized to before the model, or 0.
        teacher: a network that is in the state without being run.
        tap: (our features, module path of the reference) -> our array, or None; `tap_frames` if None.
        outputs: (logits, our features) -> arrays by the reference's names; only 'logits' if None.
        capture: pattern of the paths of our modules ('layer1_0/conv1') whose results `tap` and `outputs`
            find beside the features, under these paths.
        unused: pattern of keys of the state that the reference has without running them.
        more: (variables, input) -> further outputs by the reference's names, where another call makes them.
    """

    name: str
    model: nn.Module
    segments: int = 0
    low: int = 0
    teacher: Reference | None = None
    tap: Callable[[dict[str, np.ndarray], str], np.ndarray | None] | None = None
    outputs: Callable[[np.ndarray, dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None
    capture: str = ""
    unused: str = ""
    more: Callable[[Any, Any], dict[str, Any]] | None = None


IGNORED = {"type", "pretrained", "norm_eval", "frozen_stages", "partial_bn", "with_cp", "norm_cfg",
           "torchvision_pretrain"}  # mmaction2 options without effect on a forward pass in inference mode


def options_of(config: dict[str, Any], **defaults) -> dict[str, Any]:
    """The options of a reference module; `defaults` are those that we understand."""
    unknown = config.keys() - defaults.keys() - IGNORED
    if unknown:
        raise golden.Unsupported(f"{config['type']} with options {sorted(unknown)}")
    return {**defaults, **config}


def expect(config: dict[str, Any], **fixed) -> None:
    """Refuses options that differ from the one value that our module has."""
    for field, value in fixed.items():
        if config[field] != value:
            raise golden.Unsupported(f"{config['type']} with {field}={config[field]!r}")
