"""Compiled programs outlive the process, where the user has not settled that otherwise."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retrodict._runtime import compile_cache as _compiled


EFFORT = "xla_backend_optimization_level"
RUN = """
import json, warnings
warnings.simplefilter("error")
import retrodict, jax
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
retrodict._runtime.compile_cache.jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
total = float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.eye(7)))
found = [events.count(f"/jax/compilation_cache/cache_{what}") for what in ("hits", "misses")]
print(json.dumps([total, found, jax.config.jax_compilation_cache_dir]))
"""


def run(home, **settings):
    """The result of a small program in a fresh process, hits and misses of the cache, and where it lies."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    env = {**kept, "HOME": str(home), "JAX_PLATFORMS": "cpu", **settings}
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout)


def test_a_second_process_compiles_nothing(tmp_path):
    total, (hits, misses), folder = run(tmp_path)
    assert total == 7.0
    assert hits == 0
    assert misses > 0
    assert folder.startswith(str(tmp_path))
    assert os.stat(folder).st_mode & 0o077 == 0, "others may read or write it"
    again, (hits, other), same = run(tmp_path)
    assert (again, same) == (total, folder)
    assert (hits, other) == (misses, 0)


@pytest.mark.parametrize(
    "settings", [{"JAX_COMPILATION_CACHE_DIR": "{}/mine"}, {"JAX_ENABLE_COMPILATION_CACHE": "false"}]
)
def test_what_the_user_has_settled_stays(tmp_path, settings):
    settings = {name: value.format(tmp_path) for name, value in settings.items()}
    total, _, folder = run(tmp_path, **settings)
    assert total == 7.0
    assert folder == settings.get("JAX_COMPILATION_CACHE_DIR")
    assert not list(tmp_path.rglob("retrodict"))


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "file").touch()
    total, found, folder = run(tmp_path / "file")
    assert (total, found, folder) == (7.0, [0, 0], None)


def test_what_runs_seldom_is_compiled_with_little_effort_unless_the_user_has_settled_it(monkeypatch):
    for flags, expected in (("", {"compiler_options": {EFFORT: 0}}), (f"--{EFFORT}=2", {})):
        monkeypatch.setenv("XLA_FLAGS", flags)
        how = _compiled.for_few_runs()
        assert how == (expected if jax.default_backend() == "cpu" else {})
        np.testing.assert_allclose(jax.jit(lambda x: jnp.sum(x @ x + 1.0), **how)(jnp.eye(3)), 12.0)
