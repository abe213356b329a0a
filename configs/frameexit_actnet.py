"""FrameExit on ActivityNet: 10 frames of 224 pixels one by one, until a gate has seen enough.

    python -m effvid_jax.torch_import --backbone resnet50 --checkpoint resnet50.pth --out runs/r50
    python main.py --config=configs/frameexit_actnet.py --config.init.checkpoint=runs/r50 \
        --workdir=runs/frameexit_actnet

Published (mAP, GFLOPs): 76.1 / 26.1 with exits, 77.3 / 41.2 without (ResNet-50). Larger
`--config.method.beta` stop earlier. `:order=rule` takes frames in AdaFocus V2's order instead of the
released one. `:demo` and `:tiny` train a small network on the embedded benchmark of long clips.
Recipe: thresholds, order and network as released, training ours, see `configs/recipes/frameexit.py`.
"""

from configs.recipes import frameexit


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, backbone, frames, order (released, rule)."""
    return frameexit.frameexit("actnet", arg)
