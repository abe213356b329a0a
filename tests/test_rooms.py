"""The architecture: which room may import which. Imports inside functions count, and nothing is executed.

A room is a folder of a top-level package (`effvid_jax/exits`) or a file on its ground floor
(`effvid_jax/train.py`); the `__init__.py` of a package is the ground-floor file of that name.
"""

import ast
import collections
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_pipelines", "effvid_jax", "configs", "benchmarks")
FILES = sorted([ROOT / "main.py", *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))])


def module_of(path: Path) -> str:
    """Dotted name of a file of the project: 'effvid_jax.exits' is `effvid_jax/exits/__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """'effvid_jax.exits.routes' -> 'effvid_jax.exits', 'effvid_jax.train' -> 'effvid_jax.train'."""
    return ".".join(module.split(".")[:2])


def imports_of(text: str, module: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, wherever in the file.

    `from package import name` is the module `package.name` if there is one, otherwise `package`.
    """
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: imports have full names here"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                found.append((node.lineno, longer if longer in MODULES else node.module))
    return found


ERRORS = "effvid_jax.errors"  # exception types, which stand on nothing
Arrow = collections.namedtuple("Arrow", "module line target")


def all_arrows() -> list[Arrow]:
    return [Arrow(module, line, target) for module, path in MODULES.items()
            for line, target in imports_of(path.read_text(encoding="utf-8"), module)]


def told(arrows) -> str:
    """Arrows for a message, one a line."""
    return "".join(dict.fromkeys(
        f"\n  {MODULES[a.module].relative_to(ROOT)}:{a.line} -> {a.target}" for a in arrows))


def below(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def circles(edges: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The shortest circle through every room that is in one, shortest first, each once."""
    found = set()
    for start in edges:
        ways = collections.deque([(start,)])
        seen = set()
        while ways:
            way = ways.popleft()
            if start in edges.get(way[-1], ()):
                first = way.index(min(way))
                found.add(way[first:] + way[:first])
                break
            new = sorted(set(edges.get(way[-1], ())) - seen)
            seen.update(new)
            ways.extend((*way, room) for room in new)
    return sorted(found, key=lambda circle: (len(circle), circle))


# --------------------------------------------------------------------------------------------- rules
def test_one_door_to_the_data():
    """Outside `data_pipelines` nothing imports a module of it: what is needed is a name of the package."""
    wrong = [a for a in all_arrows()
             if not below(a.module, "data_pipelines") and a.target.startswith("data_pipelines.")]
    assert not wrong, f"these look behind the door, `import data_pipelines` has the names:{told(wrong)}"


@pytest.mark.parametrize("room, upwards", [
    ("data_pipelines", ("effvid_jax", "configs", "benchmarks", "main", "jax", "flax", "optax")),
    ("effvid_jax", ("configs", "benchmarks", "main")),
    ("configs", ("benchmarks", "main")),
])
def test_nothing_upwards(room, upwards):
    wrong = [a for a in all_arrows() if below(a.module, room) and below(a.target, *upwards)]
    assert not wrong, f"{room} knows nothing of {', '.join(upwards)}:{told(wrong)}"


def test_backbones_stand_alone():
    wrong = [a for a in all_arrows() if below(a.module, "effvid_jax.backbones")
             and below(a.target, *PACKAGES) and not below(a.target, "effvid_jax.backbones", ERRORS)]
    assert not wrong, f"backbones import nothing of this project but each other:{told(wrong)}"
    assert not [a for a in all_arrows() if a.module == ERRORS and below(a.target, *PACKAGES)]


def test_nothing_needs_an_analysis():
    """Analyses look at trained networks, as reports do: what trains, evaluates or predicts knows none."""
    wrong = [a for a in all_arrows() if below(a.target, "effvid_jax.analysis")
             and not below(a.module, "effvid_jax.analysis")]
    assert not wrong, f"analyses are commands:{told(wrong)}"


def test_no_circle_between_rooms():
    edges, arrows = collections.defaultdict(set), collections.defaultdict(list)
    for arrow in all_arrows():
        a, b = room_of(arrow.module), room_of(arrow.target)
        if a != b and arrow.target in MODULES:
            edges[a].add(b)
            arrows[a, b].append(arrow)
    assert len(edges) > 20, "the project was not found"
    found = circles(edges)
    text = "".join(f"\n{' -> '.join((*circle, circle[0]))}" + "".join(
        told(arrows[a, b]) for a, b in zip(circle, (*circle[1:], circle[0]), strict=True))
        for circle in found[:10])
    assert not found, f"{len(found)} circles of rooms, the shortest first:{text}"


# ---------------------------------------------------------------------------------- the finder itself
def test_imports_are_found_wherever_they_are():
    text = ("import os, effvid_jax.train\n"
            "from effvid_jax import evaluate, nothing\n"
            "def f():\n    from data_pipelines.video.decode import open_video\n"
            "if TYPE_CHECKING:\n    import data_pipelines.split as s\n")
    assert sorted(imports_of(text, "x")) == sorted([
        (1, "os"), (1, "effvid_jax.train"), (2, "effvid_jax.evaluate"), (2, "effvid_jax"),
        (6, "data_pipelines.split"), (4, "data_pipelines.video.decode")])
    assert room_of("data_pipelines.video.decode") == "data_pipelines.video"


def test_circles_are_found():
    edges = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d", "f"}, "f": {"g"}}
    assert circles(edges) == [("d", "e"), ("a", "b", "c")]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []
