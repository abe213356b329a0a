"""Compiles the train and evaluation steps of a config for TPUs that are not here: do they fit?

    python -m effvid_jax.ahead --config=configs/reskd_k400.py --topology=v5e:2x4
    python -m effvid_jax.ahead --config=configs/reskd_k400.py:backbone=swin3d_s --topology=v6e:4x4 \
        --config.data.batch_size=128 --config.train.fsdp=4 --config.model.remat=block --json

The compiler is libtpu, which `pip install "effvid_jax[tpu]"` brings and which needs no TPU for this; with
`--topology=` the steps are only lowered, for TPUs and NVIDIA GPUs (`jax.export`), without it. They are those
that the train loop and the evaluation jit, with the state cut as `config.train.fsdp` says and batches over
all chips; weights are not made. A teacher that is not there is the config's own, with random weights.

Printed are, per device: what lies in memory while the step runs, floating-point operations, bytes read and
written, and collectives with their bytes, all from the compiled program; the time that this takes at the
chip's peak rates (`programs.CHIPS`), which no run reaches; and whether the batch fits. Exit code 1 if
it does not.
`docs/scale.md` has the reports of the published recipes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from typing import Any

import jax
import tabulate
from absl import flags
from ml_collections import config_flags

from effvid_jax import cli, sharding
from effvid_jax.ahead.programs import CHIPS, GB, GIB, LOWERED, Programs, seconds
from effvid_jax.errors import UserError
from effvid_jax.start import bounds, runs

TOPOLOGIES = ("v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:8x8", "v5e:16x16", "v6e:2x2", "v6e:2x4", "v6e:4x4",
              "v6e:8x8", "v6e:16x16")


def topology_devices(name: str):
    """Devices of a TPU topology such as 'v5e:2x4'.

    Raises:
        UserError: libtpu is not installed, or does not know it.
    """
    from jax.experimental import topologies

    try:
        import libtpu  # noqa: F401 - says by its absence what is missing
    except ImportError:
        raise UserError('compiling for a TPU needs its compiler: pip install "effvid_jax[tpu]" (or libtpu); '
                        "--topology= only lowers.") from None
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # of another type for every way that a name can be wrong
        raise UserError(f"--topology={name} is not known to libtpu ({' '.join(str(error).split())[:120]}). "
                        f"Such are: {', '.join(TOPOLOGIES)}.") from error


def report(config, topology: str, stages=(), steps=("train", "eval"), classes: int = 0,
           lower: bool = True) -> list[dict]:
    """A row for every step of every stage.

    Args:
        config: a config without a workdir.
        topology: a name, or '' to lower only.
        stages: names of them; by default the last, or the config itself.
        steps: of 'train' and 'eval'.
        classes: K; 0: what the config says.
        lower: whether to lower for `LOWERED` as well.
    """
    if topology:
        devices = topology_devices(topology)
        mesh = sharding.make_mesh(config.train.get("fsdp", 1), devices=list(devices))
    else:
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
    config = ready(config, mesh.size)
    names = [name for name in stages or runs.stage_names(config)[-1:] or ("",)]
    count = classes or config.data.num_classes or 16
    class_names = [f"class {k}" for k in range(count)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            stage = runs.stage_config(config, name, folder) if name else config
            stage.init.checkpoint = ""
            _with_teachers(config, stage, folder, class_names)
            programs = Programs(stage, class_names, mesh)
            for what in steps:
                rows.append(row(programs, name or config.name, what, topology, lower))
    return rows


def ready(config, devices: int):
    """A config whose network starts from nothing, with batch statistics of each of so many devices."""
    config = config.copy_and_resolve_references()
    config.init.checkpoint, config.init.probe = "", False
    config.model.bn_groups = config.model.bn_groups or devices
    return config


def config_of(file: str, fields):
    """The config of a file with arguments, such as 'configs/reskd_k400.py:tiny'.

    Args:
        file: as `--config`.
        fields: such as '--config.data.batch_size=8'.

    Raises:
        UserError: as `cli.parse_flags`; a field with a value that it cannot have.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, lock_config=True)
    if left := cli.parse_flags([sys.argv[0], f"--config={file}", *fields], values)[1:]:
        raise UserError(f"unknown arguments: {' '.join(left)}.")
    bounds.check_values(values.config)
    return values.config


