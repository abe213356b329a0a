"""`python -m effvid_jax.cost --backbone NAME --input TxHxW`; see `counting.py`."""

import sys

from effvid_jax.cost.counting import main
from effvid_jax.signals import told

sys.exit(told(main))
