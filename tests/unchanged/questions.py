"""What `record.py` asked the code before the restructuring, and what `test_unchanged.py` asks the code of today.

Both must ask the same: problems, model files, questions and their keys are written here, once. Only the public face is
used, so that this file needs no change when modules move. A store knows its simulator by its source: do not edit the
simulators.
"""

import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import retrodict as rd


HERE = Path(__file__).parent
ARRAYS, TEXTS, STORE = HERE / "expected.npz", HERE / "expected.json", HERE / "store"
STORE_ROWS, STORE_BATCH, STORE_LONGER = 64, 32, 80


# problems -------------------------------------------------------------------------------------------------------------


def count_in_jax(key, rate, noise):
    return {"counts": rate + noise * jax.random.normal(key, (3,))}


def count_in_python(rng, rate, noise):
    if rate > 2.5:
        raise ValueError("the rate is too large")
    return {"counts": rate + noise * rng.normal(size=3)}


def straight(key, theta):
    return {"x": theta + 0.5 * jax.random.normal(key, (2,))}


def one_site(key, mu, theta):
    return {"y": theta + 0.3 * jax.random.normal(key)}


def along_a_curve(key, slope, f):
    return {"x": slope + f[:2] + 0.1 * jax.random.normal(key, (2,))}


RATES = {"rate": dist.LogNormal(0.0, 0.5), "noise": dist.Uniform(0.5, 1.5)}  # one positive, one in an interval
COUNTS = rd.Problem(RATES, count_in_jax)
COUNTS_IN_PYTHON = rd.Problem(RATES, rd.numpy_simulator(count_in_python))
STRAIGHT = rd.Problem({"theta": dist.Normal(jnp.zeros(2), 1.0).to_event(1)}, straight)
GRID = np.linspace(0.0, 1.0, 4)
CURVE = rd.Problem(
    {
        "slope": dist.Normal(0.0, 1.0),
        "f": rd.Function(dist.MultivariateNormal(jnp.zeros(4), jnp.eye(4) + 0.5), GRID, 3),
    },
    along_a_curve,
)


def site_of_mu(mu):
    return dist.Normal(mu, 0.5)


SITES = rd.Problem({"mu": dist.Normal(0.0, 1.0), "site": rd.Plate("site", {"theta": site_of_mu})}, one_site)


# models ---------------------------------------------------------------------------------------------------------------

COUNT = np.array([0.8, 1.4, 1.1], np.float32)
BATCH = np.array([[0.8, 1.4, 1.1], [2.0, 1.2, np.nan]], np.float32)
HOLE = np.array([0.8, np.nan, 1.1], np.float32)
RATE = {"rate": np.array([0.7, 1.1, 1.6], np.float32), "noise": np.array([0.6, 0.9, 1.4], np.float32)}
OUTSIDE = {"rate": np.array([-0.2, 1.0, 1.0]), "noise": np.array([1.0, 1.0, 1.6])}
AUTO = rd.solvers.Auto(error=0.1, candidates=(rd.solvers.Midpoint(), rd.solvers.AdamsBashforth()))
X = np.array([[0.8, -1.0], [-1.5, 0.1]], np.float32)
THETA = {"theta": np.array([[0.5, -0.9], [-1.0, 0.3], [0.0, 0.0]], np.float32)}
Y = np.array([0.4, 0.9, np.nan], np.float32)
POINTS = rd.At(np.array([0.1, 0.5], np.float32), np.array([0.3, -0.2], np.float32))


