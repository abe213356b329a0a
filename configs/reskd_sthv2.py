"""ResKD on Something-Something V2: TSM-ResNet-50 on 224 pixels teaches itself on 112. 8 frames, 100 epochs.

    python main.py --config=configs/supervised_sthv2.py --workdir=runs/sthv2_teacher
    python main.py --config=configs/reskd_sthv2.py --config.method.teacher=runs/sthv2_teacher \
        --workdir=runs/sthv2_reskd

or `--config.run=teacher,baseline,student`. All start from ImageNet weights with `--config.init.checkpoint=DIR
--config.init.skip=fc/`, DIR from `python -m effvid_jax.torch_import --backbone tsm_resnet50 --checkpoint
resnet50.pth --out DIR`.

Reference config: rkd_tsm_1x1x8_100e_sthv2. As there, the student averages frames before dropout (TSN's
head, not TSM's), is trained with batch 64, lr 0.01 and weight decay 1e-4 although its teacher has 96, 0.0075
and 5e-4, and is tested on one centre crop. Arguments as in `reskd_minik.py`.
"""

from configs import supervised_sthv2 as supervised
from configs.recipes import base, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone, teacher, resolution (of the student), distill, ablation, devices."""
    args = base.parse_arg(arg, tiny=False, demo=False, backbone="tsm_resnet50",
                            teacher="tsm_resnet50", resolution=112, distill="both", ablation="", devices=0)
    return reskd.reskd("sthv2", supervised.get_config, args, num_epochs=100,
                        options=dict(consensus="features"))
