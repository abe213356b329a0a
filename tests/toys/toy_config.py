"""The config of a fourth method: `python main.py --config=tests/toys/toy_config.py --workdir=DIR`."""

from configs.recipes import base, embedded
from tests.toys.toy_method import Agreement


def get_config(arg: str = ""):
    """Arguments: tiny (as it is already), demo."""
    args = base.parse_arg(arg, tiny=False, demo=False)
    args.tiny = not args.demo
    config = base.defaults()
    config.name = "toy"
    config.method = Agreement.Settings(weight=0.5).to_config()
    embedded.finish(config, args)
    config.model.options.update(dict(width=8, stage_sizes=(1,), stage_strides=(2,)))
    config.train.update(dict(num_steps=2, checkpoint_every_steps=2, log_every_steps=1))
    return config
