"""Work on many videos, spread over threads, processes, or the machines of a Ray cluster.

What is done with the videos is said once, as *stages*; an *engine* says where it is done:

    threads   in this process: nothing to start, one machine, shares its interpreter
    local     in processes of this machine; one that dies is replaced
    ray       on a Ray cluster (`pip install 'effvid_jax[ray]'`), one machine or many

    for number, results in run(make_engine("local", workers=4), [Stage(check)], blocks): ...

A *block* is a list of things, such as the paths of 32 videos; `Stage.work` makes a list of as many results
of it, which the next stage takes. Blocks are handed out as they are done, in any order, each once.

A process that dies costs the blocks that it had begun: they are done again. A block that kills it again is
done one thing at a time; of the thing that does it `Stage.lost` is the result.
"""

from data_pipelines.engine.base import DIED, ENGINE_FLAGS, ENGINES, Engine, Stage, one_by_one, run
from data_pipelines.engine.choose import add_flags, make_engine

__all__ = ["DIED", "ENGINES", "ENGINE_FLAGS", "Engine", "Stage", "add_flags", "make_engine", "one_by_one",
           "run"]
