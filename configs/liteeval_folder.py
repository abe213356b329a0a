"""LiteEval on your own clips: a cheap look at each of 16 frames, an expensive one where a gate asks for it.

    python main.py --config=configs/liteeval_folder.py --config.data.root=my_videos --workdir=runs/liteeval

Folders are as in `supervised_folder.py`; `starts` names workdirs of ImageNet weights as in
`liteeval_actnet.py`. `:small` trains small networks on 64 pixels, for a CPU. `:demo` and `:tiny` train on the
embedded benchmark. Recipe: `configs/recipes/routing.py`.
"""

from configs.recipes import routing


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small."""
    return routing.liteeval("folder", arg)
