"""effvid_jax: train, evaluate, predict, benchmark, report, export and freeze efficient video networks.

    python main.py --config=configs/reskd_minik.py:demo --workdir=runs/demo
    python main.py --mode=eval --workdir=runs/demo
    python main.py --mode=predict --workdir=runs/demo --video=clip.mp4
"""

import sys

from effvid_jax.speed import host_memory

if __name__ == "__main__":
    host_memory.tune()  # may start the program again, so before what takes long to import

from effvid_jax import command

if __name__ == "__main__":
    sys.exit(command.start())
