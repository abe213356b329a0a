"""One state dict out of whatever a checkpoint holds: container, one of two sets, no prefixes of wrappers.

    load_with_notes("vit.pth")  ->  {'backbone.conv1.weight': array, ...}, sentences for the report

A training checkpoint has its weights in a dict beside the optimizer's, maybe twice: the last ones and their
average. A wrapper (data parallelism, a Lightning module, a compiled one, a student beside its teacher) puts a
word before every name. What is recognised is told; of two that fit equally well neither is taken silently.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from effvid_jax.torch_import.files import TorchFileError
from effvid_jax.torch_import.naming import CONTAINERS, DROPPED, best_naming, select_part
from effvid_jax.torch_import.shards import read_weights

State = Mapping[str, np.ndarray]
AVERAGED = r"(?i)(^|_)(ema|swa|averaged?|avg|shadow)(_|$)"  # in the name of a container or of a wrapper
COUNTERS = ("steps", "n_averaged", "num_updates", "updates", "decay")  # of averaging, beside the weights
NETWORKS = ("student", "teacher", "online", "target", "net", "network", "encoder", "backbone", "weights",
            "params")  # further containers
AVERAGE = "ema"  # what `weights` calls an average whose arrays stand beside the others in one dict
_SWAPPED = {"ema_state_dict": " (mmengine swaps the two when it saves: there 'state_dict' is the average)"}
_SWAPPED_BESIDE = (" (mmcv's hook swaps the two at the end of an epoch: in a file that was saved after it "
                   "the plain names are the average)")
# Words that wrappers put before names, and those that they put anywhere between them.
_WRAPPERS = re.compile(
    r"module|model|net|network|backbone|encoder|encoder_[qk]|base_encoder|momentum_encoder|student|teacher|"
    r"online|online_network|target|target_network|state_dict|_forward_module")
_BETWEEN = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DEEPEST = 5  # wrappers within wrappers


def load_torch_state(path: str | os.PathLike, weights: str = "",
                     strip_prefix: str | None = None) -> dict[str, np.ndarray]:
    """The state dict in a checkpoint, without the prefixes of wrappers.

    Args:
        path: a file, the index of a sharded one or a folder, see `shards.read_weights`.
        weights: name of the container, for a file with several, such as 'state_dict_ema'; 'ema' for averages
            that stand beside the weights in one dict; by default the first of `CONTAINERS` that is there.
        strip_prefix: only names that begin with it, which is taken off; '' takes none off. By default what
            `without_wrappers` recognises.

    Returns:
        Key -> array, in the file's order, layout and dtype.

    Raises:
        TorchFileError: unreadable or refused file, no such state dict in it, or several that fit alike.
    """
    return load_with_notes(path, weights, strip_prefix)[0]


def load_with_notes(path: str | os.PathLike, weights: str = "", strip_prefix: str | None = None,
                    ) -> tuple[dict[str, np.ndarray], list[str]]:
    """As `load_torch_state`, and sentences: which of several weights were taken, and which prefix off."""
    content = read_weights(path)
    beside = weights == AVERAGE and not (isinstance(content, dict) and isinstance(content.get(AVERAGE), dict))
    try:
        state, notes = _container(content, "" if beside else weights)
        state, told = _one_of_two(state, beside)
        notes += told
        if strip_prefix is not None:
            state, told = _stripped(state, strip_prefix)
            return state, notes + told
        state, prefix = without_wrappers(state)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error
    if prefix:
        notes.append(f"the prefix {prefix!r} was taken off the file's names (--strip_prefix=PREFIX takes "
                     f"another one, --strip_prefix= none)")
    return state, notes


# ---------------------------------------------------------------------------------------- containers
def _container(content: Any, weights: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The dict of arrays in what a file holds, and notes on the others that it has."""
    sets = weight_sets(content) if isinstance(content, dict) else {}
    for _ in range(_DEEPEST):  # a state_dict in a state_dict
        if len(sets) != 1 or weights in sets or not (inner := weight_sets(content[next(iter(sets))])):
            break
        content, sets = content[next(iter(sets))], inner
    if weights and weights not in sets:
        raise TorchFileError(f"holds no weights called {weights!r}. Those that it has: "
                             f"{', '.join(sets) or 'none with a name'}.")
    state = content
    if isinstance(content, dict):
        found = [name for name in CONTAINERS if isinstance(content.get(name), dict)]
        found = found[:1] or [name for name in sets if not re.search(AVERAGED, name)]
        if len(found) > 1 and not weights:
            raise TorchFileError(f"has weights under {' and '.join(map(repr, found))}: --weights NAME takes "
                                 f"one of them.")
        weights = weights or (found[0] if found else "")
        state = content[weights] if weights else content
    if not isinstance(state, dict) or not state:
        raise TorchFileError(f"holds a {type(state).__name__}, not tensors by name.")
    state = {key: value for key, value in state.items()
             if not (key in COUNTERS and not (isinstance(value, np.ndarray) and value.ndim))}
    others = [str(key) for key, value in state.items()
              if not (isinstance(key, str) and isinstance(value, np.ndarray))]
    if others:
        advice = f" It has weights under {', '.join(sets)}: --weights NAME takes them." if sets else ""
        raise TorchFileError(
            f"no state dict found: {len(others)} of {len(state)} entries are not tensors: {others[:5]}. "
            f"Looked at the top and under {', '.join(CONTAINERS)}.{advice}")
    return state, [f"the file has {'averaged' if re.search(AVERAGED, name) else 'other'} weights as well, "
                   f"{name!r}; {weights!r} was taken, --weights {name} takes those" + _SWAPPED.get(name, "")
                   for name in sets if weights and name != weights]