def counts_given(model):
    """A joint model of `COUNTS`."""
    return {
        "posterior": lambda: model.sample(6, given={"counts": COUNT}, key=1),
        "likelihood": lambda: model.sample(6, given={"rate": 1.2, "noise": 0.7}, key=2),
        "partial": lambda: model.sample(6, given={"counts": HOLE}, of=["rate", "counts"], key=3),
        "prior": lambda: model.sample(6, of=["rate"], key=4),
        "elements": lambda: model.sample(6, of={"counts": np.array([True, False, True])}, key=5),
        "interval": lambda: model.sample(6, given={"rate": rd.Interval(0.8, 1.5), "counts": COUNT}, key=6),
        "batch": lambda: model.sample(6, given=rd.Batch({"counts": BATCH}), of=["rate"], key=7),
        "solver": lambda: model.sample(6, given={"counts": COUNT}, solver=rd.solvers.Heun(8), key=8),
        "tuned": lambda: model.sample(6, given={"counts": COUNT}, solver=AUTO, key=9),
        "strength": lambda: model.sample(6, given={"counts": COUNT}, strength=1.5, correct=False, key=10),
        "log_prob": lambda: model.log_prob(RATE, given={"counts": COUNT}),
        "log_prob of all": lambda: model.log_prob({**RATE, "counts": np.stack([COUNT, COUNT + 0.2, COUNT - 0.2])}),
        "log_prob of pairs": lambda: model.log_prob(
            {"rate": RATE["rate"][:2]}, given=rd.Batch({"counts": BATCH[:, :2].repeat(2, axis=1)[:, :3]})
        ),
        "log_prob outside": lambda: model.log_prob(OUTSIDE, given={"counts": COUNT}),
        "estimate": lambda: model.estimate_log_prob(RATE, given={"counts": COUNT}, key=11)._asdict(),
        "gradient": lambda: model.grad_log_prob(RATE, given={"counts": COUNT}).values,
        "velocity": lambda: model.velocity(RATE, 0.5, given={"counts": COUNT}),
        "score": lambda: model.score(RATE, 0.5, given={"counts": COUNT}),
        "coordinates": lambda: model.to_coordinates({**RATE, "counts": np.stack([COUNT] * 3)}),
        "unlike": lambda: {"p": rd.unlike(model, {"counts": COUNT + 9.0}, references=60, draws=8, key=12).p_value},
    }


def curve_given(model):
    """A joint model of `CURVE`."""
    return {
        "function": lambda: model.sample(6, given={"x": X[0]}, of={"f": rd.At(POINTS.points)}, key=1),
        "function given": lambda: model.sample(6, given={"f": POINTS}, of=["slope", "x"], key=2),
    }


def theta_given_x(model):
    """A posterior of `STRAIGHT`."""
    return {
        "posterior": lambda: model.sample(6, given={"x": X[0]}, key=1),
        "log_prob": lambda: model.log_prob(THETA, given={"x": X[0]}),
    }


def draws_given_x(model):
    """Draws alone, of one observation and of two."""
    return {
        "posterior": lambda: model.sample(6, given={"x": X[0]}, key=1),
        "batch": lambda: model.sample(6, given=rd.Batch({"x": X}), key=2),
    }


def simformer_given(model):
    """A joint model of `COUNTS` that knows what depends on what."""
    return {
        "posterior": lambda: model.sample(6, given={"counts": COUNT}, key=1),
        "partial": lambda: model.sample(6, given={"counts": HOLE}, of=["rate"], key=2),
        "log_prob": lambda: model.log_prob(RATE, given={"counts": COUNT}),
    }


def weighted_given(model):
    """A weighted posterior of `STRAIGHT`."""
    few = {"proposals": 8, "key": 4}
    return {
        **draws_given_x(model),
        "log_prob": lambda: model.log_prob(THETA, given={"x": X[0]}, **few),
        "flow": lambda: model.flow.sample(6, given={"x": X[0]}, key=5),
    }


