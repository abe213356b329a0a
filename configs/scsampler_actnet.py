"""SCSampler on ActivityNet: a light network scores 16 frames, the 10 most salient ones are classified.

    for n in mobilenet_v2 resnet50; do python -m effvid_jax.torch_import --backbone $n --checkpoint $n.pth \
        --out runs/$n; done
    python main.py --config=configs/scsampler_actnet.py --workdir=runs/scsampler_actnet \
        --config.method.starts="('runs/mobilenet_v2','runs/resnet50')"

Published: 72.9 mAP at 42.0 GFLOPs. The figures are those of AR-Net's re-implementation. `:keep=5` classifies
5 frames. `:demo` and `:tiny` train small networks on the embedded benchmark. Recipe and sources:
`configs/recipes/routing.py`.
"""

from configs.recipes import routing


def get_config(arg: str = ""):
    """Arguments: tiny, demo, keep."""
    return routing.scsampler("actnet", arg)
