"""SCSampler on your own clips: a light network scores 16 frames, the 10 most salient ones are classified.

    python main.py --config=configs/scsampler_folder.py --config.data.root=my_videos --workdir=runs/scsampler

Folders are as in `supervised_folder.py`; `starts` names workdirs of ImageNet weights as in
`scsampler_actnet.py`. `:small` trains small networks on 64 pixels, for a CPU. `:demo` and `:tiny` train on
the embedded benchmark. Recipe: `configs/recipes/routing.py`.
"""

from configs.recipes import routing


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, keep."""
    return routing.scsampler("folder", arg)
