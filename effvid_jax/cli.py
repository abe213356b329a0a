"""What `main.py` does in each mode, stages of a run included, and how errors reach a user."""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
import re
import runpy
import shutil
import sys
import time
import traceback

import jax
from absl import flags

import data_pipelines
from data_pipelines import DataError, VideoError
from effvid_jax import checkpoint, console, processes, writers
from effvid_jax.course import Course
from effvid_jax.errors import Interrupted, TrainingError, UserError
from effvid_jax.methods import find_method
from effvid_jax.signals import Signals
from effvid_jax.start import bounds, lock, saved_config, workdirs
from effvid_jax.start.runs import (
    PROJECT,
    check_starts,
    known_configs,
    prepare,
    stage_config,
    stage_names,
    trained,
)
from effvid_jax.tasks import make_task

# What jax says when another process does not answer: of its collectives, and of its coordination service.
_PEER_IS_GONE = "Gloo|NCCL|[Cc]oordination ?[Ss]ervice|Connection (reset|closed) by peer|heartbeat"


def run(start) -> int:
    """Calls `start`; turns a user's mistakes into one message and a non-zero exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    try:
        with Signals("start the same command again."):
            start()
        return 0
    except Interrupted as error:
        print(f"\ninterrupted: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (UserError, DataError, VideoError, TrainingError, OSError) as error:
        return _one_message(error)
    except Exception as error:
        if isinstance(error, ValueError) and "Configuration is not available" in str(error):
            # The config file is read when it is asked for.
            return _one_message(error, _last_words(error))
        if processes.several():  # the others would wait for this one
            if not re.search(_PEER_IS_GONE, str(error)):
                traceback.print_exc()
                processes.fail(1, f"{type(error).__name__}: {error}")
            return _one_message(TrainingError(
                "another process of this run has ended: what it said, or its machine, tells why. Start the "
                "same command again on all of them; it goes on from what was saved last."), gone=True)
        raise


def _one_message(error: Exception, text: str = "", gone: bool = False) -> int:
    if os.environ.get("EFFVID_TRACEBACK"):
        raise error
    if not text and isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    print(f"\nerror: {text or error}\n(EFFVID_TRACEBACK=1 shows where it came from)", file=sys.stderr)
    processes.fail(1, text or str(error), gone)
    return 1


def parse_flags(argv, values=None):
    """absl's flag parsing, with errors of configs as messages; into `values`, the global flags by default.

    Fields of the config (`--config.a.b=c`) may stand before it. Without `--config` they change, for
    everything but training, what was saved with the run in `--workdir`.

    Raises:
        UserError: unknown flag or config field (with close matches), wrong type, broken config file.
    """
    sys.argv = _of_the_package(_config_first(argv))  # ml_collections looks there for the fields
    file = _config_file(sys.argv)
    if file is not None and not os.path.isfile(file):
        raise UserError(f"--config={file} is no file. Configs: {', '.join(known_configs())}.")
    try:
        return (flags.FLAGS if values is None else values)(sys.argv)
    except flags.Error as error:
        raise UserError(_wrong_value(error) or _last_words(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError, ImportError) as error:
        raise UserError(_unknown_field(sys.argv) or f"--config={file}{_line(error, file)}: "
                        f"{_last_words(error)}") from error


def _line(error: Exception, file: str | None) -> str:
    """', line 3' of the config file, where an error came from there."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""


def _config_file(argv: list[str]) -> str | None:
    """The file that `--config` names; None if it names nothing. It stands first, see `_config_first`."""
    match = re.fullmatch(r"--?config(?:=(.*))?", argv[1], re.DOTALL) if len(argv) > 1 else None
    return match and (match[1] if match[1] is not None else "".join(argv[2:3])).split(":")[0]


