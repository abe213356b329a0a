"""VA-RED2 on Kinetics-400: convolutions that compute as many channels and frames as each clip needs.

    python main.py --config=configs/va_red2_k400.py:backbone=x3d_m,frames=16 --workdir=runs/k400_x3d
    python main.py --config=configs/va_red2_k400.py:static,backbone=x3d_m,frames=16 --workdir=...

Eight TPU v5e chips hold it with frames=16, see docs/scale.md.

Paper: Table 5. R(2+1)D-18, 16 frames: video-1 65.6 % at 55.2 GMACs static, 67.6 % at 40.3 dynamic.
`:demo` and `:tiny` train both on the embedded benchmark, with a small network of the same family. The
dynamic network can start from the static one: `:from_static` with `--config.init.checkpoint=DIR`.
"""

from configs.recipes import va_red2


def get_config(arg: str = ""):
    """Arguments: tiny, demo, static, backbone, frames, search_space, baseline, from_static, hard."""
    return va_red2.recipe("k400", arg)
