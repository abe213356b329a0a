"""ResKD on your own clips: trains a teacher on 224 pixels, then its low-resolution student.

    python main.py --config=configs/reskd_folder.py --config.data.root=my_videos --workdir=runs/mine

Folders, `:pretrained`, fine-tuning and `:small` are as in `supervised_folder.py`. A teacher that is trained
already: `--config.method.teacher=runs/teacher --config.run=student`; with `:pretrained` the student begins as
its teacher is, if it is the same network. `--config.run=teacher,baseline,student` also trains the plain
low-resolution network to compare with.
"""

from configs import supervised_folder as supervised
from configs.recipes import pretrained, reskd

ARGUMENTS = {name: value for name, value in supervised.ARGUMENTS.items() if name != "shift"}
ARGUMENTS |= dict(teacher="tsm_resnet50", resolution=112, distill="both", ablation="")
# The teacher sees what it sees in `supervised_folder.py:pretrained`, the student half as many pixels a side.
PRETRAINED = dict(pretrained.ARGUMENTS, teacher=pretrained.BACKBONE, resolution=56)


def get_config(arg: str = ""):
    """Arguments: teacher, distill, ablation and those of `supervised_folder.py` but shift (resolution: the
    student's).
    """
    args = pretrained.parse(arg, ARGUMENTS, PRETRAINED)
    size = ("pretrained," if args.pretrained else "") + ("small," if args.small else "")
    config = reskd.reskd("folder", lambda a: supervised.get_config(size + a), args, num_epochs=60,
                          options=dict(consensus="features"))
    if not config.run:
        config.run = "teacher,student"
    return config
