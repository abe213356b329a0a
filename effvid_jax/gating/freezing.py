"""Gated convolutions that decide the same for every clip, made static.

    entries = freeze(seen, share=1.0)                       # of the layers that can be
    params, stats = frozen_arrays(params, stats, entries, seen)
    GatedConv(..., frozen=entries)

An entry is a text, so that a config can hold it:

    layer1_0/conv1/conv_s:01/10         which weights are open, of the channel ratios and of the temporal
                                        strides: here half of the channels and all frames are computed
    layer1_0/conv1/conv_s:01/10+gate    the same, and the gate still gives the size of the open weights

Without '+gate' the layer has neither gate nor decision: its weights are constants (parameter 'weights'), its
kernel ends after the channels that are computed, and cheap operations that no clip used are gone. What the
gate gave is replaced by its mean, which is the same function where it gave every clip the same; with '+gate'
it is the same function for every clip that had decided so, at the cost of the gate.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax
import numpy as np

from effvid_jax.errors import UserError
from effvid_jax.gating import variants


class Frozen(NamedTuple):
    """What a layer does from now on.

    Attributes:
        channels, frames: whether each weight is open, of the ratios and of the strides.
        gate: whether the gate gives the size of the open ones.
    """

    channels: tuple[bool, ...]
    frames: tuple[bool, ...]
    gate: bool

    @property
    def ratio(self) -> int:
        """Number of the first open weight of the ratios, or of the last one."""
        return _first(self.channels)

    @property
    def stride(self) -> int:
        """The same, of the strides."""
        return _first(self.frames)


class Seen(NamedTuple):
    """Weights that a gate gave N clips: (N, S) of ratios and of strides; S = 1 on an axis without a gate."""

    V_c: np.ndarray
    V_t: np.ndarray


@functools.cache
def read(entries: Sequence[str]) -> dict[str, Frozen]:
    """{path of a layer: what it does} of the texts in a config.

    Raises:
        UserError: a text of another form.
    """
    found = {}
    for entry in entries:
        match = re.fullmatch(r"(.+):([01]+)/([01]+)(\+gate)?", entry)
        if match is None:
            raise UserError(f"config.method.frozen has {entry!r}: expected PATH:CHANNELS/FRAMES, 0 (closed) "
                            f"or 1 for each weight, maybe +gate, such as 'layer1_0/conv1/conv_s:01/10'.")
        bits = [tuple(bit == "1" for bit in text) for text in match.group(2, 3)]
        found[match[1]] = Frozen(*bits, bool(match[4]))
    return found


def freeze(seen: Mapping[str, Seen], share: float = 1.0, gate: bool = False) -> tuple[str, ...]:
    """Entries of the layers whose most frequent decision is that of at least this share of the clips.

    Args:
        seen: path of a layer -> the weights of all clips.
        share: in (0, 1].
        gate: whether their gates stay.
    """
    entries = []
    for path, weights in seen.items():
        mine, how_many = _most_frequent(weights)
        if how_many >= share:
            bits = ["".join(str(int(bit)) for bit in (V[mine] > 0).any(axis=0)) for V in weights]
            entries.append(f"{path}:{bits[0]}/{bits[1]}" + ("+gate" if gate else ""))
    return tuple(entries)


def agreement(weights: Seen) -> float:
    """Share of the clips that took the most frequent decision of a layer."""
    return _most_frequent(weights)[1]


def spread(weights: Seen) -> float:
    """Largest difference between two clips' weights of a layer, if both took its most frequent decision."""
    mine, _ = _most_frequent(weights)
    return float(max(np.ptp(V[mine], axis=0).max() for V in weights))


def frozen_arrays(params, stats, entries: Sequence[str], seen: Mapping[str, Seen]):
    """(params, stats) of the network whose `GatedConv` has these entries.

    Args:
        params, stats: of the gated network.
        entries: see `freeze`.
        seen: the weights whose means stay; see `freeze`.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    flat_stats = flax.traverse_util.flatten_dict(stats, sep="/")
    for path, fixed in read(tuple(entries)).items():
        weights = seen[path]
        mine, _ = _most_frequent(weights)
        if not fixed.gate:
            means = [V[mine].mean(axis=0, dtype=np.float64) for V in weights if V.shape[1] > 1]
            flat = {name: x for name, x in flat.items() if not name.startswith(f"{path}/gate/")}
            flat_stats = {name: x for name, x in flat_stats.items() if not name.startswith(f"{path}/gate/")}
            flat[f"{path}/weights"] = np.concatenate(means)[None].astype(np.float32)
        for kind, open_, first in (("c", fixed.channels, fixed.ratio), ("t", fixed.frames, fixed.stride)):
            for n in range(1, len(open_)):
                if not open_[n] and n != first:
                    flat.pop(f"{path}/cheap_{kind}{n}")
        if fixed.ratio:
            total = flat[f"{path}/kernel"].shape[-1]
            computed = total - flat[f"{path}/cheap_c{fixed.ratio}"].shape[-1]
            for name in (f"{path}/kernel", f"{path}/bias"):
                if name in flat:
                    flat[name] = flat[name][..., :computed]
    return tuple(flax.traverse_util.unflatten_dict(x, sep="/") for x in (flat, flat_stats))


def _most_frequent(weights: Seen) -> tuple[np.ndarray, float]:
    """(whether each clip took the most frequent decision, its share)."""
    decisions = np.stack([np.asarray(variants.first_open(V, V.shape[1])) for V in weights], axis=1)
    kinds, which, counts = np.unique(decisions, axis=0, return_inverse=True, return_counts=True)
    del kinds
    return which.reshape(-1) == counts.argmax(), float(counts.max() / len(decisions))


def _first(open_: Sequence[bool]) -> int:
    return open_.index(True) if True in open_ else len(open_) - 1
