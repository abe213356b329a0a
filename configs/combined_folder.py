"""The combination on your own clips: a teacher on 224 pixels, then its student on 112 with exits and gates.

    python main.py --config=configs/combined_folder.py:small --config.data.root=my_videos --workdir=runs/mine

Folders are as in `supervised_folder.py`. `:small` trains small networks on 64 and 32 pixels, for a CPU;
without it fine-tune from imported weights, as described there. `--config.run=teacher,baseline,student` also
trains the plain low-resolution network to compare with. Thresholds of exits are chosen on a share of the
training clips that is held out (`config.data.calib_share`), for `config.method.budget`.
"""

from configs import supervised_folder as supervised
from configs.recipes import base, combined


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, parts, backbone, teacher, resolution (of the student), scheme (of exits),
    order (student_first, exits_first, together), distill.
    """
    args = base.parse_arg(arg, **combined.ARGUMENTS, small=False, backbone="tsm_resnet50",
                          teacher="tsm_resnet50")
    size = "small," if args.small else ""
    config = combined.recipe("folder", lambda a: supervised.get_config(size + a), args, num_epochs=60,
                             options=dict(consensus="features"))
    if not config.run and "reskd" in config.method.parts:
        config.run = "teacher,student"
    return config
