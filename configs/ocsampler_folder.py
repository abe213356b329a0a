"""OCSampler on your own clips: a light network chooses 6 of 10 frames, a large one answers.

    python main.py --config=configs/ocsampler_folder.py --config.data.root=my_videos --workdir=runs/mine

trains the classifier (`frameexit_folder.py`), then the sampler. Folders are as in `supervised_folder.py`.
With a classifier that is there: `--config.run= --config.method.classifier=runs/frameexit`. `:small` trains
small networks on 64 pixels, for a CPU.
"""

from configs.recipes import frameexit


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, backbone, frames, chosen, sampler."""
    return frameexit.sampler("folder", arg)
