"""Small problems that several tests share."""

import atexit
import dataclasses
import gc
import os
import re
import shutil
import tempfile
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")
# one run compiles a program once: its processes, and those that tests start, share a folder that goes with the run
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    FOLDER, OWNER = tempfile.mkdtemp(prefix="retrodict-compiled-"), os.getpid()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = FOLDER
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # a forked child ends, too, and leaves the folder
    atexit.register(lambda: shutil.rmtree(FOLDER, ignore_errors=True) if os.getpid() == OWNER else None)

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout, Variable


MAPS = Path("/proc/self/maps")
MANY = 25_000  # of the 65,530 pieces of memory that a process may map: every compiled program holds some


def pytest_configure(config):
    # fixtures are untrained, or trained for a few steps; tests of the warning ask for it
    config.addinivalue_line("filterwarnings", "ignore::retrodict.UntrainedWarning")
    config.addinivalue_line("filterwarnings", "ignore:too little was learned")
    config.addinivalue_line("filterwarnings", "ignore:few simulations")
    # a process may meet a program that another is writing at that moment, or find the folder gone: it compiles its own
    for what in ("reading", "writing"):
        config.addinivalue_line("filterwarnings", f"ignore:Error {what} persistent compilation cache entry")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Compiled programs are kept as long as a process lives; one that has too many of them dies at the next."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
        gc.collect()


def blocks(page, language="python"):
    """The fenced blocks of a page, each behind as many empty lines as stand before it: errors name the true line."""
    text = page.read_text()
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield "\n" * text.count("\n", 0, match.start(1)) + match[1]


def contents(where):
    """All that a store holds of every row but how long it took."""
    store = rd.open_store(where)
    every, arrays = np.arange(store.rows), {"codes": store.codes, "errors": store.failed["error"]}
    return arrays | {name: store.read(name, every) for name in (*store.layout.names, "seed")}


def assert_same(one, two):
    """Two stores hold the same rows."""
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)


LAYOUT = Layout((Variable("a"), Variable("b", (2,)), Variable("x", (4,), kind="data")))


def normals(n, seed, *, shift=0.0):
    """Simulations of `LAYOUT` in which every element is standard normal."""
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=n) + shift, "b": rng.normal(size=(n, 2)), "x": rng.normal(size=(n, 4))}


@pytest.fixture(scope="session")
def normal():
    """An untrained model: exactly standard normal in every element, right for `normals`, and quick."""
    return rd.joint(LAYOUT, net=rd.nets.ResMLP(8, 1))


@pytest.fixture(scope="session")
def silent(sims):
    """Untrained, but scaled to the simulations: independent standard normal tokens."""
    rows = np.concatenate([sims[name].reshape(sims.kept, -1) for name in sims.layout.names], axis=1)
    model = rd.joint(sims.layout, net=rd.nets.ResMLP(16, 1))
    return dataclasses.replace(model, scaling=Scaling.fit(sims.layout, rows))


def simulate_counts(key, rate, noise):
    return {"counts": rate + noise * jax.random.normal(key, (3,))}


@pytest.fixture(scope="session")
def problem():
    """A rate, a noise, three counts."""
    return rd.Problem(
        prior={"rate": dist.LogNormal(0.0, 0.5), "noise": dist.Uniform(0.5, 1.5)}, simulator=simulate_counts
    )


@pytest.fixture(scope="session")
def sims(problem):
    return rd.simulate(problem, 500, key=0)


@pytest.fixture(scope="session")
def model(sims):
    """A model after a handful of steps: enough for every test that is not about how good it is."""
    return rd.fit(
        rd.joint(sims.layout, net=rd.nets.ResMLP(16, 1)), sims, key=1, steps=20, batch_size=32, progress=False
    )[0]


@pytest.fixture
def x64():
    """Double precision, for tests of mathematics."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


class Gaussian:
    """A joint Gaussian of tokens with everything known in closed form, by the theory of conditional Gaussians."""

    def __init__(self, d, seed):
        rng = np.random.default_rng(seed)
        factor = rng.normal(size=(d, d))
        scales = np.exp(rng.normal(0.0, 0.5, d))
        cov = factor @ factor.T + 0.2 * d * np.eye(d)
        spread = scales / np.sqrt(np.diag(cov))
        self.cov = cov * spread[:, None] * spread
        self.mean = rng.normal(size=d)

    def draw(self, n, seed):
        return np.random.default_rng(seed).multivariate_normal(self.mean, self.cov, size=n).astype(np.float32)

    def condition(self, latent, given, values):
        """Mean and covariance of tokens `latent` given tokens `given` at `values`; all others integrated out."""
        cross = self.cov[np.ix_(latent, given)]
        gain = np.linalg.solve(self.cov[np.ix_(given, given)], cross.T).T if len(given) else np.zeros((len(latent), 0))
        mean = self.mean[latent] + gain @ (values - self.mean[given])
        return mean, self.cov[np.ix_(latent, latent)] - gain @ cross.T


@pytest.fixture(scope="session")
def gaussian_layout():
    from retrodict.variables import Layout, Variable

    return Layout((Variable("a"), Variable("b", (2,)), Variable("c", (3,), kind="data")))


def exact_guess(path, x_t, t, mean, std):
    """E[x1 | x_t] and E[x0 | x_t] for x1 ~ N(mean, std^2), x0 ~ N(0, 1)."""
    alpha, sigma = path.schedule(t)
    gain = alpha * std**2 / ((alpha * std) ** 2 + sigma**2)
    data = mean + gain * (x_t - alpha * mean)
    return rd.paths.Denoised(data, (x_t - alpha * data) / jnp.where(sigma == 0, 1.0, sigma))


@pytest.fixture
def killed_early(monkeypatch):
    """A function that calls another, and ends it after its third checkpoint."""
    from retrodict.training import _checkpoint

    def call(train):
        write, count = _checkpoint.Checkpoint.write, iter(range(100))

        def then_stops(self, state):
            write(self, state)
            if next(count) == 2:
                raise MemoryError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(_checkpoint.Checkpoint, "write", then_stops)
            with pytest.raises(MemoryError):
                train()

    return call
