"""How sure a network is at a checkpoint: the scores that are compared with thresholds (`stopping.py`).

    score          of                                                       source
    'confidence'   the class probabilities p: max p                         Dynamic Inference (the paper)
    'margin'       p: the largest minus the second largest                  ours
    'entropy'      p: 1 - H(p) / log K                                      BranchyNet; AdaFocusV2's option
    'patience'     the answers so far: how many checkpoints in a row, this  PABEE, arXiv 2006.04152
                   one included, gave the same one
    'learned'      the state: a small head's probability that the end will  CATs, arXiv 2104.08803, and
                   answer as this checkpoint does (`judge.py`)              CALM, arXiv 2207.07061
    'logit'        the logits: the largest, as it is                        AdaFocus V2, as released

All lie in [0, 1] but the last, which AdaFocus V2 and Uni-AdaFocus alone know. It and the first three are of
an answer alone. PABEE counts how often an answer was repeated: its patience t is t + 1 checkpoints here, and
it has one t for all of them, as `config.method.patience` gives it; a search may choose another number for
every checkpoint. There are m scores at most, so many videos are alike and stop together: a search may miss a
budget by what such a group costs, to the cheap side.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

OF_AN_ANSWER = ("confidence", "margin", "entropy")
RULES = (*OF_AN_ANSWER, "patience", "learned")
LOGIT = "logit"
WITH_LOGIT = (LOGIT, *RULES)  # the order of scores where it is known
UNKNOWN = -1.0  # in place of a score that a network does not have; reaches no threshold


def scores(logits) -> jax.Array:
    """Scores of the rules of an answer alone: logits (..., K) -> (..., 3), float32."""
    p = jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    top = jax.lax.top_k(p, min(2, p.shape[-1]))[0]
    entropy = -(p * jnp.log(jnp.maximum(p, 1e-30))).sum(axis=-1)
    return jnp.stack([top[..., 0], top[..., 0] - top[..., -1],
                      1 - entropy / np.log(max(p.shape[-1], 2))], axis=-1)


def of_row(row, num_checkpoints: int):
    """The score of so many agreeing checkpoints; by a power of two, so equal ones are equal everywhere."""
    return row / 2 ** (num_checkpoints - 1).bit_length()


def all_scores(logits_BmK, sure_Bm=None, known=RULES) -> jax.Array:
    """Scores of all rules at all checkpoints, (B, m, R) in the order of `known`, float32.

    Args:
        logits_BmK: of all checkpoints.
        sure_Bm: of 'learned'; None: `UNKNOWN`.
        known: `RULES` or `WITH_LOGIT`.
    """
    m, state, patience = logits_BmK.shape[1], None, []
    for k in range(m):
        state = agreeing(state, logits_BmK[:, k])
        patience.append(of_row(state["row"], m))
    if sure_Bm is None:
        sure_Bm = jnp.full(logits_BmK.shape[:2], UNKNOWN)
    largest = [_largest(logits_BmK)[..., None]] if LOGIT in known else []
    return jnp.concatenate([*largest, scores(logits_BmK), jnp.stack(patience, axis=1)[..., None],
                            jnp.asarray(sure_Bm, jnp.float32)[..., None]], axis=-1)


def remember(rule: str, before, after, logits_BK) -> dict:
    """The state after a segment, with what its score will read.

    Args:
        rule: one of `WITH_LOGIT`.
        before, after: states that the segment was given and has left, see `network.run_segment`.
        logits_BK: of the checkpoint at its end.
    """
    return {**after, "agreeing": agreeing(before.get("agreeing"), logits_BK)} if rule == "patience" else after


def of_state(rule: str, num_checkpoints: int, state, logits_BK) -> jax.Array:
    """Scores (B,) of a rule by the state that `remember` gave."""
    if rule == "patience":
        return of_row(state["agreeing"]["row"], num_checkpoints)
    if rule == LOGIT:
        return _largest(logits_BK)
    return jax.nn.sigmoid(state["sure"]) if rule == "learned" else scores(logits_BK)[:, RULES.index(rule)]


def _largest(logits) -> jax.Array:
    return logits.max(axis=-1).astype(jnp.float32)


def agreeing(before, logits_BK) -> dict[str, jax.Array]:
    """How many checkpoints in a row have given the answer of the one that is reached now.

    Args:
        before: what this gave at the checkpoint before; None at the first.
        logits_BK: of this one.

    Returns:
        'answer' (B,) and 'row' (B,) float32, this one counted; NaN where logits are not finite.
    """
    answer = logits_BK.argmax(axis=-1).astype(jnp.int32)
    row = jnp.ones(answer.shape, jnp.float32)
    if before is not None:  # NaN + 1 is NaN: what followed an answer that was none begins anew
        row += jnp.where((answer == before["answer"]) & jnp.isfinite(before["row"]), before["row"], 0)
    return {"answer": answer, "row": jnp.where(jnp.isfinite(logits_BK).all(axis=-1), row, jnp.nan)}
