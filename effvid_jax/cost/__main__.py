"""`python -m effvid_jax.cost --backbone NAME --input TxHxW`; see `counting.py`."""

from effvid_jax.cost.counting import main

main()
