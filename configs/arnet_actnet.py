"""AR-Net on ActivityNet: a policy picks a network for every frame, or skips frames. 16 frames.

    for n in mobilenet_v2 resnet50 resnet34 resnet18; do python -m effvid_jax.torch_import --backbone $n \
        --checkpoint $n.pth --out runs/$n; done
    python main.py --config=configs/arnet_actnet.py --workdir=runs/arnet_actnet \
        --config.stages.predictors.method.starts="('runs/mobilenet_v2','runs/resnet50','runs/resnet34','runs/resnet18')"

trains the three released stages: each network alone, the policy with all of them, all but the policy. With
ImageNet weights as here, or without `starts` from scratch. `--mode=eval --config.method.form=routed` runs
each network on its frames alone.

Published: 73.8 mAP at 33.5 GFLOPs (a later recipe: 76.8). `:demo` and `:tiny` train small networks on the
embedded benchmark. Recipe and sources: `configs/recipes/routing.py`.
"""

from configs.recipes import routing


def get_config(arg: str = ""):
    """Arguments: tiny, demo."""
    return routing.arnet("actnet", arg)