def _with_teachers(config, stage, folder: str, class_names) -> None:
    """Puts random weights where the stage reads another one's that are not there."""
    from effvid_jax.methods import find_method
    from effvid_jax.speed.bench import stand_in

    for field, other in find_method(stage.method.name).Settings.workdirs.items():
        stage.method[field] = stand_in(config, other, stage.method[field], folder, class_names)


def row(programs: Programs, name: str, what: str, topology: str, lower: bool) -> dict[str, Any]:
    """What is to be told of one step, 'train' or 'eval'; compiled if there is a topology."""
    data = programs.config.data
    found = {"stage": name, "step": what, "topology": topology, "chips": programs.mesh.size,
             "fsdp": programs.mesh.shape[sharding.FSDP], "backbone": programs.config.model.backbone,
             "dtype": programs.config.model.dtype, "remat": programs.config.model.get("remat", "none"),
             "batch": programs.batch_size if what == "train" else programs.eval_batch_size,
             "clip": f"{data.num_frames} x {data.crop if what == 'train' else data.test_crop_size}"}
    if lower:
        found |= programs.lower(what)
    if not topology:
        return found
    chip = CHIPS.get(topology.split(":")[0])
    try:
        found |= programs.compile(what)
    except jax.errors.JaxRuntimeError as error:
        text = " ".join(str(error).split())
        full = "RESOURCE_EXHAUSTED" in text
        return found | {"fits": False if full else None, "problem": _of_memory(text) if full else text[:300]}
    found["fits"] = True if chip is None else found["memory"] <= chip.memory
    if chip is not None:
        found |= {f"{key}_seconds": value for key, value in seconds(found, chip, found["chips"]).items()}
    return found


def _of_memory(text: str) -> str:
    """What XLA's message about memory says: its two numbers, else the sentence that has them."""
    size = r"[^;]*?\(?([0-9.]+[GMK])\)?"
    if sizes := re.search(f"require[sd]{size} exceeds{size}", text):
        return f"it needs {sizes[1]} of {sizes[2]}"
    match = re.search(r"(Ran out of memory|Used [0-9.]+[GMK] of|[^.]*exceeds?)[^;]{0,160}", text)
    return match[0].strip() if match else text[:200]


def told(row: dict[str, Any]) -> str:
    """A row as lines to read."""
    lines = [f"{row['stage']}, {row['step']} step: {row['backbone']}, {row['batch']} x {row['clip']} pixels, "
             f"{row['dtype']}, remat {row['remat']}, fsdp {row['fsdp']}, on {row['chips']} chips"
             + (f" of {row['topology']}" if row["topology"] else "")]
    if "lowered" in row:
        lines.append(f"  lowered for {' and '.join(row['lowered'])} in {row['lower_seconds']} s")
    if "problem" in row:
        lines.append(f"  {'DOES NOT FIT' if row['fits'] is False else 'DOES NOT COMPILE'}: {row['problem']}")
    elif row["topology"]:
        lines.append(f"  compiled in {row['compile_seconds']} s")
        chip = CHIPS.get(row["topology"].split(":")[0])
        of = f" of {chip.memory / GIB:.0f}" if chip else ""
        lines.append(f"  memory {row['memory'] / GIB:.2f} GiB{of} (arguments {row['arguments'] / GIB:.2f}, "
                     f"temporary {row['temporary'] / GIB:.2f}): {'fits' if row['fits'] else 'DOES NOT FIT'}")
        lines.append(f"  {row['flops'] / 1e9:,.0f} GFLOP, {row['bytes'] / GB:.2f} GB read and written a chip")
        sent = ", ".join(f"{number} {kind} ({size / 1e6:,.1f} MB)"
                         for kind, (number, size) in row["collectives"].items())
        lines.append(f"  collectives: {sent or 'none'}")
        if chip:
            lines.append("  at peak rates: " + ", ".join(
                f"{key} {1e3 * row[f'{key}_seconds']:.2f} ms"
                for key in ("compute", "memory", "links", "step")))
    return "\n".join(lines)


