"""ResKD on your own clips: trains a teacher on 224 pixels, then its low-resolution student.

    python main.py --config=configs/reskd_folder.py --config.data.root=my_videos --workdir=runs/mine

Folders, fine-tuning and `:small` are as in `supervised_folder.py`. A teacher that is trained already:
`--config.method.teacher=runs/teacher --config.run=student`. `--config.run=teacher,baseline,student` also
trains the plain low-resolution network to compare with.
"""

from configs import supervised_folder as supervised
from configs.recipes import base, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, backbone, teacher, resolution (of the student), distill, ablation."""
    args = base.parse_arg(arg, tiny=False, demo=False, small=False, backbone="tsm_resnet50",
                            teacher="tsm_resnet50", resolution=112, distill="both", ablation="")
    size = "small," if args.small else ""
    config = reskd.reskd("folder", lambda a: supervised.get_config(size + a), args, num_epochs=60,
                          options=dict(consensus="features"))
    if not config.run:
        config.run = "teacher,student"
    return config
