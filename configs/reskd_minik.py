"""ResKD on Mini-Kinetics: a ResNet-152 on 224 pixels teaches a ResNet-50 on 112. TSN, 8 frames, 100 epochs.

    python main.py --config=configs/supervised_minik.py:backbone=resnet152 --workdir=runs/minik_teacher \
        --config.init.checkpoint=runs/imagenet_r152 --config.init.skip=fc/
    python main.py --config=configs/reskd_minik.py --config.method.teacher=runs/minik_teacher \
        --config.init.checkpoint=runs/imagenet_r50 --config.init.skip=fc/ --workdir=runs/minik_reskd

or all three in one go, each from its own ImageNet weights (the baseline from the student's):

    for n in 50 152; do python -m effvid_jax.torch_import --backbone resnet$n --checkpoint resnet$n.pth \
        --out runs/imagenet_r$n; done
    python main.py --config=configs/reskd_minik.py --config.run=teacher,baseline,student \
        --config.stages.teacher.init.checkpoint=runs/imagenet_r152 \
        --config.init.checkpoint=runs/imagenet_r50 --config.init.skip=fc/ --workdir=runs/minik

Eight TPU v5e chips hold it, see docs/scale.md.

Paper: Table 1. Reference config: rkd_r152_1x1x8_100e_minik. `:demo` and `:tiny` train all three on the
embedded benchmark. Table 6 of the paper: `:distill=model` (the same teacher on low resolution) and
`:distill=resolution` (a teacher like the student on high resolution). Table 5: `:ablation=clip`, `frame` and
`pixel`, 50 epochs each; weight and temperature of the first two are ours.
"""

from configs import supervised_minik as supervised
from configs.recipes import base, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, teacher, resolution (of the student), distill, ablation, devices."""
    args = base.parse_arg(arg, tiny=False, demo=False, backbone="resnet50", teacher="resnet152",
                            resolution=112, distill="both", ablation="", devices=0)
    return reskd.reskd("minik", supervised.get_config, args, num_epochs=100)
