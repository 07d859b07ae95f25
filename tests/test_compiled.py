"""Compiled programs outlive the process, where the user has not settled that otherwise; importing changes nothing."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retrodict._runtime import compile_cache


EFFORT = "xla_backend_optimization_level"
IMPORT = """
import json, jax
before = dict(jax.config.values)
import retrodict as rd
for name in dir(rd):
    getattr(rd, name)
same = {k: str(v) for k, v in before.items()} == {k: str(v) for k, v in jax.config.values.items()}
print(json.dumps([same, jax.config.jax_compilation_cache_dir]))
"""
DOORS = {
    "simulate": (
        "rd.simulate(rd.Problem({'a': dist.Normal()}, lambda key, a: {'y': a + jax.random.normal(key)}), 2, key=0)"
    ),
    "joint": "rd.joint(rd.Layout((rd.Variable('a'), rd.Variable('y', kind='data'))), net=rd.nets.ResMLP(4, 1))",
    "keep_compiled": "assert rd.keep_compiled() == rd.keep_compiled() is not None",
}
RUN = """
import json, warnings
warnings.simplefilter("error")
import jax, numpyro.distributions as dist, retrodict as rd
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
float(jax.jit(lambda x: x + 1.0)(0.0))  # a compilation before the folder is known
DOOR
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
total = float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.eye(7)))
found = [events.count(f"/jax/compilation_cache/cache_{what}") for what in ("hits", "misses")]
print(json.dumps([total, found, jax.config.jax_compilation_cache_dir]))
"""


def run(home, door="simulate", **settings):
    """The result of a small program in a fresh process, hits and misses of the cache, and where it lies."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    env = {**kept, "HOME": str(home), "JAX_PLATFORMS": "cpu", **settings}
    code = IMPORT if door is None else RUN.replace("DOOR", DOORS[door])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout)


def test_importing_changes_no_setting_of_jax(tmp_path):
    assert run(tmp_path, None) == [True, None]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("door", DOORS)
def test_a_second_process_compiles_nothing(tmp_path, door):
    total, (hits, misses), folder = run(tmp_path, door)
    assert total == 7.0
    assert hits == 0
    assert misses > 0
    assert folder.startswith(str(tmp_path))
    assert os.stat(folder).st_mode & 0o077 == 0, "others may read or write it"
    again, (hits, other), same = run(tmp_path, door)
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


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """JAX's settings, put back at the end, and a home of our own."""
    names = ("jax_compilation_cache_dir", *compile_cache.LIMITS)
    before = {name: jax.config.values[name] for name in names}
    for name in names:
        jax.config.update(name, compile_cache.LIMITS.get(name, (None,))[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield lambda name: jax.config.values[name]
    for name, value in before.items():
        jax.config.update(name, value)


def test_limits_of_the_user_stay(settings):
    jax.config.update("jax_compilation_cache_max_size", 10**6)
    folder = compile_cache.keep_compiled()
    assert folder is not None
    assert compile_cache.keep_compiled() == folder
    assert settings("jax_compilation_cache_dir") == str(folder)
    assert settings("jax_compilation_cache_max_size") == 10**6
    assert settings("jax_persistent_cache_min_compile_time_secs") == 0.3


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_is_not_used(settings, mode):
    folder = compile_cache.keep_compiled()
    jax.config.update("jax_compilation_cache_dir", None)
    folder.chmod(mode)
    assert compile_cache.keep_compiled() is None
    assert settings("jax_compilation_cache_dir") is None


def test_a_folder_that_another_user_owns_is_not_used(settings, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert compile_cache.keep_compiled() is None


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "file").touch()
    total, found, folder = run(tmp_path / "file")
    assert (total, found, folder) == (7.0, [0, 0], None)


def test_what_runs_seldom_is_compiled_with_little_effort_unless_the_user_has_settled_it(monkeypatch):
    for flags, expected in (("", {"compiler_options": {EFFORT: 0}}), (f"--{EFFORT}=2", {})):
        monkeypatch.setenv("XLA_FLAGS", flags)
        how = compile_cache.for_few_runs()
        assert how == (expected if jax.default_backend() == "cpu" else {})
        np.testing.assert_allclose(jax.jit(lambda x: jnp.sum(x @ x + 1.0), **how)(jnp.eye(3)), 12.0)
