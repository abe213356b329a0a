"""The combination on Something-Something V2: TSM-ResNet-50 on 224 teaches one on 112 with exits and gates.

    python main.py --config=configs/combined_sthv2.py --config.run=teacher,student \
        --workdir=runs/sthv2_combined

The student's temporal shift is the online one: no frame reads a later one, which exits need. Its teacher's is
the ordinary one. Arguments as in `combined_minik.py`; recipe: ours, of `reskd_sthv2.py`, `dynamic_sthv2.py`
and `va_red2_minik.py`.
"""

from configs import supervised_sthv2 as supervised
from configs.recipes import base, combined


def get_config(arg: str = ""):
    """Arguments: tiny, demo, parts, backbone, teacher, resolution (of the student), scheme (of exits), order
    (student_first, exits_first, together), distill.
    """
    args = base.parse_arg(arg, **combined.ARGUMENTS, backbone="tsm_resnet50", teacher="tsm_resnet50")
    return combined.recipe("sthv2", supervised.get_config, args, num_epochs=100,
                           options=dict(consensus="features"))