def weight_sets(content: Mapping[str, Any]) -> dict[str, State]:
    """Entries of a checkpoint that hold weights by name, an average of them among others."""
    def holds(value, depth=0) -> bool:
        return isinstance(value, dict) and (any(map(_is_weight, value.values())) or depth < _DEEPEST and any(
            holds(value.get(name), depth + 1) for name in CONTAINERS))

    return {name: value for name, value in content.items()
            if isinstance(name, str) and (name in (*CONTAINERS, *NETWORKS) or re.search(AVERAGED, name))
            and holds(value)}


def _is_weight(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim > 0


def _one_of_two(state: dict[str, np.ndarray], average: bool) -> tuple[dict[str, np.ndarray], list[str]]:
    """Of weights and their averages in one dict, as mmcv and others write them, one of the two.

    mmcv: 'ema_backbone_conv1_weight' beside 'backbone.conv1.weight'; LitEma: 'model_ema.conv1weight' beside
    'model.conv1.weight'. What is not averaged, such as running statistics, belongs to both.
    """
    averages = {}
    for key in state:
        for wrapper in ("", "module."):
            own = key.removeprefix(wrapper)
            for name in (f"{wrapper}ema_{own.replace('.', '_')}",
                         f"{wrapper}model_ema.{own.removeprefix('model.').replace('.', '')}"):
                if key.startswith(wrapper) and name != key and name in state:
                    averages[key] = name
    if not averages:
        if average:
            raise TorchFileError(f"holds no weights called {AVERAGE!r}, neither as an entry nor beside the "
                                 f"others as 'ema_' and the name.")
        return state, []
    counters = {f"{wrapper}model_ema.{name}" for wrapper in ("", "module.") for name in COUNTERS}
    taken = {key: state[averages.get(key, key)] if average else value for key, value in state.items()
             if key not in averages.values() and key not in counters}
    one = next(iter(averages.values()))
    return taken, [f"the file has {len(averages)} averaged weights beside the others, such as {one!r}; the "
                   + (f"averages were taken, without --weights {AVERAGE} the others are" if average else
                      f"others were taken, --weights {AVERAGE} takes the averages")
                   + (_SWAPPED_BESIDE if "ema_" in one and not one.startswith("model_ema.") else "")]


# ---------------------------------------------------------------------------------------- prefixes
def without_wrappers(state: dict[str, np.ndarray], outer: str = "") -> tuple[dict[str, np.ndarray], str]:
    """The state under the names of the network itself, and the prefix that was taken off; '' for none.

    A prefix of wrappers' words ('module.', 'model.module.', ...) is taken off the names that begin with it if
    more of them are then known, the shortest such prefix. `outer` was taken off before, for messages.

    Raises:
        TorchFileError: two prefixes of which each leads to a network, such as 'student.' and 'teacher.'.
    """
    plain = _without_between(state)
    if plain is not None:
        inner, prefix = without_wrappers(plain, outer)
        return inner, next(name for name in _BETWEEN if any(name in key for key in state)) + "." + prefix
    if all(key.startswith("module.") for key in state):  # data parallelism: whatever the rest is called
        inner, prefix = without_wrappers(_moved(state, "module."), outer + "module.")
        return inner, "module." + prefix
    known = {"": _known(state)}
    if known[""] < sum(not re.fullmatch(DROPPED, key) for key in state):
        for prefix in sorted(_prefixes(state), key=len):
            moved = _moved(state, prefix)
            known[prefix] = _known(moved) if moved is not None else 0
    best = max(known, key=known.get)  # the first of equals
    if not best:
        return state, ""
    for prefix, count in known.items():
        apart = not prefix.startswith(best) and not best.startswith(prefix)
        if apart and count - known[""] >= 0.2 * (known[best] - known[""]):
            raise TorchFileError(
                f"holds two networks: {known[best]} names are known without {outer + best!r} and {count} "
                f"without {outer + prefix!r}: --strip_prefix={outer + best} or "
                f"--strip_prefix={outer + prefix} takes one of them.")
    return _moved(state, best), best


def _without_between(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Names without the words that wrappers put between others; None if none has one."""
    between = re.compile(rf"(?<![^.])(?:{'|'.join(_BETWEEN)})\.")
    plain = {between.sub("", key): value for key, value in state.items()}
    return plain if len(plain) == len(state) and plain.keys() != state.keys() else None


def _prefixes(state: Collection[str]) -> set[str]:
    """Prefixes of names that consist of wrappers' words."""
    found = set()
    for key in state:
        words, prefix = key.split(".")[:-1], ""
        for word in words[:_DEEPEST]:
            if not (_WRAPPERS.fullmatch(word) or re.search(AVERAGED, word)):
                break
            prefix += word + "."
            found.add(prefix)
    return found


def _moved(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray] | None:
    """The state with a prefix taken off where it is; None if two names become one."""
    moved = {key.removeprefix(prefix): value for key, value in state.items()}
    return moved if len(moved) == len(state) else None


def _known(state: Mapping[str, Any]) -> int:
    """How many names of a file some convention knows."""
    return len(best_naming(select_part(state)[0])[1])


def to_rgb(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The state of a network that reads BGR as one that reads RGB, and a sentence for the report.

    Raises:
        TorchFileError: no convolution reads three colours.
    """
    first = [key for key, value in state.items() if value.ndim >= 4 and value.shape[1] == 3]
    if not first:
        raise TorchFileError("--bgr: no convolution of the file reads three colours.")
    turned = {key: value[:, ::-1] if key in first else value for key, value in state.items()}
    return turned, f"what reads colours was turned from BGR to RGB: {', '.join(first)}"


def _stripped(state: dict[str, np.ndarray], prefix: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """What begins with a prefix, without it."""
    if not prefix:
        return state, []
    prefix += "" if prefix.endswith(".") else "."
    if not any(key.startswith(prefix) for key in state):
        state = _without_between(state) or state
    taken = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    taken = _without_between(taken) or taken
    if not taken:
        there = sorted({key.split(".")[0] + "." for key in state if "." in key})
        raise TorchFileError(f"--strip_prefix={prefix}: no name begins with it. The names begin with "
                             f"{', '.join(there[:8]) or 'no prefix'}{', ...' if len(there) > 8 else ''}")
    left = [key for key in state if not key.startswith(prefix) and not re.fullmatch(DROPPED, key)]
    rest = f"; {len(left)} other tensors, such as {left[0]!r}, are left out" if left else ""
    return taken, [f"the prefix {prefix!r} was taken off the file's names, as --strip_prefix says{rest}"]
