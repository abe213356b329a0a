"""The config saved with a trained run, as a config file: `--config=effvid_jax/start/saved_config.py:WORKDIR`.

`cli.parse_flags` gives it where a command changes fields (`--config.method.form=compact`) of a run in
`--workdir` without naming a config.
"""

from effvid_jax.start import runs


def get_config(workdir: str):
    """The whole config of a run, or of the last stage of one with several.

    Raises:
        UserError: nothing is trained there.
    """
    return runs.trained(None, workdir)[0]
