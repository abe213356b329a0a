"""Uni-AdaFocus on Mini-Kinetics-200: a glance at 16 of 48 frames says when and where to look closely.

    python -m effvid_jax.torch_import --backbone mobilenet_v2 --checkpoint mobilenet_v2.pth --out runs/mbv2
    python -m effvid_jax.torch_import --backbone resnet50 --checkpoint resnet50.pth --out runs/r50
    python main.py --config=configs/uni_adafocus_minik.py --config.method.glance=runs/mbv2 \
        --config.method.focus=runs/r50 --workdir=runs/uni_adafocus_minik

Published (top-1, GFLOPs): 75.8 / 27.2, with exits 75.7 / 18.1 and 74.3 / 9.1.
`:early_exit` is the form whose easy videos stop early. `:demo` and `:tiny` train small networks on the
embedded benchmark. Recipe: the released one, see `configs/recipes/adafocus.py`.
"""

from configs.recipes import adafocus


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, patch, early_exit."""
    return adafocus.uni("minik", arg)
