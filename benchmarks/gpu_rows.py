"""What `gpu_suite.py` measures: one function a kind of row, each returns numbers for one JSON line.

Every side runs warm, on random clips that lie on the device, in turns with the others
(`effvid_jax/speed/timing.py`). Ours goes through the project's own predict functions, methods and train step;
PyTorch's side is `torch_networks.py`, imported only where a row needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import early_exit, precision, resolution, va_red2_speed
from configs import reskd_minik
from configs.recipes.base import defaults, pixels
from effvid_jax import cost
from effvid_jax.backbones import blocks, make_backbone
from effvid_jax.methods import base, building
from effvid_jax.speed import bench, exit_bench, timing
from effvid_jax.tasks import make_task

CLASSES = 400
FORMS = ("eager", "compiled", "graphs")  # of PyTorch; graphs of kernels are recorded on a GPU alone


class Refused(Exception):
    """A row that cannot run here; the message says why."""


@dataclasses.dataclass
class Setup:
    """What all rows share.

    Attributes:
        seconds: to spend on measuring each row, warm-up not counted.
        forms: those of `FORMS` that are measured.
        dtype: what everything computes in.
        layouts: whether PyTorch's 2-D networks are tried channels-first too, as 3-D ones always are.
        profile: called with our side of every row beside PyTorch; None: no profile.
        peaks: {'tflops', 'gbytes'} of this device, once they are measured.
    """

    seconds: float = 4.0
    forms: tuple[str, ...] = FORMS
    dtype: str = "bfloat16"
    layouts: bool = False
    profile: Callable[[Callable], None] | None = None
    peaks: dict[str, float] = dataclasses.field(default_factory=dict)

    def measure(self, sides) -> dict[str, timing.Timing]:
        """Times sides in turns; at least five samples each."""
        return timing.measure(sides, seconds=self.seconds, min_repeats=5, min_sample_seconds=0.1)


def torch_side():
    """`benchmarks.torch_networks`.

    Raises:
        Refused: PyTorch or torchvision is missing.
    """
    try:
        from benchmarks import torch_networks
    except ImportError as error:
        raise Refused("PyTorch is not installed") from error
    torch_networks.prepare()
    return torch_networks


def free() -> None:
    """Memory of a row is the next one's: programs are dropped, caches given back."""
    jax.clear_caches()
    gc.collect()
    if "benchmarks.torch_networks" in sys.modules:
        torch_side().free()


# ------------------------------------------------------------------------------------------- peaks
def peaks(setup: Setup, side: int, gbytes: float) -> dict[str, Any]:
    """A square matrix product, and a pass that reads and writes `gbytes` each."""
    def make(key):
        a, b = jax.random.normal(key, (2, side, side), setup.dtype)
        return a, b, jax.random.normal(key, (int(gbytes * 1e9 / 4),), jnp.float32)

    a, b, x = jax.jit(make)(jax.random.key(0))
    product = jax.jit(jnp.dot)
    state, add = [x], jax.jit(lambda x: (x + 1, x[0]), donate_argnums=0)  # results of a sample are all kept

    def copy():
        state[0], first = add(state[0])
        return first

    sides = {"jax product": lambda: product(a, b), "jax copy": copy}
    with contextlib.suppress(Refused):
        torch = torch_side().torch
        one, two = (torch.randn(side, side, device=torch_side().DEVICE, dtype=getattr(torch, setup.dtype))
                    for _ in "ab")
        source = torch.randn(x.size, device=torch_side().DEVICE)
        target, pending = torch.empty_like(source), torch_side().Pending
        sides |= {"torch product": lambda: pending(one @ two),
                  "torch copy": lambda: pending(target.copy_(source))}
    times = setup.measure(sides)
    tflops = {k.split()[0]: 2 * side**3 / t.median / 1e12 for k, t in times.items() if "product" in k}
    copies = {k.split()[0]: 2 * x.nbytes / t.median / 1e9 for k, t in times.items() if "copy" in k}
    return {"tflops": max(tflops.values()), "gbytes": max(copies.values()), "tflops_by": tflops,
            "gbytes_by": copies, "side": side, "copied_gbytes": gbytes,
            "spreads": {k: t.spread for k, t in times.items()}}


# ---------------------------------------------------------------------------------- beside PyTorch
class PlainConv(blocks.Conv):
    """XLA's own convolution on every device."""

    plain: bool = True


