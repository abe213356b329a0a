"""What a training step changes, and where that begins: in an earlier run, a checkpoint, or from scratch."""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax import checkpoint, fit, published
from effvid_jax.methods import Method, Variables
from effvid_jax.saver import Saver
from effvid_jax.torch_import import pretrained


@flax.struct.dataclass
class TrainState:
    """What a step reads and writes. `frozen` rides along and is not saved.

    `averaged`: running averages of `params` and `stats` by these names, with `config.train.ema`; {} without.
    """

    step: Any
    params: Any
    stats: Any
    optimizer: Any
    frozen: Any
    averaged: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> Variables:
        return Variables(self.params, self.stats, self.frozen)

    @property
    def evaluated(self) -> Variables:
        """Those that are evaluated, and used when the run is over."""
        return Variables(**self.averaged, frozen=self.frozen) if self.averaged else self.variables

    def begin_with(self, params) -> TrainState:
        """With other parameters before the first step."""
        averaged = {**self.averaged, "params": jax.tree.map(np.array, params)} if self.averaged else {}
        return self.replace(params=params, averaged=averaged)

    def with_stats(self, stats) -> TrainState:
        """With other `stats` of the evaluated network."""
        return self.replace(averaged={**self.averaged, "stats": stats}) if self.averaged else self.replace(
            stats=stats)

    def saved(self) -> dict[str, Any]:
        """The part that goes into a checkpoint."""
        averaged = {"averaged": self.averaged} if self.averaged else {}
        return {"params": self.params, "stats": self.stats, "optimizer": self.optimizer,
                "step": self.step, **averaged}


def start(config, method: Method, tx, saver: Saver) -> tuple[TrainState, bool]:
    """The state to go on from, and whether it is that of an earlier run."""
    data = config.data
    state = init_state(method, tx, config, (data.batch_size, data.num_frames, data.crop, data.crop, 3))
    saved = saver.newest(state.saved())
    return (state, False) if saved is None else (state.replace(**saved), True)


def init_state(method: Method, tx, config, clip_shape) -> TrainState:
    """A fresh state, from `config.init.checkpoint` where one is named."""
    variables = method.init(jax.random.key(config.seed), clip_shape)
    params, stats = variables.params, variables.stats
    if config.init.checkpoint:
        skip = config.init.skip
        if config.init.checkpoint == published.WORD:  # of other classes, or of another task
            loaded = pretrained(config.model.backbone, **config.model.options)
            skip = "|".join(filter(None, [skip, "(^|/)(fc|head)/"]))
        else:
            _, loaded = checkpoint.load_variables(config.init.checkpoint)
        if "backbone" in params and "backbone" not in loaded["params"]:
            # A plain network as the backbone of one with exits: what is outside is new.
            loaded = {name: {"backbone": tree} for name, tree in loaded.items()}
            skip = "|".join(filter(None, [skip, "^(?!backbone/)"]))
        if checkpoint.TRAINING_ONLY in params:  # no file of a network has them
            skip = "|".join(filter(None, [skip, f"^{checkpoint.TRAINING_ONLY}/"]))
        where = f"config.init.checkpoint={config.init.checkpoint!r}"
        params, stats = (fit.merge(ours, theirs, skip, where) for ours, theirs in (
            (params, loaded["params"]), (stats, loaded["batch_stats"])))
    optimizer = jax.jit(tx.init)(params)  # one program for hundreds of small ones
    return first_state(config, Variables(params, stats, variables.frozen), optimizer)


def first_state(config, variables: Variables, optimizer) -> TrainState:
    """The state before the first step."""
    params, stats = variables.params, variables.stats
    averaged = {"params": params, "stats": stats} if config.train.get("ema", 0) else {}
    averaged = jax.tree.map(np.array, averaged)  # arrays of their own: the step donates all of them
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer, variables.frozen, averaged)
