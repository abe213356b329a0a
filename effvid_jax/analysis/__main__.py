"""`python -m effvid_jax.analysis NAME ...` runs `effvid_jax.analysis.NAME`; without a name it lists them."""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))


def commands() -> dict[str, str]:
    """{name: first sentence of its docstring} of the files here that are commands; nothing is imported."""
    found = {}
    for file in sorted(os.listdir(FOLDER)):
        name, ending = os.path.splitext(file)
        if ending != ".py" or name.startswith("_"):
            continue
        with open(os.path.join(FOLDER, file), encoding="utf-8") as f:
            tree = ast.parse(f.read())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[name] = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    return found


def main(argv: list[str]) -> int:
    """Runs a command by its name; its exit code."""
    known = commands()
    name = argv[0].replace("-", "_") if argv else ""
    if name in known:
        return importlib.import_module(f"effvid_jax.analysis.{name}").main(argv[1:])
    listed = "".join(f"\n  {command:22s} {what}" for command, what in known.items())
    if name in ("", "__help", "_h"):
        print(f"usage: python -m effvid_jax.analysis NAME --workdir=RUN ... (NAME --help tells more){listed}")
        return 0 if name else 2
    close = difflib.get_close_matches(name, known)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    print(f"error: no analysis {argv[0]!r}.{hint} Known:{listed}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
