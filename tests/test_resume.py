"""Killed runs continue bit for bit; several processes and devices give the same run."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import faults
from effvid_jax import stored
from tests import forked
from tests.environment import environment

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = 16


def arguments(root):
    """Of a user's command; log, checkpoints and evaluations often enough to be killed anywhere."""
    return ["--config=configs/supervised_minik.py:tiny", f"--config.data.root={root}",
            f"--config.train.num_steps={STEPS}", f"--config.train.checkpoint_every_steps={faults.EVERY}",
            "--config.train.log_every_steps=1", "--config.train.eval_every_epochs=1",
            "--config.model.dropout=0.5", "--config.model.bn_groups=2", "--config.model.options.width=8",
            "--config.model.options.stage_sizes=(1,)", "--config.model.options.stage_strides=(2,)"]


def start(workdir, root, *args, devices=2, **env):
    """The command of a user."""
    command = [sys.executable, f"{ROOT}/main.py", *arguments(root), f"--workdir={workdir}", *args]
    return subprocess.Popen(command, cwd=ROOT, env=environment(devices, **env), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def start_two(workdir, root, start=start):
    """Two processes of one device each."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    return [start(workdir, root, "--multihost", devices=1, JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
                  JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i)) for i in range(2)]


def both(processes, seconds):
    """(exit codes, outputs, errors) of processes, all of which end within some seconds."""
    try:
        outputs = [p.communicate(timeout=seconds) for p in processes]
    finally:
        for p in processes:
            p.kill()
    return [p.returncode for p in processes], *zip(*outputs, strict=True)


def wait_for_step(step, workdir, process):
    while faults.steps_logged(workdir) < step and process.poll() is None:
        time.sleep(0.02)


def fork(workdir, root, *args, **options):
    """The same, sooner; for what is not disturbed."""
    return forked.Command(*arguments(root), f"--workdir={workdir}", *args, **options)


def finish(command):
    code, out, err = command.wait()
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def arrays(workdir):
    return stored.read(os.path.join(workdir, "checkpoints"), STEPS)[0]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, benchmark_root):
    workdir = str(tmp_path_factory.mktemp("whole"))
    return workdir, finish(fork(workdir, benchmark_root))


def assert_equal(a, b, exactly=True):
    a, b = stored.flatten(a), stored.flatten(b)
    assert a.keys() == b.keys()
    worst = max(float(np.abs(a[k].astype(np.float64) - b[k]).max(initial=0)) for k in a)
    print(f"largest difference over {len(a)} arrays: {worst}")
    for name in a:
        if exactly:
            assert a[name].tobytes() == b[name].tobytes(), name
        else:
            np.testing.assert_allclose(a[name], b[name], atol=2e-4, err_msg=name)


ORPHAN = '''Traceback (most recent call last):
  File "<string>", line 1, in <module>
  File "/lib/python3.11/multiprocessing/spawn.py", line 122, in spawn_main
    exitcode = _main(fd, parent_sentinel)
               ^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/lib/python3.11/multiprocessing/spawn.py", line 130, in _main
    preparation_data = reduction.pickle.load(from_parent)
                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
EOFError: Ran out of input
'''


def test_what_a_worker_says_whose_parent_was_killed_at_its_start_is_not_ours():
    killed, other = -signal.SIGKILL, ORPHAN.replace("reduction.pickle.load(from_parent)", "read(file)")
    assert faults._of_ours(f"steps\n{ORPHAN}more", killed) == "steps\nmore"
    assert faults._of_ours(ORPHAN, 1) == ORPHAN, "in a command that ended by itself it counts"
    assert faults._of_ours(other, killed) == other
    assert faults._of_ours(other + ORPHAN, killed) == other, "and so does what stands beside it"


def test_a_short_fault_campaign(whole_run, tmp_path, benchmark_root):
    """Faults in a run with worker processes; the undisturbed one has none. The long form is a benchmark."""
    r = random.Random(time.time())
    plan = faults.Plan("plain", 1, 1, (
        faults.Fault("steps", nth=r.randint(1, 5), delay=r.uniform(0, 0.1)),
        faults.Fault("save", nth=r.randint(1, 3), delay=r.uniform(0, 0.05)),
        faults.Fault("end", (faults.INT, faults.TERM), delay=r.uniform(0, 0.5), gap=0.0)))
    args = [*arguments(benchmark_root), "--config.data.num_workers=1"]
    workdir = str(tmp_path / "run")
    row = faults.disturb(plan, workdir, str(tmp_path / "logs"), args, mark=str(tmp_path))
    print(row)
    different, left = faults.differences(workdir, whole_run[0], changed=("data.num_workers",))
    assert not any(row[name] for name in ("lost", "hung", "alive", "tracebacks")), row
    assert not different and not left, row["faults"]
    assert len(row["faults"]) >= 2


def test_interrupt_saves_and_says_how_to_continue(whole_run, tmp_path, benchmark_root):
    process = start(tmp_path, benchmark_root, "--config.data.num_workers=1")
    wait_for_step(4, tmp_path, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "same command" in err and "SIGTERM" in err
    assert "leaked" not in err and "Traceback" not in err
    finish(fork(tmp_path, benchmark_root))
    assert_equal(arrays(whole_run[0]), arrays(tmp_path))


def test_two_processes_equal_one(whole_run, tmp_path, benchmark_root):
    """Two processes of one device against one process of two; sums are taken in another order.

    A SIGTERM to one of them stops both after the same step, and they go on there.
    """
    processes = start_two(tmp_path, benchmark_root)
    wait_for_step(3, tmp_path, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    codes, _, errors = both(processes, 60)
    assert codes == [130, 130], errors
    assert "SIGTERM in another process of this run" in errors[0] and "SIGTERM: saving" in errors[1]
    stopped = {error.split("interrupted: ")[-1] for error in errors}
    assert len(stopped) == 1 and "the state is saved" in (said := stopped.pop()), stopped
    newest = max(map(int, os.listdir(tmp_path / "checkpoints")))
    assert f"after step {newest} of {STEPS}" in said and newest < STEPS
    commands = start_two(tmp_path, benchmark_root, start=fork)
    codes, outputs, errors = zip(*(command.wait() for command in commands), strict=True)
    assert codes == (0, 0), errors
    assert f"at step {newest} of" in errors[0]
    assert "val/top1" in outputs[0], "the first process prints the result"
    assert "val/top1" not in outputs[1], "and no other one does"
    assert_equal(arrays(whole_run[0]), arrays(tmp_path), exactly=False)


def test_two_processes_share_the_making_of_what_a_teacher_says(whole_run, tmp_path, benchmark_root):
    """Each computes its files, and both wait for all of them; the files are those of one process."""
    small = [arg for arg in arguments(benchmark_root)[1:] if "options" in arg or "root" in arg]

    def taught(workdir, root, *args, **options):
        return forked.Command(
            "--config=configs/reskd_minik.py:tiny", *small, "--config.run=", "--config.train.num_steps=2",
            f"--config.method.teacher={whole_run[0]}", "--config.method.teacher_bn=running",
            "--config.data.fixed_views=2", f"--config.method.teacher_store={workdir}/store",
            f"--workdir={workdir}", *args, **options)

    one, two = tmp_path / "one", tmp_path / "two"
    finish(taught(one, benchmark_root))
    codes, _, errors = zip(*(command.wait() for command in start_two(two, benchmark_root, start=taught)),
                           strict=True)
    assert codes == (0, 0), errors
    files = sorted(path.relative_to(one) for path in one.glob("store/**/*.f16"))
    assert len(files) == 2 and files == sorted(path.relative_to(two) for path in two.glob("store/**/*.f16"))
    for file in files:
        ours, theirs = (np.fromfile(folder / file, np.float16) for folder in (two, one))
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)


def test_a_process_that_dies_takes_the_other_along(tmp_path, benchmark_root):
    """With one line, and long before jax misses it (100 s)."""
    processes = start_two(tmp_path, benchmark_root)
    wait_for_step(1, tmp_path, processes[0])
    processes[1].kill()
    codes, _, errors = both(processes, 60)
    assert codes == [1, -signal.SIGKILL], errors[0]
    assert "\nerror: another process of this run has ended" in errors[0] and "Traceback" not in errors[0]


def test_evaluation_on_any_device_count(whole_run, tmp_path, benchmark_root):
    results = []
    for devices in (1, 4):
        command = forked.Command("--mode=eval", f"--workdir={whole_run[0]}", devices=devices)
        results.append(finish(command))
    print(results)
    assert results[0]["val/top1"] == results[1]["val/top1"] == whole_run[1]["val/top1"]
    assert results[0]["val/examples"] == 16


RECOVERY = """
import os, shutil, sys
import jax, numpy as np
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
from effvid_jax import checkpoint, sharding

mesh, workdir, config = sharding.make_mesh(), sys.argv[3], {"model": {}}

def state(n):
    return sharding.replicate({"params": {"a": np.full(3, n, np.float32)}, "step": np.int32(n)}, mesh)

def resumed():
    checkpoint.of_the_first(0)  # nobody reads while another one still changes files
    checkpoints = checkpoint.Checkpointer(workdir)
    return checkpoints, int(checkpoints.resume(state(0))["step"])

checkpoints = checkpoint.Checkpointer(workdir)
assert checkpoints.resume(state(0)) is None
for n in (3, 7):
    checkpoints.save(n, state(n), config, ["a"])
checkpoints.replace(7, state(8), config, ["a"])
checkpoints.close()
checkpoints, found = resumed()
assert found == 8, found
checkpoints.close()
if sys.argv[2] == "0":
    shutil.rmtree(os.path.join(workdir, "checkpoints/7/state"))
    os.mkdir(os.path.join(workdir, "checkpoints/999"))
checkpoints, found = resumed()
assert found == 3, found
checkpoints.save(5, state(5), config, ["a"])
checkpoints.close()
checkpoints, found = resumed()
assert found == 5, found
checkpoints.close()
"""


def test_two_processes_agree_where_to_go_on(tmp_path):
    """Resume, fallback and replacement are decided by the first process; none of them waits for another."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    env = environment(1, PYTHONPATH=ROOT)
    processes = [subprocess.Popen([sys.executable, "-c", RECOVERY, str(port), str(i), str(tmp_path)], env=env,
                                  stderr=subprocess.PIPE, text=True) for i in range(2)]
    try:
        errors = [p.communicate(timeout=120)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(errors)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["3", "5", "7.damaged", "999.foreign"]
