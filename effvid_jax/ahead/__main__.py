"""`python -m effvid_jax.ahead --config=FILE --topology=v5e:2x4`; see `report.py`."""

import sys

from effvid_jax.ahead.report import command

sys.exit(command())
