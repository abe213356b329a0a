"""The golden cases of `cases/`, and that the runner would notice if they did not pass."""

import json
import re
import subprocess
import sys

import jax
import pytest
from jax._src import compiler

from tests.environment import EVERY_OPTIMISATION, as_a_user
from tests.parity import golden, run

# Of each kind of case and family a small one, always; what takes longer is marked slow.
ALWAYS = re.compile(
    r"mm_ts\w_(?!r152)|mm_rkd|tv_resnet(18|50)|step_reskd_r18|pipe_|mm_slowonly|mm_x3d|el_(tsm|lite0_(2|pub))|"
    r"peer_(op_|liteeval)|trn_\w+_3x224|timm_mobilenetv3_small|hf_videomae_s|uniformer_s_16")
FILES = {path.stem: path for path in sorted(run.CASES.glob("*.json"))}
ALWAYS_SINGLE = re.compile(r"mm_tsn_r18|mm_tsm_mobile|mm_rkd|tv_resnet18")


def cases(always):
    """All cases; those whose name does not begin as `always` says carry the marker."""
    return [name if always.match(name) else pytest.param(name, marks=pytest.mark.slow) for name in FILES]


@pytest.fixture(scope="module", autouse=True)
def programs_as_a_users():
    """Compiled with every optimisation, unlike in other tests (conftest.py), and of no use to them.

    Gives the list of the options with which programs have been compiled.
    """
    before, given, asked = jax.config.read("jax_disable_most_optimizations"), compiler.get_compile_options, []

    def options(*args, **kwargs):
        found = given(*args, **kwargs)
        found.env_option_overrides = [*found.env_option_overrides, *EVERY_OPTIMISATION.items()]
        asked.append(found)
        return found

    jax.config.update("jax_disable_most_optimizations", False)
    compiler.get_compile_options = options
    yield asked
    compiler.get_compile_options = given
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


def test_programs_are_compiled_as_a_users(programs_as_a_users):
    jax.jit(lambda x: x + 1.5)(1.0)
    options = programs_as_a_users[-1].env_option_overrides
    assert all(option in options for option in EVERY_OPTIMISATION.items())


@pytest.mark.parametrize("name", cases(ALWAYS))
def test_float64(name):
    result = run.run_case(FILES[name])
    print(result)
    assert result.status == "PASS", result


@pytest.mark.parametrize("name", cases(ALWAYS_SINGLE))
def test_float32(name):
    result = run.run_case(FILES[name], x64=False)
    print(result)
    assert result.status == "PASS", result


def altered(tmp_path, name, change):
    """A copy of a case with `change` applied to its content."""
    case = golden.load_case(FILES[name])
    change(case)
    path = tmp_path / "altered.json"
    path.write_text(json.dumps(case))
    return path


def test_a_wrong_output_fails(tmp_path):
    def change(case):
        case["outputs"]["logits"]["values"][3] += 1e-5
        case["features"]["layer3"]["sample"][5] += 1e-4
        case["params"]["trainable"] += 1

    result = run.run_case(altered(tmp_path, "tv_resnet18_224", change))
    assert result.status == "FAIL" and 1e-6 < result.error < 1e-3
    assert result.reason.startswith("feature layer3")  # in the order of the network
    assert "logits" in result.reason and "11,689,513" in result.reason


@pytest.mark.parametrize("part,message", [("fill", "weights"), ("input", "input")])
def test_other_weights_or_input_fail_before_the_network_runs(tmp_path, part, message):
    result = run.run_case(altered(tmp_path, "mm_tsn_r18_8x112",
                                  lambda case: case[part].update(crc32=1)))
    assert result.status == "FAIL" and f"rebuilt {message}" in result.reason


@pytest.mark.parametrize("change", [
    lambda case: case["arch"].update(type="Recognizer9D"),
    lambda case: case["arch"]["backbone"].update(style="caffe"),
    lambda case: case["arch"]["backbone"].update(type="ResNeXt"),
    lambda case: case.update(kind="detection"),
])
def test_unknown_architectures_are_skipped(tmp_path, change):
    result = run.run_case(altered(tmp_path, "mm_tsn_r18_8x112", change))
    assert result.status == "SKIP" and "not built here" in result.reason


@pytest.mark.parametrize("kind, of", [("peer_forward", {"source": {"repo": "github.com/a/b"}}),
                                      ("peer_op", {"source": {"repo": "github.com/a/b"}, "op": "guess"})])
def test_unknown_systems_are_skipped(tmp_path, kind, of):
    path = tmp_path / "peer.json"
    path.write_text(json.dumps({"case": "peer", "kind": kind, **of}))
    result = run.run_case(path)
    assert result.status == "SKIP" and of.get("op", "a/b") in result.reason


def test_exit_codes_and_lines(tmp_path, capsys):
    unknown = altered(tmp_path, "mm_tsn_r18_8x112", lambda case: case.update(kind="detection"))
    pipe = next(path for name, path in FILES.items() if name.startswith("pipe_metrics"))
    assert run.main([str(pipe)]) == 0
    assert run.main([str(pipe), str(unknown)]) == 1  # a case that was asked for and skipped
    assert run.main([str(tmp_path / "none.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["PASS", "PASS", "SKIP", "FAIL"]
    assert lines[0].startswith("PASS pipe_metrics e=")


def test_command():
    done = subprocess.run(
        [sys.executable, "-m", "tests.parity.run", str(FILES["tv_resnet18_224"]), "--no-x64", "--time"],
        env=as_a_user(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("PASS tv_resnet18_224 e="), done.stderr
