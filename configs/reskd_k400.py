"""ResKD on Kinetics-400: SlowOnly-R50, or a Video Swin-B, on 224 pixels teaches SlowOnly or a Swin-S on 112.

    python main.py --config=configs/supervised_k400.py --workdir=runs/k400_teacher \\
        --config.init.checkpoint=runs/imagenet_slowonly --config.init.skip=fc/
    python main.py --config=configs/reskd_k400.py --config.method.teacher=runs/k400_teacher \\
        --config.init.checkpoint=runs/imagenet_slowonly --config.init.skip=fc/ --workdir=runs/k400_reskd

and with Swins, each from its own ImageNet weights (`supervised_k400.py` has the import), all in one go:

    python main.py --config=configs/reskd_k400.py:backbone=swin3d_s --config.run=teacher,baseline,student \\
        --config.stages.teacher.init.checkpoint=runs/imagenet22k_swin_b \\
        --config.init.checkpoint=runs/imagenet_swin_s --config.init.skip=fc/ --workdir=runs/k400_swin

Paper: Table 3. Reference configs: rkd_slowonly_8x8x1_150e_k400 (features, weight 100) and
rkd_swins_32x2x1_60e_k400 (class scores at every position, weight 200, T = 2; AdamW, 16 batches of 32 an
update). 30 views (SlowOnly) and 12 (Swin) at the end. `:demo` and `:tiny` train teacher, baseline and student
on the embedded benchmark.
"""

from configs import supervised_k400 as supervised
from configs.recipes import base, kinetics, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, backbone (slowonly_resnet50, swin3d_s), teacher, resolution (of the student),
    distill (both, model, resolution), devices."""
    args = base.parse_arg(arg, tiny=False, demo=False, backbone=kinetics.SLOWONLY, teacher="", resolution=112,
                            distill="both", devices=0)
    args.teacher = args.teacher or kinetics.teacher_of(args.backbone)
    return reskd.reskd("k400", supervised.get_config, args, num_epochs=150, student=kinetics.student,
                        embed=kinetics.embed)
