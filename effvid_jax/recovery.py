"""Which of the saved checkpoints a run goes on from, and what becomes of those in its way.

What is damaged is passed by for the newest sound one, and said. A run that goes on sets aside what lies in
its way, `7.damaged`, `9.later` (than the step it goes on from), `999.foreign` (no checkpoint at all): nothing
is deleted. Evaluation changes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import Any, NamedTuple

from effvid_jax import console, writers
from effvid_jax.stored import CheckpointError, Damaged, read

STEP = re.compile("0|[1-9][0-9]*")  # names of checkpoints; `isdigit` would take "²" for one


class Found(NamedTuple):
    """A sound checkpoint: its step, arrays (nested dict) and meta."""

    step: int
    nested: dict[str, Any]
    meta: dict[str, Any]


def steps_in(directory: str) -> list[int]:
    """Steps that a `checkpoints` folder names, sound or not, in order."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(int(name) for name in names if _is_step(os.path.join(directory, name)))


def newest_sound(directory: str, step: int = 0, only: tuple[str, ...] = ()
                 ) -> tuple[Found | None, dict[int, str]]:
    """The newest checkpoint that is what was written, and the newer ones that are not.

    Args:
        directory: the `checkpoints` folder.
        step: if not 0, this one and no other.
        only: see `read`.

    Returns:
        The checkpoint, or None if there is nothing that ever was one; {step: what is wrong with it}.

    Raises:
        CheckpointError: no checkpoint of `step`; there are some and none is sound; one cannot be read for a
            reason that says nothing of its content, such as missing permission.
    """
    steps, damaged = steps_in(directory), {}
    if step and step not in steps:
        raise CheckpointError(f"{directory}: no checkpoint of step {step} (config.init.step); there are "
                              f"{steps}.")
    for candidate in [step] if step else reversed(steps):
        try:
            return Found(candidate, *read(directory, candidate, only)), damaged
        except Damaged as error:
            if step:
                others = [s for s in steps if s != step]
                raise Damaged(f"{error} Other steps here: {others}; without config.init.step the newest "
                              f"sound one is taken.") from error
            damaged[candidate] = str(error).removeprefix(os.path.join(directory, str(candidate))).strip(" .")
    wrecks = [s for s in damaged if _is_checkpoint(os.path.join(directory, str(s)))]
    if wrecks:
        raise CheckpointError(
            f"{directory}: no sound checkpoint. " + " ".join(f"{s} {damaged[s]}." for s in wrecks)
            + " To start from the beginning, give another --workdir or rename this folder.")
    return None, damaged


def say_damaged(directory: str, damaged: dict[int, str], step: int) -> None:
    for other, reason in damaged.items():
        console.say(f"{os.path.join(directory, str(other))} {reason}. Step {step}, the newest sound one, is "
                    f"used instead.")


def clear_the_way(directory: str, chosen: int, damaged: dict[int, str]) -> None:
    """Sets aside what lies in the way of a run that goes on from `chosen` (-1: from the beginning)."""
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if not _is_step(path):
            if not name.isnumeric():
                continue
            why, reason = "foreign", "is no name of a checkpoint"
        elif (step := int(name)) in damaged:
            why, reason = "damaged" if _is_checkpoint(path) else "foreign", damaged[step]
        elif step > chosen:
            why, reason = "later", f"is later than step {chosen}, where this run goes on"
        else:
            continue
        new = writers.set_aside(path, why)
        goes_on = f"step {chosen}" if chosen >= 0 else "the beginning"
        console.say(f"{path} {reason}. It is kept as {os.path.basename(new)}; this run goes on from "
                    f"{goes_on}.")


def finish_replacement(directory: str) -> None:
    """Ends a `Checkpointer.replace` that was killed between its two renames."""
    new = os.path.join(directory, "replacement")
    for name in os.listdir(directory):
        step = name.removesuffix(".replaced")
        if step == name or not STEP.fullmatch(step):
            continue
        here = os.path.join(directory, step)
        with writers.writing(here):
            if not os.path.exists(here):
                there = os.path.join(new, step)
                os.rename(there if os.path.exists(there) else f"{here}.replaced", here)
            shutil.rmtree(f"{here}.replaced", ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)


def _is_step(path: str) -> bool:
    return STEP.fullmatch(os.path.basename(path)) is not None and os.path.isdir(path)


def _is_checkpoint(path: str) -> bool:
    """Whether a folder holds anything of a checkpoint, sound or not."""
    return any(os.path.exists(os.path.join(path, name)) for name in ("state", "meta", "_CHECKPOINT_METADATA"))
