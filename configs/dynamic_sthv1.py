"""Dynamic Inference on Something-Something V1; see `dynamic_k400.py`. Order and direction matter here.

    python main.py --config=configs/dynamic_sthv1.py:backbone=msdnet_38 --workdir=runs/dynamic_sthv1

Paper: MSDNet-38 46.5 % at 38.4 GMACs, ResNet-50 45.2 % at 52.8.
"""

from configs.recipes import dynamic_inference


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, scheme, frames, shift."""
    return dynamic_inference.recipe("sthv1", arg)
