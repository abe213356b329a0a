"""AR-Net on your own clips: a policy picks a network for every frame, or skips frames.

    python main.py --config=configs/arnet_folder.py --config.data.root=my_videos --workdir=runs/arnet

Folders are as in `supervised_folder.py`; `starts` names workdirs of ImageNet weights as in `arnet_actnet.py`.
`:small` trains small networks on 64 pixels, for a CPU. `:demo` and `:tiny` train on the embedded benchmark.
Recipe: AR-Net's, shortened; see `configs/recipes/routing.py`.
"""

from configs.recipes import routing


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small."""
    return routing.arnet("folder", arg)
