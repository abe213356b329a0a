"""What the documents tell a reader to type, and where their links lead.

Every block has a language. Of those in `sh` each command is parsed as it would be at its start: the config
file and its arguments, fields and their values, flags, files of this project, and that the workdirs it reads
are made by a command before it. `NOT_RUN` says why some are not run; all others are, in the slow tests, in
the order of their page, trainings with fewer steps (`SHORTER`). Blocks of Python have tests of their own,
which `PYTHON` names.
"""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import data_pipelines
from data_pipelines import synthetic
from effvid_jax import lookup
from effvid_jax.methods import SHARED, find_method
from effvid_jax.start import bounds
from effvid_jax.tasks import find_task
from tests.command_lines import Reader
from tests.pages import BLOCKS, COMMANDS, ROOT, TEXTS, anchors, broken_links, inline

LANGUAGES = ("sh", "python", "csv", "text")
PYTHON = {  # who runs a page's blocks of Python
    "README.md": "test_documents.py", "docs/python.md": "test_model.py",
    "docs/adding_a_method.md": "../test_toys.py",
    "docs/adding_a_backbone.md": "../backbones/test_adding_a_backbone.py",
}
# Commands that are only parsed: a pattern of the command, and why. The first that fits counts.
NOT_RUN = {
    r"^(python -m )?pip install": "installs: .ci/run does it in a fresh environment",
    r"^python -m pytest|^ruff|^bash \.ci/run|^python -m tests\.parity": "are the tests",
    r"^gcloud": "needs an account of a cloud",
    r"^(nvidia-smi|srun|mpirun|cd)|--multihost|^python -c|runs/(gpu|tpu)\b":
        "needs an accelerator, or machines",
    r"^python -m effvid_jax.ahead": "needs libtpu, and minutes: test_ahead.py",
    r"^python benchmarks/": "hours; what it measures is in docs/results.csv",
    r"--checkpoint (?!pretrained)|runs/(imported|imagenet_r\d+|published)": "a file of somebody else's",
    r"configs/\w+_(actnet|fcvid|minik|sthv1|sthv2|k400|ucf101|hmdb51|mit|jhmdb|ade20k)\.py(?!\S*\b(demo|tiny)\b)":
        "a data set that must not be shipped",
    r"runs/ade20k|/ucf101": "a data set",
    r"data_pipelines\.(extract_frames|to_array_record|check_masks)": "a data set",
    r"data_pipelines\.(prepare(?!.*--help)|make_list --convert|check_videos --list)": "a data set",
}
DEMO = COMMANDS["README.md"][1]  # runs/demo, which every page may speak of
SHORTER = ["--config.train.num_steps=2", "--config.train.min_reference_ratio=0"]  # of every training


ALL = [(page, c) for page, found in COMMANDS.items() for c in found]


def why_not_run(line: str) -> str:
    """Why a command is only parsed; '' if it is run."""
    line = line.replace("'", "")
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, line)), "")


def test_blocks_have_a_language():
    wrong = [f"{block.page}:{block.line}: {block.language!r}" for block in BLOCKS
             if block.language not in LANGUAGES]
    assert not wrong, f"expected one of {LANGUAGES}: {wrong}"
    assert {block.page for block in BLOCKS if block.language == "python"} == set(PYTHON)
    for page, test in PYTHON.items():
        assert pathlib.Path(page).name in (pathlib.Path(__file__).parent / test).read_text(encoding="utf-8")


def test_every_reason_is_needed():
    lines = [line.replace("'", "") for _, line in ALL]
    unused = [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in lines)]
    assert not unused, f"no command fits {unused} any more"


@pytest.mark.filterwarnings("ignore:.*load_module", "ignore:.*found in sys.modules after import")
@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if COMMANDS[page] or inline(text)])
def test_commands_are_understood(page, monkeypatch, capsys):
    """Those of its blocks, and those in its text, which may name a command alone."""
    reader, wrong = Reader(monkeypatch), []
    reader.read(DEMO)
    for line in [*COMMANDS[page], *inline(TEXTS[page])]:
        try:
            if (name := re.fullmatch(r"python -m ([\w.]+)", line)) and line not in COMMANDS[page]:
                assert importlib.util.find_spec(name[1]), "no such module"
            else:
                reader.read(line)
        except (Exception, SystemExit) as error:
            wrong.append(f"{line}\n    {type(error).__name__}: {error} {capsys.readouterr().err[-300:]}")
    assert not wrong, "\n".join(wrong)


