"""Dynamic Inference on UCF-101, fine-tuned from Kinetics-400; see `dynamic_k400.py`.

    python main.py --config=configs/dynamic_ucf101.py:backbone=msdnet_38,split=1 --workdir=runs/ucf101_1 \
        --config.init.checkpoint=runs/dynamic_k400
    python -m effvid_jax.reports.mean_of_splits runs/ucf101_1 runs/ucf101_2 runs/ucf101_3

Paper: mean over the three official splits, MSDNet-38 94.2 % at 15.8 GMACs, ResNet-50 94.7 % at 18.5.
"""

from configs.recipes import dynamic_inference


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, scheme, frames, shift, split (1 to 3)."""
    return dynamic_inference.recipe("ucf101", arg, split=1)
