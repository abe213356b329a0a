"""Teachers and baselines on Mini-Kinetics: TSN, 8 frames, 50 epochs.

    python main.py --config=configs/supervised_minik.py:backbone=resnet152 --workdir=runs/minik_teacher
    python main.py --config=configs/supervised_minik.py:resolution=112 --workdir=runs/minik_baseline

Reference configs: tsn_r152_1x1x8_50e_minik, tsn_r50_1x1x8_50e_minik, tsn_r50_112p_1x1x8_50e_minik.
They start from ImageNet weights: `--config.init.checkpoint=DIR --config.init.skip=fc/`, where DIR comes
from `python -m effvid_jax.torch_import --backbone resnet152 --checkpoint resnet152.pth --out DIR`.
"""

from configs.recipes import base, embedded, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, resolution, devices."""
    args = base.parse_arg(arg, tiny=False, demo=False, backbone="resnet50", resolution=224, devices=0)
    config = reskd.supervised_tsn("minik", args.backbone, args.resolution)
    return base.on_devices(embedded.finish(config, args), args)
