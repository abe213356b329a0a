"""Dynamic Inference on Kinetics-400: ResNet-50 or MSDNet-38, 16 frames, exits along a route.

    python main.py --config=configs/dynamic_k400.py:backbone=msdnet_38 --workdir=runs/dynamic_k400 \
        --config.init.checkpoint=runs/imagenet_msdnet

Paper: Table of Kinetics-400 (MSDNet-38 71.2 % at 26.5 of 52 GMACs, ResNet-50 72.6 % at 35 of 65). The
initial weights come from `python -m effvid_jax.torch_import`; the recipe is TSM's. `:demo` and `:tiny`
train a small network of the same family on the embedded benchmark.

Eight TPU v6e chips hold MSDNet-38 with its batch of 128, eight v5e chips 64 clips in bfloat16, see
docs/scale.md.
"""

from configs.recipes import dynamic_inference


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, scheme, frames, shift."""
    return dynamic_inference.recipe("k400", arg)
