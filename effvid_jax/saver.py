"""When a run's state is saved: every so many steps, after the last, and when somebody stops it."""

from __future__ import annotations

import signal
import threading

from effvid_jax import checkpoint
from effvid_jax.errors import Interrupted


class Saver:
    """The checkpoints of a run; what is still being written is on disk at the end of the `with` block.

    Args:
        config: of the run.
        workdir: gets `checkpoints/<step>`.
        class_names: K names, saved with the state.
        num_steps: of the whole run.
    """

    def __init__(self, config, workdir: str, class_names, num_steps: int):
        self._config, self._class_names, self._num_steps = config, class_names, num_steps
        self._every = config.train.checkpoint_every_steps
        self._checkpoints = checkpoint.Checkpointer(workdir, config.train.keep)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._checkpoints.close()

    def newest(self, template):
        """What is saved as `config.init.step`, or last, in the structure of `template`; None if nothing is.

        Raises:
            CheckpointError: it is damaged, or belongs to another network or optimiser.
        """
        if not self._checkpoints.steps():
            return None
        return self._checkpoints.restore(template, self._config.init.step or None)

    def at(self, step: int, state, now: str = "", before=lambda: None) -> None:
        """Saves `state.saved()` if it is time.

        Args:
            step: that was made last.
            state: after it.
            now: name of a signal that wants the run to stop, or ''.
            before: called before saving; raises if the state must not be saved.

        Raises:
            Interrupted: after a signal, with the state saved.
        """
        if now or step % self._every == 0 or step == self._num_steps:
            before()
            self._checkpoints.save(step, state.saved(), self._config, self._class_names)
        if now:
            self._checkpoints.wait()
            raise Interrupted(
                f"stopped by {now} after step {step} of {self._num_steps}; the state is saved. Start the "
                f"same command again to continue.")


class Signals:
    """Remembers SIGINT and SIGTERM instead of dying of them; the second one kills as usual."""

    def __init__(self):
        self.caught = ""
        self._old = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGINT, signal.SIGTERM):
                self._old[s] = signal.signal(s, self._catch)
        return self

    def _catch(self, number, frame):
        del frame
        self.caught = signal.Signals(number).name
        signal.signal(number, self._old[number])

    def __exit__(self, *_):
        for s, handler in self._old.items():
            signal.signal(s, handler)
