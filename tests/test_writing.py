"""Every file that is left behind is written whole or not at all: nothing opens one for writing by itself.

Allowed is what `writers.whole` and `data_pipelines.tools.atomic_write` give, by the name `part`, and what is
listed here with its reason. Nothing is executed.
"""

import ast

import pytest

from tests.test_rooms import MODULES, ROOT

WRITES = {"savefig", "savez", "savez_compressed", "imwrite", "write_text", "write_bytes", "to_csv", "tofile",
          "copy", "copyfile", "copy2", "move", "dump"}
MAY = {
    ("effvid_jax.writers", "open"): "the metrics' history grows by a line at a time; a cut one is set aside",
    ("effvid_jax.tasks.classification", "open"): "`evaluate` gives it the path of a part",
    ("effvid_jax.tasks.localisation", "open"): "`evaluate` gives it the path of a part",
    ("effvid_jax.tasks.segmentation", "open"): "`evaluate` gives it the path of a part",
    ("effvid_jax.predict.rows", "open"): "grows by a row at a time, to be read meanwhile",
    ("effvid_jax.plots", "savefig"): "into memory",
    ("effvid_jax.sharding", "savez"): "into memory",
    ("data_pipelines.synthetic.folders", "open"): "a lock",
    ("data_pipelines.helping", "dump"): "into pipes between processes",
    ("data_pipelines.synthetic.benchmark", "write_bytes"): "broken files, made for tests",
    ("data_pipelines.synthetic.benchmark", "write_text"): "broken files, made for tests",
    ("data_pipelines.check_videos", "open"): "a journal grows by a line at a time; a cut one is left out",
    ("data_pipelines.extract_frames", "write_bytes"): "into a folder that takes its place when it is whole",
    ("effvid_jax.export", "open"): "parts that take their places together",
    ("effvid_jax.speed.compilation_cache", "open"): "an empty file, for its date",
    ("benchmarks.conv_forms", "open"): "grows by a line at a time",
    ("benchmarks.gpu_suite", "open"): "grows by a line at a time",
    ("benchmarks.agreement", "open"): "logs of processes",
    ("benchmarks.archive", "open"): "logs of processes that are killed",
    ("benchmarks.archive", "write_bytes"): "damaged files, made to be read",
    ("benchmarks.long_list", "open"): "empty files, made to be found",
    ("benchmarks.faults", "open"): "grows by a line at a time; logs of what is killed",
    ("benchmarks.hostile", "open"): "grows by a line at a time; damaged files, made to be read",
    ("benchmarks.pretrained", "copy"): "into a folder that takes its place when it is whole",
    ("benchmarks.hostile", "copy"): "damaged files, made to be read",
    ("benchmarks.hostile_videos", "open"): "damaged files, made to be read",
    ("benchmarks.hostile_weights", "open"): "damaged files, made to be read",
    ("benchmarks.hostile_weights", "savez"): "damaged files, made to be read",
    ("benchmarks.hostile_weights", "savez_compressed"): "damaged files, made to be read",
}


def written(text: str) -> list[tuple[int, str]]:
    """(line, function) of every call in a file that writes one, but to a `part`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name == "open" and owner in ("", "io", "gzip", "path"):
            modes = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
            if not any(isinstance(m, ast.Constant) and set("wax+") & set(str(m.value)) for m in modes):
                continue
        elif name not in WRITES or owner in ("", "writers") or (name == "copy" and owner != "shutil"):
            continue
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if "part" not in names and not _to_handle(node, name):
            found.append((node.lineno, name))
    return found


def _to_handle(node: ast.Call, name: str) -> bool:
    """`np.savez(f, ...)`, `json.dump(x, f)`: into what an `open` gave, which is looked at itself."""
    first = node.args[1 if name == "dump" else 0] if node.args else None
    return name in ("savez", "savez_compressed", "dump") and isinstance(first, ast.Name) and first.id == "f"


def module_files():
    return [(name, path) for name, path in MODULES.items() if name.split(".")[0] in
            ("effvid_jax", "data_pipelines", "configs", "benchmarks", "main")]


def test_results_are_written_whole():
    calls = {(name, line, what) for name, path in module_files()
             for line, what in written(path.read_text(encoding="utf-8"))}
    wrong = sorted(f"{MODULES[name].relative_to(ROOT)}:{line}: {what}" for name, line, what in calls
                   if (name, what) not in MAY)
    assert not wrong, ("writers.whole, write_text, write_bytes, write_lines (effvid_jax) or atomic_write "
                       "(data_pipelines) write these whole:\n" + "\n".join(wrong))
    unused = MAY.keys() - {(name, what) for name, _, what in calls}
    assert not unused, f"nothing writes there any more: {unused}"


@pytest.mark.parametrize("text, count", [
    ("open(p, 'w')", 1), ("open(p)", 0), ("open(p, 'rb')", 0), ("open(p, mode='ab')", 1),
    ("open(part, 'w')", 0), ("writers.write_text(p, x)", 0),
    ("plt.savefig(p)", 1), ("np.savez(p, a=1)", 1), ("np.savez(f, a=1)", 0), ("cv2.imwrite(str(p), x)", 1),
    ("path.write_text(x)", 1), ("part.write_text(x)", 0), ("(out / 'a').write_bytes(x)", 1), ("x.copy()", 0),
    ("shutil.copy(a, b)", 1), ("shutil.copy(a, part)", 0), ("json.dump(x, f)", 0), ("json.dump(x, g)", 1)])
def test_what_writes_is_found(text, count):
    assert len(written(text)) == count
