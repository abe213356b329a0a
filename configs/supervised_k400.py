"""Teachers and baselines on Kinetics-400: SlowOnly-R50 (8x8, 150 epochs) and Video Swin (32x2), top-1.

    python -m effvid_jax.torch_import --backbone slowonly_resnet50 --checkpoint resnet50.pth --inflate \\
        --classes 400 --skip 'fc/.*' --out runs/imagenet_slowonly
    python main.py --config=configs/supervised_k400.py --workdir=runs/k400_teacher \\
        --config.init.checkpoint=runs/imagenet_slowonly --config.init.skip=fc/
    python main.py --config=configs/supervised_k400.py:resolution=112 --workdir=runs/k400_baseline \\
        --config.init.checkpoint=runs/imagenet_slowonly --config.init.skip=fc/

`:backbone=swin3d_b` is the teacher of Video Swin (from ImageNet-22k weights), `:backbone=swin3d_s` its
student's baselines, imported likewise. Reference configs: slowonly_r50_8x8x1_150e_k400,
slowonly_r50_112p_8x8x1_150e_k400, swin_base_32x2x1_50e_k400, swin_small_32x2x1_30e_k400 and
swin_small_112p_32x2x1_30e_k400. One centre crop is evaluated while training, 30 views (SlowOnly) and 12
(Swin) at the end. One accelerator: `:devices=1`, and `--config.model.remat=block` where a Swin does not fit.
"""

from configs.recipes import base, kinetics


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone (slowonly_resnet50, swin3d_b, swin3d_s), resolution, devices."""
    args = base.parse_arg(arg, tiny=False, demo=False, backbone=kinetics.SLOWONLY, resolution=224, devices=0)
    return kinetics.finish(kinetics.supervised(args.backbone, args.resolution), args)
