"""Dynamic Inference on HMDB-51, fine-tuned from Kinetics-400; see `dynamic_k400.py`.

    python main.py --config=configs/dynamic_hmdb51.py:backbone=msdnet_38,split=1 --workdir=runs/hmdb51_1 \
        --config.init.checkpoint=runs/dynamic_k400
    python -m effvid_jax.reports.mean_of_splits runs/hmdb51_1 runs/hmdb51_2 runs/hmdb51_3

Paper: mean over the three official splits, MSDNet-38 70.1 % at 29.2 GMACs, ResNet-50 72.3 % at 34.4.
"""

from configs.recipes import dynamic_inference


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, scheme, frames, shift, split (1 to 3)."""
    return dynamic_inference.recipe("hmdb51", arg, split=1)
