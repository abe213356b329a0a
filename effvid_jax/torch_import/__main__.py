"""`python -m effvid_jax.torch_import --backbone NAME --checkpoint FILE --out DIR`; see `conversion.py`."""

import sys

from effvid_jax.signals import told
from effvid_jax.torch_import.conversion import main

sys.exit(told(main))
