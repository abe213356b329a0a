"""When a run's state is saved: every so many steps, after the last, and when somebody stops it."""

from __future__ import annotations

from effvid_jax import checkpoint, console
from effvid_jax.course import Course
from effvid_jax.errors import Interrupted, UserError
from effvid_jax.signals import Signals


class Saver:
    """The checkpoints of a run; what is still being written is on disk at the end of the `with` block.

    Args:
        config: of the run.
        workdir: gets `checkpoints/<step>`.
        class_names: K names, saved with the state.
        course: of the run.

    Raises:
        UserError: `config.train.keep`, or a workdir that cannot be written; `CheckpointError` from what
            saves, where it is not on disk.
    """

    def __init__(self, config, workdir: str, class_names, course: Course):
        self._config, self._class_names, self._course = config, class_names, course
        self._every = config.train.checkpoint_every_steps
        self._checkpoints = checkpoint.Checkpointer(workdir, config.train.keep)
        self._there: int | None = None  # the step that was saved last, or that the run goes on from

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self._checkpoints.close()
        except UserError as problem:
            if error is None:
                raise
            console.say(str(problem))  # what ended the run comes first

    def newest(self, template):
        """What is saved as `config.init.step`, or last, in the structure of `template`; None if nothing is.

        What is damaged is set aside, see `Checkpointer.resume`.

        Raises:
            CheckpointError: nothing sound is left, or it belongs to another network or optimiser.
        """
        found = self._checkpoints.resume(template, self._config.init.step)
        self._there = None if found is None else int(found["step"])
        return found

    @property
    def position(self):
        """Where the run was saved that `newest` gave; None if there was none."""
        return self._checkpoints.position

    def at(self, step: int, state, now: str = "", before=lambda: None, keep=None) -> None:
        """Saves `state.saved()` if it is time; after the last step it is on disk when this returns.

        Args:
            step: that was made last.
            state: after it.
            now: name of a signal that wants the run to stop, or ''.
            before: called before saving; raises if the state must not be saved.
            keep: called with the state on disk, which is saved for it at any step.

        Raises:
            Interrupted: after a signal, with the state saved.
        """
        if now and not step:
            raise Interrupted(f"stopped by {now} before the first step: there is nothing to save. Start the "
                              f"same command again.")
        if step != self._there and (now or keep or step % self._every == 0 or step == self._course.num_steps):
            before()
            self._checkpoints.save(step, state.saved(), self._config, self._class_names)
            self._there = step
        if now or keep or step == self._course.num_steps:
            self._checkpoints.wait()
        if keep:
            with Signals.held():
                keep()
        if now:
            raise Interrupted(
                f"stopped by {now} after step {step} of {self._course.num_steps}; the state is saved. Start "
                f"the same command again to continue.")

    def again(self, state) -> None:
        """Saves the state after the last step in place of the one that is there."""
        with Signals.held():
            self._checkpoints.replace(self._course.num_steps, state.saved(), self._config, self._class_names)