def inference(setup: Setup, backbone: str, frames: int, resolution: int, batch: int,
                plain: bool = False) -> dict[str, Any]:
    """Clips per second of the forward pass, ours and PyTorch's.

    With `plain` ours alone, as it is and with `PlainConv`.
    """
    config = defaults()
    task, config = make_task(config, [str(k) for k in range(CLASSES)]), config.model
    config.update(dict(backbone=backbone, dtype=setup.dtype, dropout=0.0))
    clips = bench.random_clips((batch, frames, resolution, resolution, 3))
    clip = clips.shape[1:]
    ours = {"ours": None} | ({"ours, plain": PlainConv} if plain else {})
    models = {name: building.build_backbone(config, CLASSES, **({"conv": conv} if conv else {}))
              for name, conv in ours.items()}
    variables = jax.device_put(precision.random_variables(models["ours"], (1, *clip)))
    batch_on_device = {"video": jax.device_put(clips[:, None])}

    def compile_ours(model):
        predict = functools.partial(base.predict_views, model, task, base.Sight.of(config))
        return jax.jit(lambda v, b: predict(v, b).logits).lower(variables, batch_on_device).compile()

    def torch_sides():
        if plain:
            return {}
        torch = torch_side()

        def side(form, channels_last=True):
            model, dtype = torch.make(backbone, frames, CLASSES), getattr(torch.torch, setup.dtype)
            return torch.Inference(torch.place(model, dtype, channels_last), clips, form)

        found = _in_forms(setup, torch, side)
        if setup.layouts or not torch.make(backbone, frames, CLASSES).frames:  # not always the faster one
            found["torch eager, channels first"] = functools.partial(side, "eager", False)
        return found

    # Not beside PyTorch: XLA tries kernels on the device meanwhile, and picks wrong ones if it is not alone.
    programs = {name: compile_ours(model) for name, model in models.items()}
    sides, refused = _warm(torch_sides())
    sides |= {name: functools.partial(program, variables, batch_on_device)
              for name, program in programs.items()}
    gmacs = cost.count(models["ours"], clip, "macs_attn").gmacs
    return _beside(setup, sides, batch, gmacs, programs["ours"]) | {"failed": refused, "batch": batch}


def train(setup: Setup, backbone: str, frames: int, resolution: int, batch: int, teacher: str = "",
          teacher_resolution: int = 0) -> dict[str, Any]:
    """Clips per second and memory of a train step, ours and PyTorch's.

    With a `teacher` the whole ResKD step: clips of `teacher_resolution`, which the student sees at
    `resolution`.
    """
    side = teacher_resolution or resolution
    torch, names = torch_side(), [str(k) for k in range(CLASSES)]
    clips = bench.random_clips((batch, frames, side, side, 3))
    labels = np.random.default_rng(0).integers(0, CLASSES, batch)

    def make_torch(form):
        student = torch.make(backbone, frames, CLASSES)
        loss = torch.SupervisedLoss(student) if not teacher else torch.ReskdLoss(
            student, torch.make(teacher, frames, CLASSES), resolution)
        return torch.TrainStep(torch.place(loss), clips, labels, 20.0, form)

    with tempfile.TemporaryDirectory() as folder:
        config = _train_config(setup, backbone, frames, side, batch, teacher, resolution)
        step = bench.train_sides(config, folder, folder, names)["student" if teacher else "run"]
    # Not beside PyTorch, see `inference`; and its threads crash while XLA records a graph of kernels.
    step._step = step._step.lower(step.state, step.batch).compile()
    sides, refused = _warm(_in_forms(setup, torch, make_torch))
    memory = {name: peak / 1e9 for name, function in sides.items() if (peak := torch.peak_bytes(function))}
    plan = step._step.memory_analysis()
    memory["ours"] = (plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
                      - plan.alias_size_in_bytes) / 1e9
    gmacs = 3 * cost.count(make_backbone(backbone, num_classes=CLASSES),
                           (frames, resolution, resolution, 3), "macs_attn").gmacs
    if teacher:
        gmacs += cost.gmacs(make_backbone(teacher, num_classes=CLASSES), (frames, side, side, 3))
    found = _beside(setup, sides | {"ours": step}, batch, gmacs, step._step)
    stats = jax.devices()[0].memory_stats() or {}
    return found | {"failed": refused, "batch": batch, "memory_gbytes": memory,
                    "process_peak_gbytes": stats.get("peak_bytes_in_use", 0) / 1e9}


