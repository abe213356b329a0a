"""When a run's state is saved: every so many steps, after the last, and when somebody stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

import jax

from effvid_jax import checkpoint, console
from effvid_jax.errors import Interrupted, UserError


class Saver:
    """The checkpoints of a run; what is still being written is on disk at the end of the `with` block.

    Args:
        config: of the run.
        workdir: gets `checkpoints/<step>`.
        class_names: K names, saved with the state.
        num_steps: of the whole run.

    Raises:
        UserError: `config.train.keep`, or a workdir that cannot be written; `CheckpointError` from what
            saves, where it is not on disk.
    """

    def __init__(self, config, workdir: str, class_names, num_steps: int):
        self._config, self._class_names, self._num_steps = config, class_names, num_steps
        self._every = config.train.checkpoint_every_steps
        self._checkpoints = checkpoint.Checkpointer(workdir, config.train.keep)

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
        return self._checkpoints.resume(template, self._config.init.step)

    def at(self, step: int, state, now: str = "", before=lambda: None) -> None:
        """Saves `state.saved()` if it is time; after the last step it is on disk when this returns.

        Args:
            step: that was made last.
            state: after it.
            now: name of a signal that wants the run to stop, or ''.
            before: called before saving; raises if the state must not be saved.

        Raises:
            Interrupted: after a signal, with the state saved.
        """
        if now and not step:
            raise Interrupted(f"stopped by {now} before the first step: there is nothing to save. Start the "
                              f"same command again.")
        if now or step % self._every == 0 or step == self._num_steps:
            before()
            self._checkpoints.save(step, state.saved(), self._config, self._class_names)
        if now or step == self._num_steps:
            self._checkpoints.wait()
        if now:
            raise Interrupted(
                f"stopped by {now} after step {step} of {self._num_steps}; the state is saved. Start the "
                f"same command again to continue.")

    def again(self, state) -> None:
        """Saves the state after the last step in place of the one that is there."""
        self._checkpoints.replace(self._num_steps, state.saved(), self._config, self._class_names)


class Signals:
    """SIGINT and SIGTERM while a run must not simply die of them. Any second signal ends the process at once.

    Outside `steps` there is nothing to save, and a signal raises `Interrupted`. Inside, the first one is
    remembered as `caught`, for the loop to save and stop; while it waits for data (`next`), the wait ends.

    Python's handlers wait until the main thread is back in Python, which can take minutes while something is
    compiled; so a thread listens as well, and answers and quits for it.
    """

    _of_process: Signals | None = None  # whose turn it is

    def __init__(self):
        self.caught = ""
        self._old: dict[int, Any] = {}
        self._heard = 0
        self._saves = self._waits = False

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGINT, signal.SIGTERM):
                self._old[s] = signal.signal(s, self._catch)
            self._ear, mouth = os.pipe()
            os.set_blocking(mouth, False)
            self._mouths = mouth, signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
            self._outer, Signals._of_process = Signals._of_process, self
        return self

    def __exit__(self, *_):
        if self._old:
            Signals._of_process = self._outer
            self._give_back()
            os.close(self._mouths[0])
            self._thread.join()
            os.close(self._ear)

    @contextlib.contextmanager
    def steps(self):
        """The block in which there is something to save, and the loop looks at `caught`.

        Raises:
            Interrupted: a signal that came when the loop did not look any more; everything is saved.
        """
        self._raise()
        self._saves = True
        try:
            yield
        finally:
            self._saves = False
        self._raise()

    def next(self, batches):
        """`next(batches)`; None where a signal ends the wait for it.

        With several processes every one of them waits on: they stop after the same step.
        """
        try:
            try:
                self._waits = jax.process_count() == 1
                return None if self.caught and self._waits else next(batches)
            finally:
                self._waits = False
        except _Woken:
            return None

    def _raise(self) -> None:
        if self.caught:
            raise Interrupted(f"stopped by {self.caught}; what was trained is saved. Start the same command "
                              f"again to continue.")

    def _catch(self, number, frame):
        del frame
        self.caught = signal.Signals(number).name
        if not self._saves:
            self._raise()
        if self._waits:
            raise _Woken

    def _listen(self) -> None:
        while number := os.read(self._ear, 1):
            if number[0] not in self._old:
                continue
            self._heard += 1
            if self._heard > 1:
                os._exit(128 + number[0])
            what = "saving" if self._saves else "stopping"
            os.write(2, f"\n{signal.Signals(number[0]).name}: {what}; again to quit at once\n".encode())

    def _give_back(self) -> None:
        signal.set_wakeup_fd(self._mouths[1])
        for s, handler in self._old.items():
            signal.signal(s, handler)


def _in_child() -> None:
    """A forked process dies of signals as usual, and says nothing into its parent's ear."""
    if Signals._of_process is not None:
        with contextlib.suppress(ValueError):  # not in the main thread
            Signals._of_process._give_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class _Woken(Exception):
    """Ends a wait for data."""
