"""A linear classifier on what a network sees before it is trained on: where its own one begins.

With few clips a classifier of random weights costs more than it learns: its first gradients move the network
away from what it knew, before they mean anything (Kumar et al., "Fine-Tuning can Distort Pretrained Features
and Underperform Out-of-Distribution", ICLR 2022: LP-FT). `config.init.probe` fits the classifier first.

    fit(x_NC, y_N, decay, K)    least cross-entropy + decay / 2 * |W|^2, on standardised features
    choose(x_NC, y_N, K)        the decay that is right most often on five held-out parts
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from effvid_jax import console, sharding
from effvid_jax.evaluate import Evaluator
from effvid_jax.methods import Prediction, Runner, Variables, find_method
from effvid_jax.tasks import Task

DECAYS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # the first of equals is chosen
FOLDS = 5
STEPS = 100  # of L-BFGS
CLASSIFIER = "fc"


class Linear(NamedTuple):
    """A classifier: logits = x @ kernel_CK + bias_K."""

    kernel: Any
    bias: Any

    def right(self, x_NC, y_N) -> float:
        """Share of the rows whose class it tells."""
        return float(np.mean(np.asarray(x_NC @ self.kernel + self.bias).argmax(axis=1) == y_N))


def begin(config, task: Task, variables: Variables, mesh) -> dict[str, Any]:
    """The parameters with a classifier that is fitted to the training clips, seen as in evaluation.

    Args:
        config: of a run, see `start/bounds.py`.
        task: of the run.
        variables: that it begins with.
        mesh: the devices.
    """
    x, y = features(config, task, variables, mesh, "train")
    classes = variables.params[CLASSIFIER]["bias"].shape[0]
    decay, share = choose(x, y, classes)
    found = fit(x, y, decay, classes)
    console.say(f"classifier: fitted to {len(y):,} clips as the network sees them now, {share:.1%} of those "
                f"held out are right (decay {decay:g})")
    fitted = {"kernel": found.kernel, "bias": found.bias}
    if jax.process_count() > 1:  # the same everywhere, to the last bit
        from jax.experimental import multihost_utils

        fitted = multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, fitted))
    return {**variables.params, CLASSIFIER: jax.tree.map(jnp.asarray, fitted)}


def features(config, task: Task, variables: Variables, mesh, split: str) -> tuple[np.ndarray, np.ndarray]:
    """What the classifier reads of the clips of a split, seen as in evaluation: x (N, C) and classes y (N,).

    Args:
        config, task: of a run.
        variables: of its network.
        mesh: the devices.
        split: its name.
    """
    network = find_method(config.method.name).inference(config, task)
    evaluator = Evaluator(config, network, mesh, split)

    def look(variables, batch):
        seen = network.features(variables, batch)
        nothing = jnp.zeros((len(seen), len(task.class_names)))
        return Prediction(nothing, nothing[:, 0], {"features": seen})

    rows = evaluator.rows(sharding.replicate(variables, mesh), Runner(look), f"{split}, for the classifier")
    return rows.arrays["features"].astype(np.float32), rows.arrays["label"]


def fit(x_NC, y_N, decay: float, classes: int) -> Linear:
    """The classifier of least loss; L-BFGS from zero.

    Args:
        x_NC: features, standardised inside: equal decay for all of them.
        y_N: classes from 0.
        decay: half the square of the weights counts so much beside the mean cross-entropy.
        classes: K.
    """
    mean, std = x_NC.mean(axis=0), x_NC.std(axis=0) + 1e-6
    kernel, bias = _solve((x_NC - mean) / std, y_N, decay, classes)
    kernel = kernel / std[:, None]
    return Linear(kernel, bias - mean @ kernel)


def choose(x_NC, y_N, classes: int) -> tuple[float, float]:
    """(decay, share of held-out rows that are right with it), by cross-validation on `FOLDS` parts."""
    part = np.random.default_rng(0).permutation(len(y_N)) % min(FOLDS, len(y_N))

    def score(decay: float) -> float:
        return float(np.mean([fit(x_NC[part != k], y_N[part != k], decay, classes).right(
            x_NC[part == k], y_N[part == k]) for k in range(part.max() + 1)]))

    scores = {decay: score(decay) for decay in DECAYS}
    best = max(scores, key=scores.get)
    return best, scores[best]


@partial(jax.jit, static_argnums=3)
def _solve(x_NC, y_N, decay, classes: int):
    """(weights (C, K), biases (K,)) for standardised features."""
    def loss(weights):
        logits = x_NC @ weights[0] + weights[1]
        cross = optax.softmax_cross_entropy_with_integer_labels(logits, y_N).mean()
        return cross + decay / 2 * jnp.square(weights[0]).sum()

    solver = optax.lbfgs()

    def step(_, state):
        weights, inner = state
        value, gradient = optax.value_and_grad_from_state(loss)(weights, state=inner)
        updates, inner = solver.update(gradient, inner, weights, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(weights, updates), inner

    start = jnp.zeros((x_NC.shape[1], classes)), jnp.zeros(classes)
    return jax.lax.fori_loop(0, STEPS, step, (start, solver.init(start)))[0]