def _wrong_value(error: Exception) -> str:
    """What a field of the config expected instead of what was given; '' if it is about something else."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    expected = match and bounds.kind_of(match[1])
    return f"--config.{match[1]}={match[2]}: expected {expected}." if expected else ""


def _unknown_field(argv: list[str]) -> str:
    """Which group lacks the field that an argument changes, and what it has; '' if all are there."""
    value = argv[1].partition("=")[2] or "".join(argv[2:3])
    file, _, arg = value.partition(":")
    try:
        config = runpy.run_path(file)["get_config"](*([arg] if arg else []))
    except Exception:  # the message about the file itself says more
        return ""
    for argument in argv[2:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        group, path = config, "config"
        for name in match[1].split(".") if match else ():
            if not hasattr(group, "keys"):
                return f"{argument}: {path} is a single value, it has no field {name!r}."
            if name not in group:
                known = sorted(group.keys())
                close = [] if path.startswith("config.stages.") else [  # right, but in another group
                    f"config.{key}.{name}" for key, fields in config.items()
                    if hasattr(fields, "keys") and name in fields]
                close = close or difflib.get_close_matches(name, known)
                hint = f" Did you mean {' or '.join(close)}?" if close else ""
                return f"{argument}: {path} has no field {name!r}.{hint} Known: {', '.join(known) or 'none'}."
            group, path = group[name], f"{path}.{name}"
    return ""


def _config_first(argv: list[str]) -> list[str]:
    """`argv` with `--config` at its beginning, as ml_collections wants it."""
    def find(name):  # (position, number of arguments, value) of a flag
        for i, argument in enumerate(argv):
            if match := re.fullmatch(f"--?{name}(?:=(.*))?", argument, re.DOTALL):
                return (i, 1, match[1]) if match[1] is not None else (i, 2, "".join(argv[i + 1:i + 2]))
        return None

    if found := find("config"):
        i, count, _ = found
        return [argv[0], *argv[i:i + count], *argv[1:i], *argv[i + count:]]
    fields = [argument for argument in argv if re.match(r"--?(no)?config\.", argument)]
    if not fields:
        return argv
    mode, workdir = find("mode"), find("workdir")
    if not workdir or not mode or mode[2] == "train":
        raise UserError(f"{fields[0]} changes a field of a config: --config=FILE is missing. Configs: "
                        f"{', '.join(known_configs())}.")
    return [argv[0], f"--config={saved_config.__file__}:{os.path.abspath(workdir[2])}", *argv[1:]]


def _of_the_package(argv: list[str]) -> list[str]:
    """`argv` with the path of a config that is not here but comes with the package, such as configs/x.py."""
    file = _config_file(argv)
    if file in known_configs() and not os.path.isfile(file):
        return [arg.replace(file, os.path.join(PROJECT, file), 1)
                if i in (1, 2) and re.match(rf"(--?config=)?{re.escape(file)}(:|$)", arg) else arg
                for i, arg in enumerate(argv)]
    return argv


def _last_words(error: Exception) -> str:
    """The message of the innermost error: ml_collections puts whole tracebacks into its own."""
    text = str(error.args[0]) if error.args else str(error)
    if "No such file" in text:
        missing = re.findall(r"No such file or directory: '([^']+)'", text)
        return f"{missing[-1] if missing else text} is not there. Configs: {', '.join(known_configs())}."
    inner = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception): (.*)$", text, re.MULTILINE)
    text = inner[-1] if inner else text
    if isinstance(error, KeyError) and not inner:
        text = f"no {text!r}"
    if isinstance(error, SyntaxError):
        text = f"{text} ({error.filename}, line {error.lineno})"
    with contextlib.suppress(ValueError, SyntaxError):  # a KeyError shows its message as a literal
        text = str(ast.literal_eval(text)) if text[:1] in "'\"" else text
    return " ".join(text.replace("\n", ". ").split())


def train(config, workdir: str, resume_anyway: bool = False) -> dict:
    """Trains every stage of the config, or the one run it is; ends with an evaluation.

    Args:
        config: as it was given.
        workdir: of the run; one that is there goes on.
        resume_anyway: with a config that changes what the run's numbers mean, too.

    Raises:
        UserError: somebody else trains in the workdir, or it holds a run of another config.
    """
    config = prepare(config, workdir)
    if config.note:
        console.say(config.note)
    names = stage_names(config)
    stages = {name: stage_config(config, name, workdir) for name in names}
    check_stages(stages or {"": config})
    check_starts(config, names)
    if config.init.step and len(names) > 1:
        raise UserError(f"config.init.step={config.init.step}: which of the stages {', '.join(names)} is "
                        f"to go back? Each has steps of its own; --config.run={names[-1]} trains one alone.")
    folders = [os.path.join(workdir, name) for name in names]
    with lock.hold(workdir, *folders):
        workdirs.check_run(config, workdir, resume_anyway)
        if jax.process_index() == 0:
            writers.clear_parts(workdir, *folders, os.path.join(workdir, "export"))
        if names:
            return _train_stages(config, workdir, stages, resume_anyway)
        from effvid_jax.train import train as train_one

        result = train_one(config, workdir, resume_anyway)
        if jax.process_index() == 0:
            report_at_the_end(workdir, timed=False)
        return result


def _train_stages(config, workdir: str, stages, resume_anyway: bool) -> dict:
    from effvid_jax.train import train as train_one

    names = list(stages)
    for name, stage in stages.items():  # before anything is written, and before the first one trains
        folder = os.path.join(workdir, name)
        workdirs.check_resume(stage, folder, resume_anyway)
        if (step := stage.init.step or workdirs.trained_step(folder)) is not None:
            split = data_pipelines.open_split(stage.data, "train")
            workdirs.check_classes(make_task(stage, split.class_names).class_names, folder, resume_anyway)
            workdirs.check_devices(stage, folder, len(split), resume_anyway)
            if position := workdirs.saved_position(folder, step):
                workdirs.check_length(position.step, Course(stage, len(split), position).num_steps, folder)
    checkpoint.save_config(config, workdir)
    start, results = time.monotonic(), {}
    for i, (name, stage) in enumerate(stages.items()):
        console.say(f"stage {i + 1} of {len(names)}: {name}")
        with data_pipelines.cache_for(stages[later].data for later in names[i:]):
            results[name] = train_one(stage, os.path.join(workdir, name), resume_anyway)
    final = results[names[-1]] | {
        f"{name}/{metric}": value for name in names[:-1] for metric, value in results[name].items()
        if metric.startswith("val/")}
    final["seconds"] = round(time.monotonic() - start, 1)
    if jax.process_index() == 0:
        gather_stages(workdir, names, final)
        report_at_the_end(workdir, timed=True)
    return final


def report_at_the_end(workdir: str, timed: bool) -> None:
    """The report of a run that is trained and evaluated: its result stands, whatever keeps this from it."""
    from effvid_jax.reports import report as reporting

    try:
        reporting.report(workdir, timed)
    except (UserError, DataError, OSError) as error:
        console.say(f"no report: {error} (--mode=report --workdir={workdir} tries again)")


def check_stages(stages) -> None:
    """Mistakes in a later stage show before the first one trains.

    Args:
        stages: name -> config; '' is the name of a run that has none.

    Raises:
        UserError, DataError: what is wrong with a stage's values, network, method or optimiser.
    """
    for name, config in stages.items():
        try:
            bounds.check_run(config)
        except (UserError, DataError) as error:
            if not name:
                raise
            raise type(error)(f"stage {name}: {error}") from error
    for name, config in stages.items():
        method = find_method(config.method.name)
        others = {field: stages[other] for field, other in method.Settings.workdirs.items()
                  if other in stages and os.path.basename(config.method[field]) == other}
        try:
            method.check_beside(config, others)
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error


def eval(config, workdir: str, split: str = "val", overrides=()) -> dict:  # the mode's name, as one types it
    """Restores the newest checkpoint and scores a split.

    The result is the run's own (`metrics.json`) where nothing is changed; otherwise it is written beside it.

    Args:
        config: None: as it was trained.
        workdir: of the run.
        split: that is scored.
        overrides: fields that the command line changed (`data.root`).

    Raises:
        UserError: a change that an evaluation does not read.
    """
    from effvid_jax import evaluate

    config, stage = trained(config, workdir)
    what = workdirs.evaluation_name(config, stage, split, _of_stage(overrides, stage))
    result = evaluate.evaluate_workdir(config, stage, split, what)
    if stage != workdir and split == "val" and not what and jax.process_index() == 0:
        writers.update_json(os.path.join(workdir, "metrics.json"), result)
    return result


def _of_stage(overrides, stage: str) -> list[str]:
    """Fields of a whole config as those of its last stage, in whose folder the network is."""
    return [field.removeprefix(f"stages.{os.path.basename(stage)}.") for field in overrides]


def predict(config, workdir: str, video: str | list[str] | None, as_json: bool, overrides=(),
            **asked) -> None:
    """Answers for videos, by the network of a workdir or of an export folder.

    Args:
        config: None: as it was trained.
        workdir: of the run, or the folder `export` that `--mode=export` wrote.
        video: what `--video` names, once or several times.
        as_json: nothing but JSON on standard output.
        overrides: as for `eval`.
        **asked: fields of `predict.Asked`.

    Raises:
        UserError: no video, or something that cannot be asked for.
    """
    from effvid_jax import predict as predicting

    videos, wanted = [video] if isinstance(video, str) else list(video or ()), predicting.Asked(**asked)
    wanted.check(videos)
    if predicting.is_export(workdir):
        if config is not None:
            raise UserError(f"--config: what {workdir} holds is exported, and answers as it is: leave it "
                            f"away.")
    else:
        config, workdir = trained(config, workdir)
        workdirs.check_overrides(config, workdir, _of_stage(overrides, workdir))
    predicting.predict(config, workdir, videos, as_json, wanted)


def bench(config, workdir: str) -> dict:
    """Speed of decoding, loading, training and inference."""
    from effvid_jax.speed import bench as benching

    config = prepare(config, workdir) if config is not None else trained(config, workdir)[0]
    return benching.bench(config, workdir)


def report(config, workdir: str, overrides=()) -> dict:
    """The table and plots of a finished run, again."""
    from effvid_jax.reports import report as reporting

    if overrides:
        raise UserError(f"--config.{overrides[0]}: a report shows what was trained, as it was: leave it "
                        f"away.")
    del config
    return reporting.report(workdir)


def export(config, workdir: str, overrides=()) -> dict:
    """The trained network as a `jax.export` artefact without this code; `overrides` as for `eval`."""
    from effvid_jax import export as exporting

    config, stage = trained(config, workdir)
    workdirs.check_overrides(config, stage, _of_stage(overrides, stage), reads=("export.*",))
    return exporting.export(config, stage, os.path.join(workdir, "export"))


def freeze(config, workdir: str, out: str | None, overrides=(), **options) -> dict:
    """The trained network with constant gates made static, as a workdir `out`; `overrides` as for `eval`."""
    from effvid_jax import freeze as freezing

    if not out:
        raise UserError("--mode=freeze needs --out=DIR, the workdir of the frozen network.")
    config, stage = trained(config, workdir)
    workdirs.check_overrides(config, stage, _of_stage(overrides, stage))
    return freezing.freeze(config, stage, os.path.abspath(out), **options)


def config(config, workdir: str | None) -> dict:  # the mode's name, as one types it
    """Every field of a config with its meaning: of the one that is given, or of what is in the workdir."""
    from effvid_jax.start import settings

    if config is None and not workdir:
        raise UserError("--mode=config needs --config=FILE, or the --workdir=DIR of a run. Configs: "
                        + ", ".join(known_configs()) + ".")
    given = config.copy_and_resolve_references() if config is not None else trained(None, workdir)[0]
    bounds.check_values(given)
    return settings.show(given)


def gather_stages(workdir: str, names: list[str], final: dict) -> None:
    """The files of a single run for a run of several stages: result, history, class names."""
    writers.write_json(os.path.join(workdir, "metrics.json"), final)
    with writers.whole(os.path.join(workdir, "classes.txt")) as part:
        shutil.copy(os.path.join(workdir, names[-1], "classes.txt"), part)
    rows = []
    for name in names:
        found = writers.read_csv(os.path.join(workdir, name, "metrics.csv"))
        rows += [{"stage": name, **row} for row in found]
    writers.write_csv(os.path.join(workdir, "metrics.csv"), rows)
