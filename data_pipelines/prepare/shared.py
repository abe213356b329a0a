"""What all data sets share: counts, dry run, work that continues, lists, what is missing, next command."""

import argparse
import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.check_videos import Journal, check_file
from data_pipelines.clip_lists import write_broken
from data_pipelines.errors import DataError, VideoError
from data_pipelines.make_list import not_listed
from data_pipelines.names import printable
from data_pipelines.prepare.facts import Clip, Facts, Plan, digest
from data_pipelines.sources.class_names import class_lines
from data_pipelines.sources.lists import ListItem, list_line
from data_pipelines.tools import atomic_write, parallel
from data_pipelines.video.decode import open_video


def add_arguments(parser: argparse.ArgumentParser, facts: Facts) -> None:
    """The flags of every data set."""
    parser.add_argument("--raw", required=True, help="folder of the official files as they were unpacked")
    parser.add_argument("--out", default=facts.folder,
                        help="folder for the lists; default: %(default)s, where the configs look")
    parser.add_argument("--annotations", help="folder of the official lists, if they are not below --raw")
    parser.add_argument("--classes", metavar="FILE",
                        help="names of the classes in the order of the labels that you want, where it is not "
                             "the released one")
    parser.add_argument("--dry_run", action="store_true", help="say what is there and what would be done")
    parser.add_argument("--check", choices=("exist", "open", "decode"), default="open",
                        help="what a clip must stand to be listed; default: %(default)s")
    parser.add_argument("--link", action="store_true",
                        help="make the folder that the config reads a symbolic link to what is in --raw")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace lists in --out that this command did not write")
    parser.add_argument("--workers", type=int, help="threads; default: the number of cores")


def run(facts: Facts, plan: Plan, args) -> int:
    """Does what a plan says, or tells it.

    Raises:
        DataError: lists of somebody else are in the way, or a list would be empty.
    """
    print(f"{facts.title} (about {facts.size}): official page {facts.page}")
    print(f"read {', '.join(plan.read)}")
    _report_classes(facts, plan)
    for note in plan.notes:
        print(f"note: {note}")
    here = {key: sum(bool(clip.path) for clip in clips) for key, clips in plan.lists.items()}
    _table(("list", "listed", "there", "missing", "official"),
           [(key, len(clips), here[key], len(clips) - here[key], facts.counts.get(key, "?"))
            for key, clips in plan.lists.items()])
    print(f"official counts: {facts.source}")
    for key, clips in plan.lists.items():
        if not here[key]:
            raise DataError(f"none of the {len(clips)} clips of list {key!r} is below --raw={args.raw}: "
                            f"expected {_first(clips)!r} and so on, see {facts.page}. --help says how the "
                            f"files must lie.")
    out = Path(args.out)
    files = {key: out / facts.lists[key] for key in plan.lists}
    outputs = [*files.values(), out / f"{facts.name}_classes.txt"]
    paths = list(dict.fromkeys(_key(plan, key, clip) for key, clips in plan.lists.items()
                               for clip in clips if clip.path))
    record = out / f"{facts.name}_prepared.json"
    _refuse_foreign(outputs, record, args)
    _refuse_other_settings(out / f"{facts.name}_settings.json", plan.settings)
    links = _links(plan, facts, paths, out) if args.link else {}
    if args.dry_run:
        if plan.look or args.check != "exist":
            print(f"to do: {plan.work} {len(paths) - plan.done} clips" + (
                f", {plan.done} are done" if plan.done else ""))
        print("would write " + ", ".join(map(str, outputs)))
        for place, target in links.items():
            print(f"would link {place} -> {target}")
        print("dry run: nothing was written")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    if plan.settings:
        with atomic_write(out / f"{facts.name}_settings.json") as part:
            part.write_text(json.dumps(plan.settings) + "\n")
    found = _look(facts, plan, paths, args)
    counts, missing = {}, {}
    for key, path in files.items():
        counts[key] = _write_list(plan, key, path, found, missing, facts)
    _write(outputs[-1], class_lines([printable(name) for name in plan.classes]))
    lacking = out / f"{facts.name}_missing.txt"
    lacking.unlink(missing_ok=True)
    if missing:
        write_broken(lacking, missing)
    with atomic_write(record) as part:
        part.write_text(json.dumps({
            "raw": os.path.abspath(args.raw), "root": os.path.abspath(plan.root), "below": dict(plan.below),
            "template": plan.template, "clips": counts,
            "files": {str(path.relative_to(out)): _checksum(path) for path in outputs}}, indent=2) + "\n")
    for place, target in links.items():
        os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
        os.symlink(os.path.abspath(target), place, target_is_directory=True)
        print(f"linked {place} -> {os.path.abspath(target)}")
    _table(("list", "written", "official"), [(key, count, facts.counts.get(key, "?"))
                                             for key, count in counts.items()])
    for path in outputs:
        print(f"wrote {path}")
    if missing:
        print(f"{len(missing)} clips are missing or broken, by name in {lacking}, the first ones:")
        for name in list(missing)[:5]:
            print(f"  {name}: {missing[name]}")
    print(f"train:\n  {command(facts, plan, args)}")
    return 0


def command(facts: Facts, plan: Plan, args) -> str:
    """The command line that trains on what was written."""
    fields = {}
    if facts.list_format:
        fields["classes_file"] = os.path.join(args.out, f"{facts.name}_classes.txt")
    if not args.link and not _same(plan.root, facts.root):
        fields["root"] = plan.root
    first = list(plan.lists)[:2]
    if facts.list_format and not _same(args.out, facts.folder):
        fields |= {f"{split}_list": os.path.join(args.out, facts.lists[key])
                   for split, key in zip(("train", "val"), first, strict=False)}
    fields |= plan.fields
    flags = [f"--config.data.{name}={value}" for name, value in fields.items()]
    return " ".join(["python main.py", f"--config={facts.config}", f"--workdir=runs/{facts.name}",
                     *map(shlex.quote, flags)])


