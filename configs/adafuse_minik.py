"""AdaFuse on Mini-Kinetics: per channel a frame is computed, taken from the one before, or left out.

    python -m effvid_jax.torch_import --backbone resnet50 --checkpoint resnet50.pth --out runs/resnet50
    python main.py --config=configs/adafuse_minik.py --workdir=runs/adafuse_minik \
        --config.init.checkpoint=runs/resnet50 --config.init.skip='^fc/|/policy/'

Published: 72.3 % at 23.0 GFLOPs. It saves multiply-adds, not time, see `effvid_jax/methods/adafuse.py`.
`:backbone=tsm_resnet50` fuses a network with a temporal shift. `:demo` and `:tiny` train a small network on
the embedded benchmark. Recipe and sources: `configs/recipes/routing.py`.
"""

from configs.recipes import routing


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone."""
    return routing.adafuse("minik", arg)
