"""The combination on Kinetics-400: SlowOnly on 224 pixels teaches one on 112 with exits and gates.

    python main.py --config=configs/combined_k400.py --config.run=teacher,student \
        --config.stages.teacher.init.checkpoint=runs/imagenet_slowonly \
        --config.init.checkpoint=runs/imagenet_slowonly --config.init.skip='fc/|^head_|^lift|gate|cheap_' \
        --workdir=runs/k400_combined

A network that mixes frames inside can exit along its depth alone. Arguments as in `combined_minik.py`;
recipe: ours, of `reskd_k400.py`, `dynamic_k400.py` and `va_red2_k400.py`.
"""

from configs import supervised_k400 as supervised
from configs.recipes import base, combined, kinetics


def get_config(arg: str = ""):
    """Arguments: tiny, demo, parts, backbone, teacher, resolution (of the student), scheme (of exits), order
    (student_first, exits_first, together), distill.
    """
    args = base.parse_arg(arg, **{**combined.ARGUMENTS, "scheme": "depth"}, backbone=kinetics.SLOWONLY,
                          teacher=kinetics.SLOWONLY)
    return combined.recipe("k400", supervised.get_config, args, num_epochs=150, student=kinetics.student,
                           embed=kinetics.embed)