def told_short(row: dict[str, Any]) -> str:
    """A row in one line."""
    said = row.get("problem") or f"{row['memory'] / GIB:.2f} GiB, {row['flops'] / 1e12:.2f} TFLOP a chip"
    return f"{row['stage']}, {row['step']} step on {row['topology']}: {said}"


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table in Markdown."""
    lines = []
    for row in rows:
        if row.get("fits") is None and "problem" in row:
            said = f"does not compile: {row['problem']}"
            lines.append((row["stage"], row["step"], said, "", row["topology"]))
            continue
        sizes = (f"does not fit: {row.get('problem', '')}",) + ("",) * 5
        if "memory" in row:
            sent = sum(size for _, size in row["collectives"].values())
            sizes = (f"{row['memory'] / GIB:.2f}" + ("" if row["fits"] else ": does not fit"),
                     f"{row['flops'] / 1e12:.2f}", f"{row['bytes'] / GB:.1f}", f"{sent / 1e6:,.0f}",
                     f"{1e3 * row['step_seconds']:.1f}" if "step_seconds" in row else "",
                     row["compile_seconds"])
        lines.append((row["stage"], row["step"], row["backbone"], f"{row['batch']} x {row['clip']}²",
                      row["topology"], row["fsdp"], row["dtype"], row["remat"], *sizes))
    return tabulate.tabulate(lines, (
        "stage", "step", "network", "batch", "chips", "fsdp", "type", "remat", "GiB a chip", "TFLOP a chip",
        "GB a chip", "MB collectives", "ms at peak", "s to compile"), tablefmt="github",
        disable_numparse=True)


def main(argv: list[str]) -> int:
    """The command; see the module docstring."""
    parser = argparse.ArgumentParser(prog="python -m effvid_jax.ahead", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="and --config.FIELD=VALUE as of main.py")
    parser.add_argument("--topology", default="v5e:2x4",
                        help=f"such as {', '.join(TOPOLOGIES)}; '': lower only")
    parser.add_argument("--stages", default="", help="of the config's run, such as teacher,student")
    parser.add_argument("--steps", default="train,eval", help="of train and eval")
    parser.add_argument("--classes", type=int, default=0, help="K where only the data says it")
    parser.add_argument("--no_lower", action="store_true", help=f"not for {' and '.join(LOWERED)} as well")
    parser.add_argument("--json", action="store_true", help="print rows as json")
    args, rest = parser.parse_known_args(argv)
    config = config_of(args.config, rest)
    if unknown := set(args.steps.split(",")) - {"train", "eval"}:
        raise UserError(f"--steps={args.steps}: {', '.join(sorted(unknown))} is none of train, eval.")
    for_this_machine()
    stages = tuple(filter(None, args.stages.split(",")))
    rows = report(config, args.topology, stages, args.steps.split(","), args.classes,
                  not args.no_lower)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(map(told, rows)))
        if args.topology:
            print("\n" + table(rows))
    return int(any(row.get("fits", True) is not True for row in rows))


def for_this_machine() -> None:
    """What keeps jax and libtpu from looking for a TPU; before the first device is asked for."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_optimization_level", os.environ.get("JAX_OPTIMIZATION_LEVEL", "O1"))
    jax.config.update("jax_enable_compilation_cache", False)  # such programs cannot be read back
    for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
                        ("TPU_WORKER_HOSTNAMES", "localhost"), ("TPU_WORKER_ID", "0")):
        os.environ.setdefault(name, value)


def command() -> int:
    """`main` with a user's mistakes as messages."""
    codes = [0]
    return cli.run(lambda: codes.append(main(sys.argv[1:]))) or codes[-1]
