"""AdaFocus V2 on your own clips: a glance at 16 frames says where to look closely.

    python main.py --config=configs/adafocus_v2_folder.py:early_exit --config.data.root=my_videos \
        --workdir=runs/adafocus_v2

`:small` trains small networks of the same families on 64 pixels, for a CPU. With ImageNet weights, imported
as in `configs/adafocus_v2_actnet.py`: `--config.method.glance=DIR --config.method.focus=DIR`.
With `:early_exit` easy videos stop early. The recipe is that of ActivityNet with smaller batches, ours.
"""

from configs.recipes import adafocus


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, patch, glance (mobilenet_v2, resnet50), early_exit."""
    return adafocus.v2("folder", arg)
