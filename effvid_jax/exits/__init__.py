"""Early exits: easy videos stop early.

Where a network may stop (`routes.py`), the network (`network.py`), when it stops (`stopping.py`), and the
program that really does (`executor.py`); accuracy against cost (`curve.py`). The paper's idea is
`effvid_jax/methods/dynamic_inference.py`.
"""
