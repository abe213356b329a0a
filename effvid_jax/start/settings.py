"""Every field of a config, told: value, default, what it may hold and what it means (`--mode=config`).

Nothing is written down twice. Defaults and meanings are read where fields are defined, from the code and the
comments of `configs/recipes/base.py` and of the method's `Settings`; bounds are those that are checked.
"""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import textwrap
import tokenize
from typing import Any, NamedTuple

import data_pipelines
from data_pipelines import Field
from effvid_jax.methods import find_method
from effvid_jax.start import bounds
from effvid_jax.start.runs import PROJECT
from effvid_jax.tasks import find_task, group_of

BASE = os.path.join(PROJECT, "configs", "recipes", "base.py")


class Setting(NamedTuple):
    """One field.

    Attributes:
        path: 'data.num_frames'.
        value: that the config has.
        default: that it has where no recipe says another; None: it has none.
        expected: what it may hold, in words.
        meaning: '' if its name says it.
    """

    path: str
    value: Any
    default: Any
    expected: str
    meaning: str

    @property
    def changed(self) -> bool:
        """Whether this config differs from the default."""
        return self.default is not None and _plain(self.value) != _plain(self.default)

    def __str__(self):
        said = f"config.{self.path} = {_plain(self.value)!r}"
        if self.changed:
            said += f"    (default {_plain(self.default)!r})"
        more = "; ".join(filter(None, (self.expected, self.meaning)))
        return said + "".join(f"\n    {line}" for line in textwrap.wrap(more, 104))


def settings(config) -> list[Setting]:
    """All fields of a config, or of one of its stages, in its order.

    Args:
        config: a resolved config.
    """
    with open(BASE, encoding="utf-8") as f:
        defaults, meanings = read_fields(f.read())
    method = find_method(config.method.name).Settings
    for cls in reversed(method.__mro__[:-1]):  # a method may have the settings of others
        own, told = read_fields(inspect.getsource(cls))
        defaults |= {f"method.{name}": value for name, value in own.items()}
        meanings |= {f"method.{name}": words for name, words in told.items()}
    groups = {"data": data_pipelines.data_fields, "method": method.fields(),
              group_of(config): find_task(config).bounds}
    fields = bounds.FIELDS | {f"{group}.{name}": field for group, known in groups.items()
                              for name, field in known.items()}
    order = {path: i for i, path in enumerate(defaults)}
    leaves = sorted(_leaves(config.to_dict()), key=lambda leaf: order.get(leaf[0], len(order)))
    return [Setting(path, value, defaults.get(path), _expected(fields.get(path)), meanings.get(path, ""))
            for path, value in leaves]


def read_fields(code: str) -> tuple[dict[str, Any], dict[str, str]]:
    """({path: default}, {path: meaning}) of the fields that a piece of Python defines.

    Fields are `config.x = value`, `config.group = ConfigDict(dict(x=value, ...))` and `x: type = value` in a
    class. The comment of a line is about all fields in it, and goes on in lines of their own that begin with
    a small letter; another comment line is about the next field.

    Raises:
        SyntaxError: it is no Python.
    """
    code = textwrap.dedent(code)
    lines: dict[str, int] = {}
    defaults: dict[str, Any] = {}

    def found(path, node, value):
        lines[path] = node.lineno
        try:
            defaults[path] = ast.literal_eval(value)
        except ValueError:  # a group: what is in it has defaults of its own
            return

    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found(node.target.id, node, node.value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            group = node.targets[0].attr
            call = node.value
            while isinstance(call, ast.Call) and call.args:  # ConfigDict(dict(...))
                call = call.args[0]
            keywords = call.keywords if isinstance(call, ast.Call) else []
            for key in keywords:
                found(f"{group}.{key.arg}", key, key.value)
                for deeper in key.value.keywords if isinstance(key.value, ast.Call) else ():
                    found(f"{group}.{key.arg}.{deeper.arg}", deeper, deeper.value)
            if not keywords:
                found(group, node, node.value)
    about = _comments(code)
    return defaults, {path: about[line] for path, line in lines.items() if line in about}


def _comments(code: str) -> dict[int, str]:
    """{line of code: what the comments say of it}; lines count from 1."""
    found: dict[int, str] = {}
    ahead, last = "", 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        line, words = token.start[0], token.string.lstrip("# ").strip()
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            if not ahead and last and re.match("[^A-Z]", words):
                found[last] += f" {words}"
            else:
                ahead, last = f"{ahead} {words}".strip(), 0
        elif token.type == tokenize.COMMENT:
            found[line] = f"{ahead} {words}".strip()
            ahead, last = "", line
        elif token.type == tokenize.NAME:
            if ahead:
                found[line] = f"{found.get(line, '')} {ahead}".strip()
            ahead, last = "", last if last == line else 0
    return found


def _leaves(fields: dict, path: str = ""):
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _expected(field: Field | None) -> str:
    return "" if field is None or field == Field.text() else field.words()


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def show(config) -> dict[str, int]:
    """Prints all fields of a config; returns how many there are, and how many are not at their default."""
    told = settings(config)
    for setting in told:
        print(("* " if setting.changed else "  ") + str(setting).replace("\n", "\n  "))
    print("\n* differs from the default of configs/recipes/base.py, or of the method")
    return {"fields": len(told), "changed": sum(setting.changed for setting in told)}
