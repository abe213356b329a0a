"""How a program on the CPU gets its memory: in huge pages, and it keeps what it frees.

XLA allocates the buffers of a program anew for every call, and every page of new memory is cleared when it is
touched. Huge pages make that cheaper: a training step of the small R(2+1)D took about a quarter less time.
Buffers above 32 MB come from the system and go back to it, unless glibc is told otherwise: keeping them took
a quarter off the gated convolutions of R(2+1)D-18's first stage, and nothing off that training step; the
program's memory grew by 3 %. Only glibc's main arena can keep such buffers, and which thread asks for them is
left to chance, so with few cores there is one arena: times of a step then scatter less. With many cores,
threads that decode would wait for each other. glibc reads its settings before Python runs.
"""

import os
import sys

SETTING = "GLIBC_TUNABLES"
FEW = 4  # cores
VALUE = ":".join(f"glibc.malloc.{name}={value}" for name, value in (
    ("hugetlb", 1), ("mmap_threshold", 2**32), ("trim_threshold", 2**33),
    *((("arena_max", 1),) if (os.cpu_count() or 1) <= FEW else ())))


def tune() -> None:
    """Starts this program again with these settings, on Linux and unless `SETTING` has any value.

    Call it before anything else: nothing of this process is kept but its number, files and environment.
    An empty `SETTING` leaves glibc as it is. Where glibc or the kernel knows none of it nothing changes, nor
    inside a program that is not this script's own, such as a notebook.
    """
    own = sys.argv[0] in sys.orig_argv
    if sys.platform == "linux" and own and SETTING not in os.environ:
        os.environ[SETTING] = VALUE
        # Not orig_argv[0]: a bare 'python' would be looked up on the path, past a virtual environment.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