def _same(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _key(plan: Plan, key: str, clip: Clip) -> str:
    return os.path.join(plan.below.get(key, ""), clip.path)


def _first(clips: Sequence[Clip]) -> str:
    return printable(clips[0].name) if clips else "nothing"


def _report_classes(facts: Facts, plan: Plan) -> None:
    names = plan.classes
    if len(names) != facts.classes:
        print(f"classes: {len(names)}, officially {facts.classes}: a part of the data set, or other files")
    elif facts.digest and digest(names) != facts.digest:
        print(f"classes: {len(names)}, but not the released names in the released order: weights that others "
              f"trained have their outputs in that one")
    else:
        print(f"classes: {len(names)}" + (", names and order as released" if facts.digest else ""))


def _look(facts: Facts, plan: Plan, paths: Sequence[str], args) -> dict[str, tuple[int, str]]:
    """(frames, reason why it cannot be used) of every path; what was interrupted goes on."""
    if plan.look is None and args.check == "exist":
        return {path: (0, "") for path in paths}
    look = plan.look or (lambda path: open_clip(os.path.join(plan.root, path), args.check))
    task = {"raw": os.path.abspath(args.raw), "check": args.check, **plan.settings}
    journal = Journal(Path(args.out) / f"{facts.name}.journal", task)
    rest = [path for path in paths if path not in journal.found]
    if len(rest) < len(paths):
        print(f"continuing: {len(paths) - len(rest)} of {len(paths)} were done before")

    def result(path):
        try:
            return look(path), ""
        except VideoError as error:
            return 0, error.reason

    results = parallel(result, rest, args.workers, plan.work, "clip", done=len(paths) - len(rest))
    for path, one in zip(rest, results, strict=True):
        journal.add(path, one)
    found = {path: tuple(journal.found[path]) for path in paths}
    journal.remove()
    return found


def open_clip(path: str, check: str) -> int:
    """Opens a video, or decodes all of it with check='decode'; its frames.

    Raises:
        VideoError: it cannot be read.
    """
    if check == "decode":
        check_file(path)
    with open_video(path) as reader:
        return reader.num_frames


def _write_list(plan: Plan, key: str, path: Path, found, missing: dict[str, str], facts: Facts) -> int:
    """Writes a list of what can be used; the rest goes into `missing` with its reasons."""
    lines, several = [], any(len(clip.labels) > 1 for clip in plan.lists[key])
    frames = "frames" if facts.list_format == "frames" else "video"
    for clip in plan.lists[key]:
        count, reason = found[_key(plan, key, clip)] if clip.path else (0, "missing")
        item = ListItem(clip.path, count if frames == "frames" else 0, clip.labels)
        if not reason and plan.line is None:
            reason = not_listed(item, frames, several)
        if reason:
            missing[printable(clip.name)] = reason
        else:
            lines.append(plan.line(clip, count) if plan.line else list_line(item, frames))
    if not lines:
        raise DataError(f"no clip of list {key!r} can be used, e.g. {printable(plan.lists[key][0].name)}: "
                        f"{missing[printable(plan.lists[key][0].name)]}.")
    _write(path, lines)
    return len(lines)


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:  # names of files may hold bytes that are no UTF-8
        part.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_foreign(outputs: Sequence[Path], record: Path, args) -> None:
    """What stands where a list goes must be of this command, unless it may be replaced."""
    own = json.loads(record.read_text())["files"] if record.exists() else {}
    foreign = [str(path) for path in outputs if path.exists()
               and own.get(str(path.relative_to(record.parent))) != _checksum(path)]
    if foreign and not args.overwrite:
        raise DataError(f"{', '.join(foreign)} exists and this command did not write it as it is: choose "
                        f"another --out, move it away, or replace it with --overwrite.")


def _refuse_other_settings(path: Path, settings: dict) -> None:
    """What was made earlier must have been made in the same way."""
    there = json.loads(path.read_text()) if path.exists() else settings
    if there != settings:
        differ = ", ".join(f"--{name}={there.get(name)} there, {value} now"
                           for name, value in settings.items() if there.get(name) != value)
        raise DataError(f"{path.parent} holds frames that were made in another way ({differ}): choose "
                        f"another --out, or delete them and {path}.")

def _links(plan: Plan, facts: Facts, paths: Sequence[str], out: Path) -> dict[str, str]:
    """Links to make, by place: the folder that the config reads, or those in it that the lists name.

    Raises:
        DataError: something else is in the way.
    """
    if _same(plan.root, facts.root):
        return {}
    links = {facts.root: plan.root}
    if os.path.isdir(facts.root) or _same(out, facts.root):
        links = {os.path.join(facts.root, part): os.path.join(plan.root, part)
                 for part in dict.fromkeys([*(path.split(os.sep)[0] for path in paths), *plan.beside])}
    there = [place for place in links if os.path.lexists(place)]
    wrong = [place for place in there if not _same(place, links[place])]
    if wrong:
        raise DataError(f"--link: {wrong[0]} exists and is not {links[wrong[0]]}: move it away, or train "
                        f"with --config.data.root={plan.root}.")
    return {place: target for place, target in links.items() if place not in there}


def _table(head: Sequence[str], rows: Sequence[Sequence]) -> None:
    texts = [[f"{value:,}" if isinstance(value, int) else str(value) for value in row]
             for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  " + "  ".join(text.ljust(width) if i == 0 else text.rjust(width)
                               for i, (text, width) in enumerate(zip(row, widths, strict=True))))
