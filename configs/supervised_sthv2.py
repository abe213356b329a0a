"""Teachers and baselines on Something-Something V2: TSM-ResNet-50, 8 frames, 50 epochs, no flip.

    python main.py --config=configs/supervised_sthv2.py --workdir=runs/sthv2_teacher
    python main.py --config=configs/supervised_sthv2.py:resolution=112 --workdir=runs/sthv2_baseline

Reference configs: tsm_r50_1x1x8_50e_sthv2 (tested on 3 crops of 256 x 2 clips) and
tsm_r50_112p_1x1x8_50e_sthv2, whose test pipeline asks for crops of 112 from a short side of 128 and stops
at an assertion; the 128 pixels of its resize are used here for its three crops.
They start from ImageNet weights, see `supervised_minik.py`.
"""

from configs.recipes import base, embedded, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, resolution, devices."""
    args = base.parse_arg(arg, tiny=False, demo=False, backbone="tsm_resnet50", resolution=224, devices=0)
    config = reskd.supervised_tsn("sthv2", args.backbone, args.resolution)
    config.data.update(dict(
        batch_size=96, twice_sample=True, test_crop="three",
        test_crop_size=config.data.test_short_side))
    config.optim.update(dict(lr=0.0075, weight_decay=5e-4, groups="tsm", clip_norm=20.0))
    return base.on_devices(embedded.finish(config, args), args)
