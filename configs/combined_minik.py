"""The combination on Mini-Kinetics: ResNet-152 on 224 pixels teaches a ResNet-50 on 112 with exits and gates.

    python main.py --config=configs/combined_minik.py --config.run=teacher,student \
        --config.stages.teacher.init.checkpoint=runs/imagenet_r152 \
        --config.init.checkpoint=runs/imagenet_r50 --config.init.skip='fc/|^head_|^lift|gate|cheap_' \
        --workdir=runs/minik_combined

`:parts=reskd+exits`, `exits+gates` and so on are every pair and every part alone; `:order=together` trains
all of them from the first step on. Recipe: ours, of `reskd_minik.py`, `dynamic_k400.py` and
`va_red2_minik.py`; see `docs/combined.md`. `:demo` and `:tiny` train teacher, plain student and the
combination on the embedded benchmark.
"""

from configs import supervised_minik as supervised
from configs.recipes import base, combined


def get_config(arg: str = ""):
    """Arguments: tiny, demo, parts, backbone, teacher, resolution (of the student), scheme (of exits), order
    (student_first, exits_first, together), distill.
    """
    args = base.parse_arg(arg, **combined.ARGUMENTS, backbone="resnet50", teacher="resnet152")
    return combined.recipe("minik", supervised.get_config, args, num_epochs=100)
