"""Every shipped config as text, in its three forms: `python -m tests.config_texts` writes them again.

A change of a recipe shows here, line by line; `tests/test_config_texts.py` compares. Look at the difference
before committing it: each line is a number that somebody's run depends on.
"""

from __future__ import annotations

import difflib
import glob
import importlib
import json
import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
CONFIGS = os.path.join(os.path.dirname(os.path.dirname(FOLDER)), "configs")
FORMS = ("", "tiny", "demo")


def names() -> list[str]:
    """The benchmarks: files in `configs/` that can be given to `--config`."""
    found = (os.path.basename(path)[:-3] for path in glob.glob(os.path.join(CONFIGS, "*.py")))
    return sorted(name for name in found if "_" in name and not name.startswith("_"))


def load(name: str, arg: str = ""):
    """The config of a benchmark in one form."""
    return importlib.import_module(f"configs.{name}").get_config(arg)


def text(config) -> str:
    """One line a field: 'data.batch_size = 64', sorted."""
    lines = []

    def walk(prefix, value):
        if isinstance(value, dict) and value:
            for key in sorted(value):
                walk(f"{prefix}.{key}" if prefix else key, value[key])
        else:
            lines.append(f"{prefix} = {json.dumps(value)}")

    walk("", json.loads(config.to_json_best_effort()))
    return "\n".join(lines) + "\n"


def path(name: str, form: str) -> str:
    """Where the text of a form lies."""
    return os.path.join(FOLDER, f"{name}.{form}.txt" if form else f"{name}.txt")


def main() -> None:
    """Writes all texts, removes those of configs that are gone, and prints what changed."""
    wanted = {path(name, form): text(load(name, form)) for name in names() for form in FORMS}
    for gone in set(glob.glob(os.path.join(FOLDER, "*.txt"))) - set(wanted):
        os.remove(gone)
        print(f"removed {os.path.basename(gone)}")
    for file, new in wanted.items():
        old = ""
        if os.path.exists(file):
            with open(file, encoding="utf-8") as f:
                old = f.read()
        if old != new:
            base = os.path.basename(file)
            sys.stdout.writelines(difflib.unified_diff(
                old.splitlines(True), new.splitlines(True), f"{base} (old)", f"{base} (new)", n=0))
            with open(file, "w", encoding="utf-8") as f:
                f.write(new)


if __name__ == "__main__":
    main()
