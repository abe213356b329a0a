"""Convolutions that compute, clip by clip, what their gates ask for.

The gate and the convolution (`gates.py`), what a gate sees (`inputs.py`), what is computed (`variants.py`),
batch norms folded away (`folding.py`), what decisions cost and tell (`decisions.py`), and did on a split
(`ratios.py`), the weight that brings the cost to a target (`target.py`), gates that decide nothing any more
(`freezing.py`). The paper's loss is `effvid_jax/methods/va_red2.py`.
"""
