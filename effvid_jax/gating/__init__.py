"""Convolutions that compute, clip by clip, what their gates ask for.

The gate and the convolution (`gates.py`), what is computed (`variants.py`), batch norms folded away
(`folding.py`). The paper's loss and costs are `effvid_jax/methods/va_red2.py`.
"""
