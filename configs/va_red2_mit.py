"""VA-RED2 on Moments in Time: convolutions that compute as many channels and frames as each clip needs.

    python main.py --config=configs/va_red2_mit.py:backbone=x3d_m,frames=16 --workdir=runs/mit_x3d
    python main.py --config=configs/va_red2_mit.py:static,backbone=x3d_m,frames=16 --workdir=...

Paper: Table 6. R(2+1)D-18, 16 frames: video-1 28.8 % at 55.2 GMACs static, 30.1 % at 42.5 dynamic.
`:demo` and `:tiny` train both on the embedded benchmark, with a small network of the same family. The
dynamic network can start from the static one: `:from_static` with `--config.init.checkpoint=DIR`.
"""

from configs.recipes import va_red2


def get_config(arg: str = ""):
    """Arguments: tiny, demo, static, backbone, frames, search_space, baseline, from_static, hard."""
    return va_red2.recipe("mit", arg)
