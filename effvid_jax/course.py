"""How far a run is: in steps, in clips seen, and in its schedule.

As long as the batch size stays, all three are the step. A run that goes on with another one counts its steps
on, and everything else by the clips that were seen: the next batch begins with the first clip that is new,
and the schedule is that of the first batch size, read after as many clips. What a run of 100 steps of 8 clips
has left after 40 of them, 480 clips, is 120 steps of 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from effvid_jax.optim import make_optimizer, make_schedule


class Position(NamedTuple):
    """Where a run was saved.

    Attributes:
        step: made last.
        clips: seen up to then.
        batch_size: of that step.
        first_batch_size: of the run's first step, in which epochs and schedule are counted.
    """

    step: int
    clips: int
    batch_size: int
    first_batch_size: int

    def at(self, step: int, batch_size: int) -> Position:
        """The same run some steps later, all of them with `batch_size`."""
        return Position(step, self.clips + (step - self.step) * batch_size, batch_size, self.first_batch_size)


def begin(batch_size: int) -> Position:
    """Nothing seen yet."""
    return Position(0, 0, batch_size, batch_size)


class Course:
    """The steps that a run still has, and what each of them is.

    Args:
        config: of the run.
        num_clips: of the training split.
        position: where it goes on; None: at its beginning.

    Attributes:
        num_steps: of the whole run.
        steps_per_epoch: of the batch size of now.
        skip: batch k begins with clip k x batch size + `skip` of the endless stream.
        rate: step -> learning rate.
        optimizer: with that rate.

    Raises:
        UserError: no step at all, or an optimiser or schedule that is not known.
    """

    def __init__(self, config, num_clips: int, position: Position | None = None):
        self._config, self._num_clips, self._size = config, num_clips, config.data.batch_size
        self.steps_per_epoch = max(1, num_clips // self._size)
        self.go_on(position)

    def go_on(self, position: Position | None) -> None:
        """Continues at another place: where it is becomes known only when the saved run has been read."""
        config, size = self._config, self._size
        self._position = at = position or begin(size)
        self._per_epoch = max(1, self._num_clips // at.first_batch_size)
        total = config.train.num_steps or round(config.train.num_epochs * self._per_epoch)
        self.skip = at.clips - at.step * size
        seen, self.num_steps = None, total
        if self.skip or size != at.first_batch_size:
            left = -((at.clips - total * at.first_batch_size) // size)  # rounded up
            self.num_steps, seen = at.step + left, _in_steps(at, size)
        self.rate = make_schedule(config.optim, self._per_epoch, total, seen)
        self.optimizer = make_optimizer(config.optim, self._per_epoch, total, seen)

    def told(self) -> str:
        """What another batch size than that of the step before means; '' if it is the same."""
        at = self._position
        if at.batch_size == self._size:
            return ""
        epoch = at.clips / (self._per_epoch * at.first_batch_size)
        return (f"config.data.batch_size was {at.batch_size} and is {self._size} after step {at.step}: data "
                f"and learning rate go on with clip {at.clips + 1:,} (epoch {epoch:.4g}); "
                f"{max(self.num_steps - at.step, 0)} steps remain, the last is step {self.num_steps}")


def _in_steps(position: Position, size: int) -> Callable[[Any], Any]:
    """Step -> how many steps of the first batch size see as many clips, exactly where that is whole.

    The number of clips itself does not fit into 32 bits, which is what a step on the device has.
    """
    first = position.first_batch_size
    common = math.gcd(size, first)
    whole, rest = divmod(position.clips, first)

    def seen(step):
        later, period = step - position.step, first // common  # after which both have whole batches
        rounds, clips = later // period, rest + later % period * size
        return whole + rounds * (size // common) + clips // first + (clips % first) / first

    return seen
