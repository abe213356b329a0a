"""What answers a task in place of a backbone's classifier: heads over its maps, pure Flax modules too.

A head takes the maps that a `Backbone` returns by name and gives the outputs of its task; `Headed` joins the
two. A task that needs one makes it in `Task.head`.
"""

from effvid_jax.heads.headed import Headed

__all__ = ["Headed"]
