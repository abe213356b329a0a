"""Published weights of a method whose network is more than a backbone (`--config` in place of `--backbone`).

    python -m effvid_jax.torch_import --config configs/adafocus_v2_actnet.py \
        --checkpoint actnet_p128_mbv2.pth.tar --out runs/adafocus
    python main.py --mode=eval --workdir=runs/adafocus --config=configs/adafocus_v2_actnet.py

The config says how the network looks: model, method and the size of clips; nothing else of it is read.
"""

from __future__ import annotations

import os
import runpy

import jax

from effvid_jax.errors import UserError
from effvid_jax.methods import make_method
from effvid_jax.start import bounds
from effvid_jax.tasks import make_task


def load_config(text: str):
    """The config of 'FILE.py' or 'FILE.py:arguments'.

    Raises:
        UserError: there is no such file, or it is no config.
    """
    path, _, arg = text.partition(":")
    if not os.path.isfile(path):
        raise UserError(f"--config {text}: there is no file {path}; expected one of configs/, maybe with "
                        f"arguments after a colon.")
    found = runpy.run_path(path)
    if "get_config" not in found:
        raise UserError(f"--config {text}: {path} has no function get_config, so it is no config.")
    config = found["get_config"](arg)
    bounds.check_values(config)
    return config


def template_of(config, class_names) -> dict:
    """Shapes of all variables that a trained network of this config has.

    Raises:
        UserError: what the method refuses.
    """
    method, data = make_method(config, make_task(config, class_names), inference=True), config.data
    shape = (1, data.num_frames, data.crop, data.crop, 3)
    variables = jax.eval_shape(lambda: method.init(jax.random.key(0), shape))
    return {"params": variables.params, "batch_stats": variables.stats}
