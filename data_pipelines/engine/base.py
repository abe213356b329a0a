"""What an engine is asked."""

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from data_pipelines.tools import progress_bar

ENGINES = ("threads", "local", "ray")
DIED = "the process that reads it dies"
ENGINE_FLAGS = ("engine", "workers", "address")


class Stage(NamedTuple):
    """What is done with a block.

    Attributes:
        work: list -> list of as many results. Picklable; every process has a copy, which may keep what is
            expensive to make, such as a network.
        lost: thing -> its result where the processes that work on it die; for all stages together, of the
            first one, in the words of the last one's results.
        device: it computes on an accelerator: one process for each of them.
    """

    work: Callable[[list], list]
    lost: Callable[[Any], Any] | None = None
    device: bool = False


class Engine(abc.ABC):
    """Spreads stages.

    Attributes:
        block: things that are worth a message to another process.
    """

    block: int = 16

    @abc.abstractmethod
    def each(self, stages: Sequence[Stage], blocks: Sequence[list]) -> Iterator[tuple[int, list]]:
        """(number of a block, its results after the last stage) as they are done.

        Blocks whose process died, when they were done again as well, are left out.

        Raises:
            Exception: what a stage raised.
        """


def run(engine: Engine, stages: Sequence[Stage], blocks: Sequence[list]) -> Iterator[tuple[int, list]]:
    """As `Engine.each`, of all blocks: where processes die, their things are done one by one.

    Raises:
        Exception: what a stage raised, or `Stage.lost`.
    """
    left = set(range(len(blocks)))
    for number, results in engine.each(stages, blocks):
        left.discard(number)
        yield number, results
    single = [(number, i) for number in sorted(left) for i in range(len(blocks[number]))]
    if not single:
        return
    found = dict(engine.each(stages, [[blocks[number][i]] for number, i in single]))
    for number in sorted(left):
        mine = [k for k, (block, _) in enumerate(single) if block == number]
        yield number, [found[k][0] if k in found else stages[0].lost(blocks[number][i])
                       for i, k in enumerate(mine)]


def one_by_one(engine: Engine, stage: Stage, things: list, description: str, unit: str,
               done: int = 0) -> Iterator[tuple[int, Any]]:
    """(number of a thing, its result) as they are done, with a progress bar.

    Args:
        engine, stage: what is done, and where.
        things: what to work on.
        description, unit, done: see `tools.parallel`.
    """
    size = engine.block
    blocks = [things[start:start + size] for start in range(0, len(things), size)]
    with progress_bar(done + len(things), description, unit, done) as bar:
        for number, results in run(engine, [stage], blocks):
            yield from enumerate(results, number * size)
            bar.update(len(results))