# ------------------------------------------------------------------------------------------ running
def test_the_readme_from_python(tiny_run, some_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("runs")
    os.symlink(tiny_run, "runs/demo")
    shutil.copy(some_video, "clip.mp4")
    code, = (block.text for block in BLOCKS if block[0] == "README.md" and block.language == "python")
    exec(compile(code, "README.md", "exec"), {})


def to_run(page: str) -> list[str]:
    """The commands of a page's blocks that are run."""
    return [line for line in COMMANDS[page] if not why_not_run(line)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder as a reader has it: this project, six classes of videos, a video, a photograph."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("main.py", "configs", "effvid_jax", "data_pipelines", "benchmarks", "requirements.txt"):
        os.symlink(ROOT / name, folder / name)
    built = synthetic.build(folder / "written", synthetic.check_params(
        dict(num_textures=3, num_motions=2, train_clips=16, val_clips=1)))
    shutil.copytree(pathlib.Path(built.root) / "train", folder / "my_videos")
    video = next(pathlib.Path(built.root).glob("val/*/*.mp4"))
    shutil.copy(video, folder / "clip.mp4")
    return folder


def is_training(line: str) -> bool:
    return " main.py " in line and "--mode" not in line


def together() -> list[list[str]]:
    """Pages whose commands are run one after the other: those that train the same need that once."""
    groups = []
    for page in filter(to_run, TEXTS):
        trained = set(filter(is_training, to_run(page))) - {DEMO}
        same = next((pages for pages in groups if any(trained & {*to_run(other)} for other in pages)), None)
        groups.append([page]) if same is None else same.append(page)
    return groups


@pytest.mark.slow
@pytest.mark.parametrize("pages", together(), ids=" ".join)
def test_commands_run(pages, clone):
    """In the order of the page, `:tiny` in place of `:demo`, and trainings of two steps."""
    shutil.rmtree(clone / "runs", ignore_errors=True)
    trained = set()
    for line in (line for page in pages for line in to_run(page)):
        for needed in [DEMO, line] if "runs/demo" in line and DEMO not in trained else [line]:
            if needed in trained:
                continue
            words = [re.sub(r"(?<=[:,])demo\b", "tiny", word) for word in shlex.split(needed)]
            words[0] = sys.executable if words[0] == "python" else words[0]
            if is_training(needed):
                trained.add(needed)
                words += SHORTER + ["--config.data.batch_size=4"] * ("_folder.py" in needed)
            done = subprocess.run(words, cwd=clone, check=False, capture_output=True, text=True)
            print("$", needed, done.stdout[-200:], sep="\n")
            assert not done.returncode, f"{needed}\n{done.stderr[-2000:]}"


# -------------------------------------------------------------------------------------------- links
def test_links_lead_somewhere():
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = "\n".join("".join(cell["source"]) for cell in notebook["cells"]
                      if cell["cell_type"] == "markdown")
    wrong = {page: found for page, text in {**TEXTS, "docs/quickstart.ipynb": cells}.items()
             if (found := broken_links(page, text))}
    assert not wrong


def test_broken_links_are_found():
    text = ("# A title: `x`, and\n[a](#a-title-x-and) [b](#nothing) [c](nothing.md) "
            "[d](../README.md#what-you-get)")
    assert broken_links("docs/python.md", text.replace("#a-title-x-and", "cost.md#nothing")) == [
        "cost.md#nothing", "#nothing", "nothing.md"]
    assert anchors(text) == {"a-title-x-and"} and "what-you-get" in anchors(TEXTS["README.md"])


def test_pages_that_the_code_names_exist():
    wrong = set()
    for folder in ("effvid_jax", "data_pipelines", "configs", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            names = re.findall(r"docs/[\w/]+\.(?:md|ipynb|csv|toml)", path.read_text(encoding="utf-8"))
            wrong |= {(str(path.relative_to(ROOT)), name) for name in names if not (ROOT / name).exists()}
    assert not wrong

# -------------------------------------------------------------------------------- troubleshooting
def printed() -> str:
    """The code with its texts in one piece, however many lines they are written on."""
    paths = [path for folder in ("effvid_jax", "data_pipelines") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return re.sub(r"\"\s*\n\s*\+? ?f?\"", "", code)


def test_troubleshooting_has_what_is_printed():
    """`…` stands for what is put in: all between is in the code."""
    page, code = "docs/troubleshooting.md", printed()
    messages = [" ".join(block.text.split()) for block in BLOCKS
                if block[0] == page and block.language == "text"]
    for message in messages:
        parts = [part.strip(" .") for part in message.split("…")]
        assert sum(map(len, parts)) > 25, f"{message!r} says too little to be found"
        assert not [part for part in parts if part not in code], message
    assert len(messages) >= 20 and "has no filed" not in code


def test_fields_that_pages_name_exist():
    """`config.a.b`, wherever: those of the data, of some method or task, and all others."""
    known = {*bounds.FIELDS, *(f"data.{name}" for name in data_pipelines.data_fields)}
    for name in lookup.known_names("effvid_jax.methods", SHARED):
        known |= {f"method.{field}" for field in find_method(name).Settings.fields()}
    for name in lookup.known_names("effvid_jax.tasks", ("task",)):
        known |= {f"{name}.{field}" for field in find_task({"task": name}).bounds}
    wrong = {(page, name) for page, text in TEXTS.items()
             for name in re.findall(r"config\.((?:[a-z_]+\.)+[a-z_0-9]+)\b(?![*(<.])", text)
             if re.sub(r"^stages\.[a-z_]+\.", "", name) not in known
             and not re.search(r"(^|\.)(model\.options|evaluations|data\.synthetic)\.", name)}
    assert not wrong