def _train_config(setup, backbone, frames, side, batch, teacher, resolution):
    """A resolved config of the supervised or ResKD recipe at these sizes."""
    if teacher:
        config = reskd_minik.get_config(f"backbone={backbone},teacher={teacher},resolution={resolution}")
        config.method.teacher_resolution, config.run = side, "student"
        config.method.teacher_clips = 0  # as PyTorch's side: statistics of the whole batch
    else:
        config = defaults()
        config.model.backbone = backbone
    pixels(config, side)
    config.data.update(dict(num_frames=frames, num_classes=CLASSES, batch_size=batch))
    config.model.update(dict(dtype=setup.dtype, dropout=0.0))
    config.bench.batch_size = batch
    return config


def _in_forms(setup: Setup, torch, make: Callable[[str], Callable]) -> dict[str, Callable]:
    """{name of a side: what makes it} for the forms of PyTorch that this device has."""
    return {f"torch {form}": functools.partial(make, form) for form in setup.forms
            if form != "graphs" or torch.DEVICE == "cuda"}


def _warm(makers: dict[str, Callable[[], Callable]]) -> tuple[dict[str, Callable], dict[str, str]]:
    """Makes PyTorch's sides and calls each once: (sides, messages of those that fail)."""
    sides, failed = {}, {}
    for name, make in makers.items():
        try:
            side = make()
            jax.block_until_ready(side())
            sides[name] = side
        except Exception as error:  # the other forms still count
            failed[name] = f"{type(error).__name__}: {error}"[:500]
            print(f"  {name} failed: {failed[name][:200]}", flush=True)
    return sides, failed


def _beside(setup: Setup, sides, batch: int, gmacs: float, program) -> dict[str, Any]:
    """Times of all sides, rates, ratios to the best of PyTorch's and shares of the device's peaks."""
    times = setup.measure(sides)
    if setup.profile:
        setup.profile(sides["ours"])
    rates = {name: t.rate(batch) for name, t in times.items()}
    best = max((n for n in rates if n.startswith("torch")), key=rates.get, default=None)
    found = {"clips_per_second": rates, "spread": {n: t.spread for n, t in times.items()},
             "samples": {n: len(t.seconds) for n, t in times.items()}, "gmacs": gmacs, "best_torch": best,
             "ratio": rates["ours"] / rates[best] if best else None,
             "tflops": {n: 2e-3 * gmacs * rate for n, rate in rates.items()}}
    analysis = program.cost_analysis() or {}
    found["xla_gbytes"] = float(analysis.get("bytes accessed", 0)) / 1e9
    found["xla_gflops"] = float(analysis.get("flops", 0)) / 1e9
    if setup.peaks:
        found["share_of_peak"] = {n: x / setup.peaks["tflops"] for n, x in found["tflops"].items()}
        found["share_of_copy"] = found["xla_gbytes"] / setup.peaks["gbytes"] / times["ours"].median
    return found


# ---------------------------------------------------------------------------------------- our own
def sweep(setup: Setup, backbone: str, frames: int, batch: int, resolutions: tuple[int, ...]) -> dict:
    """ResKD's Table 4, see `resolution.py`."""
    rows = resolution.measure(backbone, frames, batch, list(resolutions), "bfloat16", 200,
                              3 * setup.seconds)
    print(bench.table(rows), flush=True)
    return {"rows": rows, "batch": batch}


def exits(setup: Setup, backbone: str, frames: int, resolution: int, batch: int, batches: int,
          sizes: tuple[int, ...]) -> dict[str, Any]:
    """Early exits on the clock, see `early_exit.py`."""
    method, variables = early_exit.build(argparse.Namespace(
        backbone=backbone, scheme="unified", frames=frames, resolution=resolution, dtype="bfloat16",
        classes=CLASSES))
    clips = bench.random_clips((batches * batch, frames, resolution, resolution, 3), contrast=True)
    rows = exit_bench.measure(method.segments, variables, clips, batch, policies=("compact",), sizes=sizes,
                              seconds=3 * setup.seconds)
    print(bench.table(rows), flush=True)
    return {"rows": rows, "batch": batch, **{key: rows[-1][key] for key in (
        "speedup", "flops_speedup", "r", "of_segments", "waste")}}


