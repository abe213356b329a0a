"""What many loops read is computed once, on a CPU too.

XLA's CPU compiler puts what is cheap into every loop that reads it. Along a residual stream the loops of a
block then compute all additions of the blocks before it, and those of its gradient all of the blocks behind:
time, and that of compiling, grow with the square of the depth.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_vjp
def once(x):
    """`x`; it and its gradient are kept where a program for a CPU might compute them again and again."""
    return jax.lax.platform_dependent(x, cpu=_call, default=_same)


once.defvjp(lambda x: (once(x), None), lambda _, dy: (once(dy),))


@jax.jit
def _same(x):
    return x


def _call(x):
    return call(_same, x)


def call(program: Callable, *args):
    """`program(*args)` of a function under `jax.jit`; in a program for a CPU no loop reaches into it."""
    with set_xla_metadata(inlineable="false"):
        return program(*args)
