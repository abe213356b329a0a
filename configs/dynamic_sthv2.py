"""Dynamic Inference on Something-Something V2; see `dynamic_k400.py`. Order and direction matter here.

    python main.py --config=configs/dynamic_sthv2.py:backbone=msdnet_38 --workdir=runs/dynamic_sthv2

Paper: MSDNet-38 60.0 % at 35.4 GMACs, ResNet-50 58.2 % at 48.0.
"""

from configs.recipes import dynamic_inference


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, scheme, frames, shift."""
    return dynamic_inference.recipe("sthv2", arg)