def gates(setup: Setup, backbone: str, frames: int, resolution: int, batch: int, clips: int) -> dict:
    """Gated convolutions on the clock, see `va_red2_speed.py`."""
    args = argparse.Namespace(
        backbone=backbone, resolution=resolution, clips=clips, open=0.5, search_space=2, cheap_kernel=3,
        positions=2**18, dtype="bfloat16", seconds=3 * setup.seconds, profile=False)
    return va_red2_speed.run_once(args, frames, batch)


# ------------------------------------------------------------------------------------------ golden
def golden(setup: Setup, names: str, processes: int, seconds: float) -> dict[str, Any]:
    """Golden cases of `tests/parity` on this device, in processes of their own beside each other.

    Algorithms are not chosen by trial there: that takes most of the time, and speed is not the question.

    Args:
        names: regular expression of cases; those without a network never count.
        processes: at once.
        seconds: after which cases that have not begun are left out.
    """
    del setup
    from tests.parity import run

    paths = sorted((p for p in run.CASES.glob("*.json")
                    if re.search(names, p.stem) and not p.stem.startswith("pipe_")), key=os.path.getsize)
    command = [sys.executable, "-m", "benchmarks.gpu_rows", str(seconds)]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    workers = [subprocess.Popen([*command, *map(str, paths[i::processes])], cwd=root, text=True,
                                stdout=subprocess.PIPE, env=environment)
               for i in range(min(processes, len(paths)))]
    cases = [json.loads(line) for worker in workers for line in worker.communicate()[0].splitlines()
             if line.startswith("{")]
    cases.sort(key=lambda case: case["name"])
    for case in cases:
        print("  " + json.dumps(case), flush=True)
    done = [case for case in cases if case["status"] != "left out"]
    return {"cases": cases, "passed": sum(case["status"] == "PASS" for case in done), "of": len(done),
            "left_out": len(paths) - len(done),
            "worst": max((case["error"] for case in done if case["error"] is not None), default=None)}


def golden_worker(seconds: float, paths: list[str]) -> None:
    """Prints a JSON line a case: float32 at the highest precision, and what bfloat16 does to the logits."""
    import pathlib
    import time

    from tests.parity import run

    start = time.monotonic()
    for path in paths:
        case: dict[str, Any] = {"name": pathlib.Path(path).stem, "status": "left out", "error": None}
        if time.monotonic() - start < seconds:
            began = time.monotonic()
            found = run.run_case(path, x64=False)
            error = float(found.error) if np.isfinite(found.error) else None
            case |= {"status": found.status, "error": error, "reason": found.reason[:300]}
            try:
                case["bfloat16"] = bfloat16_deviation(path)
            except Exception as error:  # said beside the result, which stands
                case["bfloat16_failed"] = f"{type(error).__name__}: {error}"[:200]
            case["seconds"] = round(time.monotonic() - began, 1)
            jax.clear_caches()
        print(json.dumps(case), flush=True)


def bfloat16_deviation(path: str) -> float | None:
    """|bfloat16 - reference| / |reference| of a forward case's logits; None for a train step."""
    from tests.parity import forward
    from tests.parity import golden as cases

    case = cases.load_case(path)
    if case["kind"] != "forward" or "logits" not in case["outputs"]:
        return None
    reference = forward.build(case)
    state, x = cases.build_state(case), jnp.asarray(cases.build_input(case))
    x = x[:, None] if x.ndim == 4 else x
    variables, _ = forward.load(reference, state, False, frames=x.shape[1])
    x = base.resize(x, reference.low)
    if reference.segments:
        x = x.reshape(-1, reference.segments, *x.shape[2:])
    model = reference.model
    if hasattr(model, "backbone"):  # the network inside a pyramid
        model = model.clone(backbone=model.backbone.clone(dtype=jnp.bfloat16))
    else:
        model = model.clone(dtype=jnp.bfloat16)
    logits = np.asarray(jax.jit(model.apply)(variables, x)[0], np.float64).reshape(-1)
    expected = np.asarray(case["outputs"]["logits"]["values"], np.float64).reshape(-1)
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    golden_worker(float(sys.argv[1]), sys.argv[2:])
