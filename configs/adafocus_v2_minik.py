"""AdaFocus V2 on Mini-Kinetics-200: a glance at 16 frames says where to look closely.

    python -m effvid_jax.torch_import --backbone mobilenet_v2 --checkpoint mobilenet_v2.pth --out runs/mbv2
    python -m effvid_jax.torch_import --backbone resnet50 --checkpoint resnet50.pth --out runs/r50
    python main.py --config=configs/adafocus_v2_minik.py --config.method.glance=runs/mbv2 \
        --config.method.focus=runs/r50 --workdir=runs/adafocus_v2_minik

Published (top-1, GFLOPs): 75.4 / 27.0, with `:glance=resnet50` 74.0 / 34.1.
`:early_exit` is the form whose easy videos stop early. `:demo` and `:tiny` train small networks on the
embedded benchmark. Recipe: the released one, see `configs/recipes/adafocus.py`.
"""

from configs.recipes import adafocus


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, patch, glance (mobilenet_v2, resnet50), early_exit."""
    return adafocus.v2("minik", arg)
