"""FrameExit on your own clips: frames one by one, until a gate has seen enough.

    python main.py --config=configs/frameexit_folder.py --config.data.root=my_videos --workdir=runs/mine

Folders are as in `supervised_folder.py`. ImageNet weights, imported as in `frameexit_actnet.py`, are given
with `--config.init.checkpoint=DIR`. Larger `--config.method.beta` stop earlier; frames that no video needs
are not read in `--mode=predict`. `:small` trains a small network on 64 pixels, for a CPU.
"""

from configs.recipes import frameexit


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, backbone, frames, order (released, rule)."""
    return frameexit.frameexit("folder", arg)
