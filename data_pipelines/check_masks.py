"""Reads every image of a data set with its mask once and lists the pairs that are broken or do not fit.

    python -m data_pipelines.check_masks --source=masks --root=my_images --split=train
    --classes_file=classes.txt python -m data_pipelines.check_masks --source=sceneparse
    --root=data/ADEChallengeData2016 --split=val

Writes a line `image<tab>reason` a pair to --out. Exit code: 0 every pair is fine, 1 some are not.
"""

import argparse
import types
from pathlib import Path

from data_pipelines.clip_lists import reason_of, write_broken
from data_pipelines.sources.images import masks_source, sceneparse_source
from data_pipelines.tools import parallel, run_tool


def main(argv=None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.check_masks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=("masks", "sceneparse"), default="masks")
    parser.add_argument("--root", default="", help="data.root")
    parser.add_argument("--split", default="train")
    parser.add_argument("--list", default="", help="data.<split>_list")
    parser.add_argument("--split_root", default="", help="data.<split>_root")
    parser.add_argument("--classes_file", default="")
    parser.add_argument("--num_classes", type=int, default=0)
    parser.add_argument("--mask_first", type=int, default=0, help="number of the first class in the masks")
    parser.add_argument("--out", default="broken_masks.txt", help="written where something is broken")
    parser.add_argument("--workers", type=int, help="threads; default: the number of cores")
    args = parser.parse_args(argv)
    config = types.SimpleNamespace(source=args.source, root=args.root, classes_file=args.classes_file,
                                   num_classes=args.num_classes, mask_first=args.mask_first,
                                   **{f"{args.split}_list": args.list, f"{args.split}_root": args.split_root})
    make = masks_source if args.source == "masks" else sceneparse_source
    source = make(config, args.split, look=False)
    reasons = parallel(lambda index: reason_of(source.check, index), range(len(source)), args.workers,
                       "checking", "image")
    broken = {source.entry(index).name: reason for index, reason in enumerate(reasons) if reason}
    if broken:
        write_broken(Path(args.out), broken)
    for name in list(broken)[:5]:
        print(f"broken: {name}: {broken[name]}")
    where = f"; the list is {args.out}" if broken else ""
    print(f"{len(broken)} of {len(source)} images are broken{where}")
    return 1 if broken else 0


if __name__ == "__main__":
    run_tool(main)
