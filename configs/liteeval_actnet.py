"""LiteEval on ActivityNet: a cheap look at each of 129 frames, an expensive one where a gate asks for it.

    for n in mobilenet_v2 resnet101; do python -m effvid_jax.torch_import --backbone $n --checkpoint $n.pth \
        --out runs/$n; done
    python main.py --config=configs/liteeval_actnet.py --workdir=runs/liteeval_actnet \
        --config.stages.networks.method.starts="('runs/mobilenet_v2','runs/resnet101')"

trains both networks, then what decides and answers, on what they see. `--mode=eval
--config.method.form=routed` goes frame by frame and runs the fine network where it is asked for.

Published: 72.7 mAP at 95.1 GFLOPs. `:demo` and `:tiny` train small networks on the embedded benchmark. Recipe
and sources: `configs/recipes/routing.py`.
"""

from configs.recipes import routing


def get_config(arg: str = ""):
    """Arguments: tiny, demo."""
    return routing.liteeval("actnet", arg)
