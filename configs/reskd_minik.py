"""ResKD on Mini-Kinetics: a ResNet-152 on 224 pixels teaches a ResNet-50 on 112. TSN, 8 frames, 100 epochs.

    python main.py --config=configs/supervised_minik.py:backbone=resnet152 --workdir=runs/minik_teacher
    python main.py --config=configs/reskd_minik.py --config.method.teacher=runs/minik_teacher \
        --workdir=runs/minik_reskd

Paper: Table 1. Reference config: rkd_r152_1x1x8_100e_minik. `--config.run=teacher,baseline,student` trains
all three in one go; `:demo` and `:tiny` do so on the embedded benchmark. Table 6 of the paper:
`:distill=model` (the same teacher on low resolution) and `:distill=resolution` (a teacher like the
student on high resolution). The student starts from ImageNet weights, see `supervised_minik.py`.
"""

from configs import supervised_minik as supervised
from configs.recipes import base, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, teacher, resolution (of the student), distill."""
    args = base.parse_arg(arg, tiny=False, demo=False, backbone="resnet50", teacher="resnet152",
                            resolution=112, distill="both")
    return reskd.reskd("minik", supervised.get_config, args, num_epochs=100)
