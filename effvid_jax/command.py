"""The command line: flags, and the mode they mean; `main.py`, `effvid` and `python -m effvid_jax` end here.

What a mode does is in `cli.py`.
"""

from __future__ import annotations

import json
import os

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from effvid_jax import cli, console, processes
from effvid_jax.errors import UserError
from effvid_jax.speed import compilation_cache
from effvid_jax.start import cluster

MODES = ("train", "eval", "predict", "bench", "report", "export", "freeze", "config")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file with arguments: configs/<method>_<dataset>.py[:tiny|demo|key=value,...]",
    lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything a run writes.")
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do; train ends with an evaluation, "
                          "config says what every field of a config means.")
_VIDEO = flags.DEFINE_multi_string(
    "video", None, "predict: a video file, a folder of them, a pattern in quotes ('clips/*.mp4'), - "
                   "(standard input) or camera:0; may be given several times.")
_SPLIT = flags.DEFINE_string(
    "split", "val", "eval: the split to score; the result of another one is eval_<split>.json. freeze: whose "
    "clips show what gates decide.")
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "train, eval: this is one of several processes: TPU pods, SLURM and Open MPI are "
    "detected, elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.")
_ANYWAY = flags.DEFINE_bool(
    "resume_anyway", False, "train: go on in a workdir whose run had another config, whatever has changed.")
_OUT = flags.DEFINE_string("out", None, "freeze: the workdir of the frozen network.")
_SHARE = flags.DEFINE_float(
    "share", 1.0, "freeze: gates that decide alike for at least this share of the clips become static.")
_KEEP_GATES = flags.DEFINE_bool(
    "keep_gates", False, "freeze: the gates of frozen layers still weigh what is computed (equal outputs).")
_JSON = flags.DEFINE_bool("json", False, "predict: print nothing but json, an object per video (window, "
                                         "frame).")
_ASKED = {
    "window": flags.DEFINE_float("window", None, "predict: cut videos into parts of so many seconds."),
    "stride": flags.DEFINE_float("stride", None, "predict: seconds from a window to the next, --window if "
                                                 "not given."),
    "stream": flags.DEFINE_bool("stream", False, "predict: frames go through the network one by one, with "
                                                 "an answer after each."),
    "every": flags.DEFINE_integer("every", None, "predict: of a stream the network sees every so many "
                                                 "frames, config.data.frame_interval if not given."),
    "fps": flags.DEFINE_float("fps", None, "predict: frames per second of a folder of frames, 25 if not "
                                           "given."),
    "seconds": flags.DEFINE_float("seconds", None, "predict: windows and streams end after so many seconds."),
    "output": flags.DEFINE_string("output", None, "predict: file that gets a row for every answer, .csv or "
                                                  ".jsonl."),
    "timeline": flags.DEFINE_string("timeline", None, "predict: csv that gets a row for every second, with "
                                                      "the probability of every class."),
    "archive": flags.DEFINE_string("archive", None, "predict: folder that gets the answers about very many "
                                                    "videos, a csv file a block of them."),
    "engine": flags.DEFINE_enum("engine", None, ("local", "ray"), "predict, with --archive: what spreads "
                                "the work: processes of this machine (if not given), or a Ray cluster."),
    "workers": flags.DEFINE_integer("workers", None, "predict, with --archive: processes that read videos."),
    "block": flags.DEFINE_integer("block", None, "predict, with --archive: rows of a file."),
    "address": flags.DEFINE_string("address", None, "predict, with --engine=ray: address of the cluster; "
                                                    "RAY_ADDRESS or a Ray of this machine if not given."),
    "devices": flags.DEFINE_integer("devices", None, "predict, with --engine=ray: accelerators to use, all "
                                                     "if not given."),
    "batch_size": flags.DEFINE_integer("batch_size", None, "predict: videos that the network is asked about "
                                       "at once, config.data.eval_batch_size if not given."),
    "annotate": flags.DEFINE_string("annotate", None, "predict: the video with answers over its frames, "
                                                      ".mp4 or .gif."),
}


def main(argv):
    """Runs one mode; see `effvid_jax/cli.py` for what each mode does."""
    if len(argv) > 1:
        raise UserError(f"unexpected arguments {argv[1:]}: flags look like --config=..., --workdir=...")
    logging.set_verbosity(logging.WARNING)  # orbax narrates every file at INFO
    if _MODE.value == "config":
        print(json.dumps(cli.config(_CONFIG.value, _WORKDIR.value)))
        return
    if not _WORKDIR.value:
        raise UserError("--workdir=DIR is missing: the folder for everything a run writes.")
    if _MULTIHOST.value:
        if _MODE.value not in ("train", "eval"):
            raise UserError(f"--multihost: --mode={_MODE.value} runs in one process: leave it away.")
        cluster.join()
        processes.start()
    for name, flag in _ASKED.items():
        if _MODE.value != "predict" and flag.value not in (None, False):
            raise UserError(f"--{name} belongs to --mode=predict: leave it away, or change the mode.")
    compilation_cache.use(console.say)
    workdir = os.path.abspath(_WORKDIR.value)
    if _MODE.value == "predict":
        cli.predict(_CONFIG.value, workdir, _VIDEO.value, _JSON.value, _changed(),
                    **{name: flag.value for name, flag in _ASKED.items()})
        return
    more = {} if _MODE.value in ("train", "bench") else {"overrides": _changed()}
    if _MODE.value == "train":
        more = {"resume_anyway": _ANYWAY.value}
    elif _MODE.value == "eval":
        more["split"] = _SPLIT.value
    elif _MODE.value == "freeze":
        more |= {"out": _OUT.value, "split": _SPLIT.value, "share": _SHARE.value,
                 "keep_gates": _KEEP_GATES.value}
    result = getattr(cli, _MODE.value)(_CONFIG.value, workdir, **more)
    if result and jax.process_index() == 0:
        print(json.dumps(result), flush=True)


def _changed() -> list[str]:
    """Fields of the config that the command line changes."""
    return list(config_flags.get_override_values(flags.FLAGS["config"])) if _CONFIG.value is not None else []


def start() -> int:
    """Runs what the command line asks for and returns the exit code."""
    return cli.run(lambda: app.run(main, flags_parser=cli.parse_flags))
