"""VA-RED2 on Mini-Kinetics-200: convolutions that compute as many channels and frames as each clip needs.

    python main.py --config=configs/va_red2_minik.py:backbone=x3d_m,frames=16 --workdir=runs/minik_x3d
    python main.py --config=configs/va_red2_minik.py:static,backbone=x3d_m,frames=16 --workdir=...

Paper: Tables 1 to 4. R(2+1)D-18, 8 frames: clip-1 56.4 % at 27.7 GMACs static, 57.7 % at 20.0 dynamic.
`:demo` and `:tiny` train both on the embedded benchmark, with a small network of the same family. The
dynamic network can start from the static one: `:from_static` with `--config.init.checkpoint=DIR`.
"""

from configs.recipes import va_red2


def get_config(arg: str = ""):
    """Arguments: tiny, demo, static, backbone, frames, search_space, baseline, from_static, hard."""
    return va_red2.recipe("minik", arg)