def sites_given(model):
    """A model of `SITES`, asked about three of them, the last without data, and a new one."""
    return {
        "sites": lambda: model.sample(6, given={"y": Y}, key=1),
        "new site": lambda: model.sample(6, given={"y": Y}, of=["mu", "theta", "y"], sites=4, key=2),
        "one site asked": lambda: model.sample(6, given={"y": Y}, of={"theta": np.array([False, True, False])}, key=3),
        "own given": lambda: model.sample(6, given={"mu": 0.3, "y": Y}, key=4),
        "batch": lambda: model.sample(6, given=rd.Batch({"y": np.stack([Y, Y + 1.0])}), of=["mu"], key=5),
        "log_prob": lambda: model.log_prob({"mu": np.array([0.2, 0.8], np.float32)}, given={"y": Y}),
        "log_prob of sites": lambda: model.log_prob(
            {"mu": np.array([0.2, 0.8]), "theta": np.array([[0.3, 0.8, 0.1], [0.6, 0.9, 1.0]])}, given={"y": Y}
        ),
    }


def density_given(model):
    """A density that was taught the posterior of `STRAIGHT`."""
    return {
        "log_prob": lambda: model.log_prob(THETA, given={"x": X[0]}),
        "log_prob of pairs": lambda: model.log_prob({"theta": THETA["theta"][:2]}, given=rd.Batch({"x": X})),
    }


def one_posterior(model):
    """A joint model of `COUNTS` along another path."""
    return {"posterior": lambda: model.sample(6, given={"counts": COUNT}, key=1)}


def everything_drawn(model):
    """A model of `STRAIGHT` that was trained to be asked nothing."""
    return {
        "drawn": lambda: model.sample(6, key=1),
        "repaint": lambda: rd.repaint(model, 6, given={"x": X[0]}, key=2),
    }


QUESTIONS = {
    "joint": counts_given,
    "functions": curve_given,
    "framed": theta_given_x,
    "simformer": simformer_given,
    "vp": one_posterior,
    "ve": one_posterior,
    "edm": one_posterior,
    "unconditional": everything_drawn,
    "weighted": weighted_given,
    "hierarchical": sites_given,
    "distilled_sampler": draws_given_x,
    "distilled_density": density_given,
}


def model_file(name):
    return HERE / f"{name}.safetensors"


def asked(question):
    """The answer as arrays by name, and how often the calibration of the model spoke against the question."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        answer = question()
    doubts = sum(issubclass(one.category, rd.CalibrationWarning) for one in told)
    answer = answer if isinstance(answer, dict) else {"value": answer}
    return {name: np.asarray(value) for name, value in answer.items()}, doubts


def record_of(model):
    """What a model remembers of its training and its checks, as JSON; seconds are left out."""
    calibration = getattr(model, "calibration", None)
    if calibration is None:
        return None
    checks = [
        {"question": one.question, "ok": bool(one.ok), "p_value": one.p_value, "p_values": dict(one.p_values)}
        for one in calibration.calibrations
    ]
    solvers = [{"solver": type(one.solver).__name__, "evaluations": one.evaluations} for one in calibration.solvers]
    numbers = {name: getattr(calibration, name) for name in ("simulations", "steps", "validation_loss")}
    return json.loads(json.dumps({**numbers, "checks": checks, "solvers": solvers}))


# simulations and training ---------------------------------------------------------------------------------------------

SIMULATIONS = {
    "jax": lambda: rd.simulate(COUNTS, 8, key=0),
    "python": lambda: rd.simulate(COUNTS_IN_PYTHON, 8, key=0),
    "functions": lambda: rd.simulate(CURVE, 4, key=0),
    "sites": lambda: rd.simulate(SITES, 4, sites=3, key=0),
    "one site": lambda: rd.simulate(SITES, 4, key=0),
}
NET = rd.nets.ResMLP(8, 1)


def store_rows(where, n=STORE_ROWS):
    """Rows of a store, which is made or gone on with."""
    return rd.simulate(COUNTS_IN_PYTHON, n, key=3, store=where, batch=STORE_BATCH, progress=False)


def trained():
    """A model after 20 steps, and its history."""
    sims = rd.simulate(COUNTS, 200, key=5)
    start = rd.joint(sims.layout, net=NET, key=6)
    return rd.fit(start, sims, key=7, steps=20, batch_size=32, progress=False)
