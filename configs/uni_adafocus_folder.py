"""Uni-AdaFocus on your own clips: a glance at 16 of 48 frames says when and where to look closely.

    python main.py --config=configs/uni_adafocus_folder.py:early_exit --config.data.root=my_videos \
        --workdir=runs/uni_adafocus

`:small` trains small networks of the same families on 64 pixels, for a CPU. With ImageNet weights, imported
as in `configs/uni_adafocus_actnet.py`: `--config.method.glance=DIR --config.method.focus=DIR`.
With `:early_exit` easy videos stop early. The recipe is that of ActivityNet with smaller batches, ours.
"""

from configs.recipes import adafocus


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, patch, early_exit."""
    return adafocus.uni("folder", arg)
