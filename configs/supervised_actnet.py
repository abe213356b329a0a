"""Teachers and baselines on ActivityNet: TSN, 16 frames, 50 epochs, mAP.

    python main.py --config=configs/supervised_actnet.py:backbone=resnet152 --workdir=runs/actnet_teacher
    python main.py --config=configs/supervised_actnet.py:resolution=112 --workdir=runs/actnet_baseline

Reference configs: tsn_r152_1x1x16_50e_actnet, tsn_r152_112p_*, tsn_r50_1x1x16_50e_actnet,
tsn_r50_{160,112,96,72}p_*. Frames: 4 per second as png (`python -m data_pipelines.prepare activitynet`).
They start from ImageNet weights: `--config.init.checkpoint=DIR --config.init.skip=fc/`, where DIR comes
from `python -m effvid_jax.torch_import --backbone resnet152 --checkpoint resnet152.pth --out DIR`.
"""

from configs.recipes import base, embedded, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, resolution, devices."""
    args = base.parse_arg(arg, tiny=False, demo=False, backbone="resnet50", resolution=224, devices=0)
    config = reskd.supervised_tsn("actnet", args.backbone, args.resolution)
    return base.on_devices(embedded.finish(config, args), args)
