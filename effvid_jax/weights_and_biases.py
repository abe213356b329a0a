"""The metrics of a run in a project of Weights & Biases as well: `config.train.wandb=PROJECT`.

Needs the package `wandb`, which is the extra of that name; its own settings apply, such as
WANDB_MODE=offline, WANDB_ENTITY and WANDB_API_KEY. A run that goes on in its workdir goes on there under the
same id, and whatever that service does, training goes on.
"""

from __future__ import annotations

import os
import uuid

from effvid_jax import checkpoint, console, writers
from effvid_jax.errors import UserError

FILE = "wandb.json"  # in the workdir: the id of its run


def check(project: str) -> None:
    """Raises UserError if a project is named and the package is not there."""
    if not project:
        return
    try:
        import wandb  # noqa: F401 - takes long, and few runs want it
    except ImportError as error:
        raise UserError(f"config.train.wandb={project!r} needs the package wandb: pip install wandb (or "
                        f"pip install 'effvid_jax[wandb]'), or leave the field empty.") from error


class Run:
    """A run there; its methods are those that `writers.MetricWriter` calls.

    Args:
        project: its name; made where it is not there.
        config: of the run.
        workdir: of the run; gets `wandb.json` and what the package writes.

    Raises:
        UserError: it cannot begin, such as without a key.
    """

    def __init__(self, project: str, config, workdir: str):
        import wandb

        path = os.path.join(workdir, FILE)
        known = writers.read_json(path) if os.path.exists(path) else {}
        number = known.get("id") or uuid.uuid4().hex[:8]
        try:
            self._run = wandb.init(project=project, id=number, resume="allow", dir=workdir,
                                   name=f"{config.name} {os.path.basename(os.path.abspath(workdir))}",
                                   config=checkpoint.to_json(config))
            # Steps as a value of their own: those that are made again may be written again.
            self._run.define_metric("*", step_metric="step")
        except Exception as error:  # its types are not those of any other version
            raise UserError(f"config.train.wandb={project!r}: Weights & Biases does not begin a run "
                            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). "
                            f"WANDB_MODE=offline writes into {workdir} alone, `wandb login` keeps a key."
                            ) from error
        writers.write_json(path, {"id": number, "project": project})

    def add(self, row: dict) -> None:
        """Sends the metrics of a step; 'step' is one of them."""
        self._try(lambda: self._run.log(dict(row)))

    def finish(self, metrics: dict) -> None:
        """Sends the result."""
        self._try(lambda: self._run.summary.update(dict(metrics)))

    def close(self) -> None:
        """Ends it; what is not sent yet is."""
        self._try(lambda: self._run.finish())

    def _try(self, call) -> None:
        if self._run is None:
            return
        try:
            call()
        except Exception as error:
            console.say(f"Weights & Biases gets nothing more of this run ({type(error).__name__}: "
                        f"{' '.join(str(error).split())[:200]})")
            self._run = None
