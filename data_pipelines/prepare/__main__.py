"""Lists, counts and frames from the official files of a data set, which must lie on this machine already.

    python -m data_pipelines.prepare ucf101 --raw=DIR --out=data/ucf101 [--dry_run]
    python -m data_pipelines.prepare ucf101 --help        how the files must lie

Nothing is downloaded, and nothing in --raw is moved or changed. Interrupted, the same command continues.
Into --out go the lists that the configs read, the names of the classes, <name>_missing.txt (what the official
lists have and --raw has not, or what is broken, with reasons) and <name>_prepared.json.
"""

import argparse
import importlib
import pkgutil

from data_pipelines import prepare
from data_pipelines.prepare import shared
from data_pipelines.tools import run_tool

_OTHERS = {"shared", "facts", "reading", "frames", "arnet", "__main__"}
NAMES = sorted(module.name for module in pkgutil.iter_modules(prepare.__path__) if module.name not in _OTHERS)


def module_of(name: str):
    """The module of a data set."""
    return importlib.import_module(f"data_pipelines.prepare.{name}")


def main(argv=None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.prepare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="name", metavar="DATASET", required=True)
    for name in NAMES:
        module = module_of(name)
        facts = module.FACTS
        one = kinds.add_parser(name, help=f"{facts.title}: {facts.classes} classes, {facts.page}",
                               description=f"{module.__doc__}\n{facts.page}, about {facts.size}",
                               formatter_class=argparse.RawDescriptionHelpFormatter)
        shared.add_arguments(one, facts)
        if hasattr(module, "add_arguments"):
            module.add_arguments(one)
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers={args.workers} must be at least 1")
    module = module_of(args.name)
    return shared.run(module.FACTS, module.plan(args), args)


if __name__ == "__main__":
    run_tool(main)
