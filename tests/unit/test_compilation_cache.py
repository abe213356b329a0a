"""Where compiled programs are kept, and what is thrown away."""

import os
import subprocess
import sys
import zlib

import pytest

from effvid_jax.speed import compilation_cache

PROGRAM = """
import jax, jax.numpy as jnp
from effvid_jax.speed import compilation_cache
compilation_cache.LONG = compilation_cache.SHORT = 0.0
print(compilation_cache.use(print))
jax.jit(lambda x: jnp.sin(x) + 1)(jnp.ones(3)).block_until_ready()
"""


def run(tmp_path, **env) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return subprocess.run([sys.executable, "-c", PROGRAM], check=True, text=True, capture_output=True,
                          env=kept | {"XDG_CACHE_HOME": str(tmp_path)} | env).stdout


def programs(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*-cache"))


def test_programs_are_kept_by_processor_and_half_ones_made_anew(tmp_path):
    told = run(tmp_path)
    folder = tmp_path / "effvid_jax" / "programs" / compilation_cache.processor()
    assert told.startswith(str(folder)) and f"s; kept for the next run in {folder}" in told
    names = programs(folder)
    assert names
    half = folder / names[0]
    whole = half.read_bytes()
    half.write_bytes(whole[:len(whole) // 2])
    (folder / "checked").unlink()  # as if this had been written since
    run(tmp_path)
    assert programs(folder) == names
    zlib.decompress(half.read_bytes())


@pytest.mark.parametrize("env", [
    {"JAX_ENABLE_COMPILATION_CACHE": "false"}, {"JAX_COMPILATION_CACHE_DIR": "X"},
    {"XDG_CACHE_HOME": "/dev/null"}])
def test_what_a_user_says_or_a_read_only_home_is_heeded(tmp_path, env):
    env = {k: v.replace("X", str(tmp_path / "given")) for k, v in env.items()}
    told = run(tmp_path, **env).splitlines()[0]
    assert told == env.get("JAX_COMPILATION_CACHE_DIR", "")
    assert not (tmp_path / "effvid_jax").exists()


def test_the_oldest_go_beyond_the_limit(tmp_path):
    here = tmp_path / "this"
    for folder, name, age in (("this", "new", 10), ("this", "old", 30), ("other", "older", 40)):
        path = tmp_path / folder / f"{name}-cache"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(os.urandom(1000)))
        os.utime(path, (os.stat(path).st_mtime - age,) * 2)
    compilation_cache.tidy(str(tmp_path), str(here), limit=2500)
    assert programs(tmp_path) == ["this/new-cache", "this/old-cache"]
    compilation_cache.tidy(str(tmp_path), str(here), limit=0)
    assert programs(tmp_path) == []
