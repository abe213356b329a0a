"""Arrays of a file against those of a network: what is missing, unused, or of another shape or type."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from effvid_jax.errors import UserError

SHOWN = 20


class Differences(NamedTuple):
    """Names in `missing` (in the file) and `unused` (in it); `other`: (name, in the file, here)."""

    missing: list[str]
    unused: list[str]
    other: list[tuple[str, Any, Any]]

    def lines(self, here: str = "here") -> list[str]:
        """The first of them, a line each, for a message; [] if there are none.

        Args:
            here: what the arrays are compared with, such as 'model'.
        """
        found = [f"  missing in the file: {name}" for name in self.missing]
        found += [f"  unused in the file: {name}" for name in self.unused]
        found += [f"  {name}: file {theirs}, {here} {ours}" for name, theirs, ours in self.other]
        return found[:SHOWN] + (["  ..."] if len(found) > SHOWN else [])


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any],
                waived: Callable[[str], bool] = lambda name: False) -> Differences:
    """Everything that keeps `found` from being used for `wanted`.

    Args:
        wanted: name -> what describes an array of the network: its shape, or (shape, type).
        found: the same of the file.
        waived: names that need not fit.
    """
    return Differences(
        [name for name in wanted if name not in found and not waived(name)],
        [name for name in found if name not in wanted and not waived(name)],
        [(name, found[name], wanted[name]) for name in wanted
         if name in found and not waived(name) and found[name] != wanted[name]])


def merge(ours, loaded, skip: str, where: str):
    """Loaded arrays in the structure of `ours` (nested dicts); what `skip` matches keeps our values.

    Args:
        ours: arrays of a network with their initial values.
        loaded: arrays of a file.
        skip: regular expression, searched for in the paths; '' for none.
        where: the file, for the message.

    Raises:
        UserError: lists every array that is missing, unused or of another shape and not skipped.
    """
    flat, have = (flatten_dict(tree, sep="/") for tree in (ours, loaded))

    def waived(name):
        return bool(skip) and re.search(skip, name) is not None

    shapes = ({name: tuple(x.shape) for name, x in arrays.items()} for arrays in (flat, have))
    if problems := differences(*shapes, waived).lines("model"):
        raise UserError(
            f"{where} does not fit the model; config.init.skip takes a regular expression of arrays to leave "
            f"at their initial values ('fc/' for another number of classes):\n" + "\n".join(problems))
    return unflatten_dict({name: x if waived(name) else jnp.asarray(have[name]) for name, x in flat.items()},
                          sep="/")
