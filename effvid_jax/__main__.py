"""effvid_jax: train, evaluate, predict, benchmark, report, export and freeze efficient video networks.

    effvid --config=configs/reskd_minik.py:demo --workdir=runs/demo
    effvid --mode=eval --workdir=runs/demo
    effvid --mode=predict --workdir=runs/demo --video=clip.mp4

`effvid` is this program where the package is installed; `python -m effvid_jax` is the same, and so is
`main.py` of a clone. Configs of the package are found under the names that they have in a clone.
"""

import sys

from effvid_jax.speed import host_memory


def main() -> int:
    """What `effvid` runs; returns the exit code."""
    host_memory.tune()  # may start the program again, so before what takes long to import
    from effvid_jax import command

    return command.start()


if __name__ == "__main__":
    sys.exit(main())
