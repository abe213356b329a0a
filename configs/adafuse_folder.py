"""AdaFuse on your own clips: per channel a value is computed, taken from the frame before, or left out.

    python main.py --config=configs/adafuse_folder.py --config.data.root=my_videos --workdir=runs/adafuse

Folders are as in `supervised_folder.py`; `--config.init.checkpoint` names ImageNet weights as in
`adafuse_actnet.py`. It saves multiply-adds, not time. `:small` trains a small network on 64 pixels, for a
CPU. `:demo` and `:tiny` train on the embedded benchmark. Recipe: `configs/recipes/routing.py`.
"""

from configs.recipes import routing


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, backbone."""
    return routing.adafuse("folder", arg)
